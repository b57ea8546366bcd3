"""What driver, nodes and governor send each other comes out as it went in."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import pytest
from msgspec import Raw
from msgspec.structs import replace

from llmctl import errors
from llmctl.cluster.governor import GovernorClient
from llmctl.cluster.messages import (
    BudgetRule,
    Ended,
    Failure,
    Question,
    Reply,
    decode,
    encode,
)
from llmctl.config.settings import Profile
from llmctl.errors import CallError, CoordinatorError, Interrupted, LlmctlError
from llmctl.protocols import Lease
from llmctl.types import CallRecord, Masked, Usage
from tests.configuring import World
from tests.support import done, request, response

_CONFIGS = sorted((Path(__file__).parents[2] / "configs").glob("[!c]*.yaml"))
_ROUTED = """
profiles:
  a: &one
    provider: openai
    base_url: http://127.0.0.1:1/v1
    model: m
    key: {env: A_KEY}
    cache: {ttl: 7d}
    degrade: [{stale: 30d}]
    fallback: [b]
    on_overflow: {summarise: b}
    route: {cheap: b, rules: [{when: {matches: "^x"}, to: b}], cascade: {check: [refusal]}}
    limits: {models: {"gpt-*": {rpm: 3}}}
  b: {provider: openai, base_url: "http://127.0.0.1:1/v1", model: m, key: {command: [pass, show]}}
budgets:
  - {name: all, limit_usd: 2.50, period: month, warn_at: [80%], match: {tags: {team: x}}}
"""


def _kinds(kind: type[LlmctlError]) -> Iterator[type[LlmctlError]]:
    yield kind
    for each in kind.__subclasses__():
        if each.__module__ == errors.__name__:
            yield from _kinds(each)


@pytest.mark.parametrize("kind", sorted({*_kinds(LlmctlError)}, key=str))
def test_an_error_travels(kind: type[LlmctlError]) -> None:
    """Its class, message, exit code and all that it knows of the call, its cause, too."""
    cause = errors.ServerFailed("down", http_status=503)
    made: LlmctlError = kind.__new__(kind, "what happened")
    if isinstance(made, CallError):
        made.__dict__.update(CallError("", sent=False, cause=cause).__dict__)
        made.usage, made.earlier, made.uncertain = Usage(1, 2), ((Usage(3), Decimal("0.5")),), 2
        made.exit_code = 2
    found = decode(encode(Failure.of(made)), Failure).error()
    assert type(found) is kind
    assert (found.message, found.exit_code) == ("what happened", made.exit_code)
    if isinstance(made, CallError):
        assert isinstance(found, CallError)
        assert (found.usage, found.earlier, found.uncertain) == (made.usage, made.earlier, 2)
        assert (found.sent, found.row_type) == (False, "server")
        assert Failure.of(found) == Failure.of(made)


def test_profiles_and_budgets_travel(world: World) -> None:
    """All knobs of a profile, those of the sample files and of a routed one, and of budgets."""
    path = world.root / "routed.yaml"
    path.write_text(_ROUTED, encoding="utf-8")
    for file in (*_CONFIGS, path):
        settings = world.load(config=file)
        for profile in settings.profiles.values():
            assert decode(encode(profile), Profile) == profile, (file, profile.name)
        for budget in settings.budgets:
            assert decode(encode(BudgetRule.of(budget)), BudgetRule).budget == budget
    assert settings.profiles["a"].summariser is not None
    assert settings.budgets[0].match == {"tag:team": "x"}


def test_a_record_travels_without_what_the_driver_knows() -> None:
    """The driver's row takes the place of the one that it sent; a request that a fallback was asked
    keeps what only the driver has of the row."""
    row = request(kept={"a": 1}, masked=Masked({"email": 1}, {"[EMAIL_1]": "ann@example.org"}))
    record = CallRecord(row, response(), Usage(3, 2), Decimal("0.1"), None, 5.0, 1.0, None)
    found = decode(encode(Ended.of(7, record, row, 5.0, None)), Ended)
    assert found.request is None
    assert found.record(row) == record
    other = replace(row, call_id="call-2", kept=None, masked=None)
    failed = replace(record, request=other, result=Interrupted(errors.CallTimeout("late")))
    found = decode(encode(Ended.of(8, failed, row, 6.0, (Decimal("0.2"), 2))), Ended)
    made = found.record(row)
    assert made.asked == row
    assert (made.request.call_id, made.request.kept, made.request.masked) == (
        "call-2",
        row.kept,
        row.masked,
    )
    assert isinstance(made.result, Interrupted)
    assert found.held == (Decimal("0.2"), 2)


def test_questions_share_a_call() -> None:
    """What is asked while calls are on their way goes together; each gets its own reply, and one
    that fails fails alone, as what ends the run."""
    lots: list[list[str]] = []

    async def call(lot: bytes) -> bytes:
        await asyncio.sleep(0)
        asked = decode(lot, tuple[Question, ...])
        lots.append([one.verb for one in asked])
        values = [decode(one.arguments, tuple[str, int]) for one in asked]
        return encode(
            [
                Reply(Raw(encode(number)))
                if number != 50
                else Reply(failure=Failure.of(errors.DiskError("full")))
                for _, number in values
            ]
        )

    async def ask() -> list[int | BaseException]:
        client = GovernorClient(call)
        return await asyncio.gather(
            *(client.used("x", number) for number in range(100)), return_exceptions=True
        )

    found = done(ask)
    assert [n for n in found if isinstance(n, int)] == [n for n in range(100) if n != 50]
    assert isinstance(found[50], CoordinatorError)
    assert len(lots) <= 5


def test_nothing_is_sent_without_the_governor() -> None:
    """A governor that cannot be asked is an error that ends the run, not a limit of one's own."""

    async def call(_: bytes) -> bytes:
        raise ConnectionError("gone")

    async def ask() -> None:
        await GovernorClient(call).lease(Lease("a"))

    with pytest.raises(CoordinatorError, match="cannot be asked"):
        done(ask)
