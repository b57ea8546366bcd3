"""What the tests of the batch's files share: a profile, an input file, a call that has ended."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from llmctl.config.settings import Profile
from llmctl.errors import CallError
from llmctl.request import Question, compose
from llmctl.types import Answer, CallRecord, Message, RawRequest, Usage

Ended = Callable[..., CallRecord]
Put = Callable[[str, bytes], str]


@pytest.fixture
def profile() -> Profile:
    """A profile with settings of its own."""
    return Profile(
        name="fast",
        provider="openai",
        adapter="openai",
        base_url="https://api.openai.com/v1",
        model="gpt-4o",
        max_tokens=64,
        temperature=0,
        params={"top_p": 0.5, "a": {"z": 1, "b": [1, None]}},
    )


@pytest.fixture
def put(tmp_path: Path) -> Put:
    """Write a file in the test's folder; gives its path."""

    def write(name: str, content: bytes) -> str:
        path = tmp_path / name
        path.write_bytes(content)
        return str(path)

    return write


@pytest.fixture
def ended(profile: Profile) -> Ended:
    """A call that has ended: with an answer, or with the error that is given."""

    def make(
        id: str = "a",
        index: int = 0,
        prompt: str = "Hi",
        *,
        error: CallError | None = None,
        cost: Decimal | None = Decimal("0.00021"),
        raw: RawRequest | None = None,
        **fields: Any,
    ) -> CallRecord:
        question = Question((Message("user", prompt),), raw=raw, tags={"team": "x"})
        request = replace(compose(question, profile, id=id, index=index), call_id="01J")
        usage = Usage(312, 48, 5, 6, 7)
        answer = Answer(
            **{
                "text": f"answer to {prompt}",
                "usage": usage,
                "target": request.target,
                "finish": "stop",
                "model": "gpt-5-mini-2026-05-01",
                "cache": "miss",
                "latency": 0.9124,
                **fields,
            }
        )
        return CallRecord(request, error or answer, usage, cost, None, 1.0, 2.0, None)

    return make
