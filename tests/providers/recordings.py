"""What the codecs' tests share: recorded traffic beside the project, streams cut into pieces."""

from __future__ import annotations

import gzip
import random
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import strategies as st

from llmctl.protocols import Codec
from llmctl.providers.registry import codec
from llmctl.types import Request, StreamChunk, Target
from tests.conformance.codec_dialects import DIALECTS
from tests.conformance.codec_samples import events_of
from tests.support import request

CODECS = [codec(dialect.name, dialect.api) for dialect in DIALECTS]
"""One codec of each wire format."""

RECORDED = Path(__file__).parents[3] / "shared" / "recorded"

needs_recordings = pytest.mark.skipif(
    not RECORDED.exists(), reason="the recorded traffic is not beside the project"
)


@lru_cache
def recordings(provider: str, ending: str = "") -> list[Any]:
    """The recordings of one provider whose path has `ending` before its query."""
    path = RECORDED / f"{provider}.jsonl.gz"
    if not path.exists():
        return []
    with gzip.open(path) as lines:
        found = [orjson.loads(line) for line in lines]
    return [one for one in found if one["path"].partition("?")[0].endswith(ending)]


def target(provider: str, model: str) -> Target:
    """A target of the provider, on this machine."""
    return Target("test", provider, provider, "http://127.0.0.1:1/v1", model)


def asked(provider: str, model: str, **changes: Any) -> Request:
    """A request to the provider."""
    return request(**{"target": target(provider, model), **changes})


def streamed(codec: Codec, pieces: list[bytes]) -> StreamChunk:
    """What a stream that arrives in these pieces says in all."""
    reader = codec.reader()
    found = [reader.piece(event.name, event.data) for event in events_of(codec, pieces)]
    found.append(reader.end())
    last: dict[str, Any] = {}
    for name in ("finish", "model", "usage"):
        last[name] = next((v for p in reversed(found) if (v := getattr(p, name))), None)
    text = "".join(piece.text for piece in found)
    return StreamChunk(text=text, done=any(piece.done for piece in found), **last)


def cuts(body: bytes, seed: int) -> list[bytes]:
    """The body cut at random places, from single bytes to large pieces."""
    dice = random.Random(seed)
    at, made = 0, []
    while at < len(body):
        size = dice.choice((1, 2, 7, 64, 1500, 20_000))
        made.append(body[at : at + size])
        at += size
    return made


def whole_stream(codec: Codec, body: str, seeds: int = 5) -> StreamChunk:
    """What a complete stream says in all, which it says however it is cut."""
    data = body.encode()
    whole = streamed(codec, [data])
    assert whole.done
    for seed in range(seeds):
        assert streamed(codec, cuts(data, seed)) == whole
    return whole


def events(body: str) -> Iterator[Any]:
    """The JSON of each event, read plainly."""
    for line in body.splitlines():
        if line.startswith("data:"):
            yield orjson.loads(line.removeprefix("data:"))


def any_json(words: str, *more: str) -> st.SearchStrategy[Any]:
    """Any JSON, with objects and texts that use these words."""
    names = (*words.split(), *more)
    leaves = (
        st.none()
        | st.booleans()
        | st.integers(-(2**60), 2**60)
        | st.floats(allow_nan=False, allow_infinity=False)
        | st.text(max_size=8)
        | st.sampled_from(names)
    )
    return st.recursive(
        leaves,
        lambda inner: (
            st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(names), inner, max_size=5)
        ),
        max_leaves=30,
    )
