"""Answers held to their schema."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from decimal import Decimal

import pytest

from llmctl.clock import SystemClock
from llmctl.errors import ContentFiltered, SchemaMismatch
from llmctl.guards import schema
from llmctl.guards.accounting import accounting
from llmctl.guards.cache import Cache
from llmctl.protocols import Emit, Handler
from llmctl.schemas import LIMIT, Checker
from llmctl.types import Answer, CallRecord, Request, Usage
from tests.guards.fakes import FakeCache, FakeCosts
from tests.support import Scripted, request, response

SCHEMA = {"type": "object", "required": ["city"]}
ASKED = request(schema=SCHEMA)
USAGE = Usage(input=30, output=20)
CHECKER = Checker()


@pytest.fixture(scope="module", autouse=True)
def _closed() -> Iterator[None]:
    yield
    asyncio.run(CHECKER.close())


def schema_validation(inner: Handler) -> Handler:
    """The guard."""
    return schema.schema_validation(inner, CHECKER)


def test_an_answer_that_fits_is_parsed() -> None:
    """The value stands beside the text; without a schema nothing is parsed."""
    inner = Scripted(response('{"city": 1}'))
    assert asyncio.run(schema_validation(inner)(ASKED, None)).parsed == {"city": 1}
    assert asyncio.run(schema_validation(inner)(request(), None)).parsed is None


@pytest.mark.parametrize(
    "text",
    ['```json\n{"city": 1}\n```', ' ```\n{"city": 1}```\n', '~~~JSON\r\n{"city": 1}\r\n~~~',
     '```{"city": 1}```'],
)  # fmt: skip
def test_one_fence_is_taken_off(text: str) -> None:
    """Case 9: JSON that is all of one Markdown fence fits, and the text is the JSON: `jq` can read
    what `ask` prints; two fences, or words around one, are no JSON."""
    answer = asyncio.run(schema_validation(Scripted(response(text)))(ASKED, None))
    assert (answer.parsed, answer.text) == ({"city": 1}, '{"city": 1}')
    for wrong in (f"{text}\n{text}", f"Here: {text}", f"```\n{text}\n```"):
        with pytest.raises(SchemaMismatch):
            asyncio.run(schema_validation(Scripted(response(wrong)))(ASKED, None))


def test_a_tool_call_is_not_held_to_the_schema() -> None:
    """Case 7: it is not the answer yet."""
    call = {"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    answer = response("", finish="tool_calls", tool_calls=(call,))
    assert asyncio.run(schema_validation(Scripted(answer))(ASKED, None)).parsed is None


def test_an_answer_that_does_not_fit_was_billed() -> None:
    """The error carries what the answer cost, and how often was tried; it is not retryable."""
    answer = response("{}", usage=USAGE, reported_cost=Decimal(1), attempts=2, uncertain=1)
    with pytest.raises(SchemaMismatch, match="city") as caught:
        asyncio.run(schema_validation(Scripted(answer))(ASKED, None))
    error = caught.value
    assert (error.row_type, error.exit_code, error.retryable) == ("schema", 1, False)
    assert (error.usage, error.cost) == (USAGE, Decimal(1))
    assert (error.attempts, error.uncertain) == (2, 1)


def test_a_cut_off_answer_says_so() -> None:
    """The way out of a torn answer is a higher limit, that of a filtered one another prompt."""
    with pytest.raises(SchemaMismatch, match="max-tokens"):
        asyncio.run(schema_validation(Scripted(response('{"ci', finish="length")))(ASKED, None))
    with pytest.raises(ContentFiltered):
        asyncio.run(
            schema_validation(Scripted(response('{"ci', finish="content_filter")))(ASKED, None)
        )


def test_only_answers_that_fit_are_kept() -> None:
    """A wrong answer is asked for again, a right one is given again with its value."""
    inner = Scripted(response("{}"), response('{"city": 1}'))
    cache = Cache(schema_validation(inner), FakeCache(), SystemClock(), lambda _: None)

    async def three_times() -> None:
        with pytest.raises(SchemaMismatch):
            await cache(ASKED, None)
        assert (await cache(ASKED, None)).cache == "miss"
        kept = await cache(ASKED, None)
        assert (kept.cache, kept.parsed) == ("hit", {"city": 1})

    asyncio.run(three_times())
    assert len(inner.calls) == 2


def test_the_bill_is_paid_once() -> None:
    """Of two identical calls in flight one is billed for the answer that does not fit."""
    outcomes: list[CallRecord] = []

    async def note(outcome: CallRecord) -> None:
        outcomes.append(outcome)

    class Slow(Scripted):
        async def __call__(self, request: Request, emit: Emit | None) -> Answer:
            await asyncio.sleep(0.01)
            return await super().__call__(request, emit)

    clock = SystemClock()
    cache = Cache(
        schema_validation(Slow(response("{}", usage=USAGE))), FakeCache(), clock, lambda _: None
    )
    observe = accounting(cache, note, clock, FakeCosts(clock))

    async def both() -> None:
        await asyncio.gather(observe(ASKED, None), observe(ASKED, None), return_exceptions=True)

    asyncio.run(both())
    assert sorted(outcome.cost or 0 for outcome in outcomes) == [0, 20]
    assert sorted(outcome.usage.input for outcome in outcomes) == [0, 30]


CHOICES = {f"a{n}": {"anyOf": [{"$ref": f"#/$defs/a{n + 1}"}] * 2} for n in range(40)}
ENDLESS = {
    "pattern": ({"pattern": "^(a+)+$"}, '"' + "a" * 60 + 'b"'),
    "property names": ({"patternProperties": {"^(a|a)+$": {}}}, '{"' + "a" * 60 + 'b":1}'),
    "uniqueItems": (
        {"uniqueItems": True},
        "[" + ",".join(f'{{"a":[{{"b":{n}}}]}}' for n in range(30_000)) + "]",
    ),
    "choices": ({"$ref": "#/$defs/a0", "$defs": {**CHOICES, "a40": {"type": "null"}}}, "1"),
}


@pytest.mark.parametrize("name", ENDLESS)
def test_a_check_without_end(name: str) -> None:
    """Case 56: an answer whose check takes too long is a failure of its row, paid for; the event
    loop goes on meanwhile, and the next answer is checked."""
    endless, text = ENDLESS[name]
    slowest = 0.0

    async def tick() -> None:
        nonlocal slowest
        while True:
            before = time.monotonic()
            await asyncio.sleep(0.01)
            slowest = max(slowest, time.monotonic() - before)

    async def both() -> SchemaMismatch:
        ticking = asyncio.create_task(tick())
        guard = schema_validation(Scripted(response(text, usage=USAGE)))
        with pytest.raises(SchemaMismatch, match="took longer") as caught:
            await guard(request(schema=endless), None)
        ticking.cancel()
        inner = Scripted(response('{"city": 1}'))
        assert (await schema_validation(inner)(ASKED, None)).parsed == {"city": 1}
        return caught.value

    assert asyncio.run(both()).usage == USAGE
    assert slowest < LIMIT / 2


def test_an_answer_too_deep_for_a_row() -> None:
    """Case 54: what is nested too deeply to be written into an output row does not fit."""
    deep = "[" * 300 + "]" * 300
    with pytest.raises(SchemaMismatch, match="too deeply"):
        asyncio.run(schema_validation(Scripted(response(deep)))(request(schema={}), None))
