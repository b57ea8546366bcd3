"""T22: budgets against hostile parameters.

Rows ask for more than their `max_tokens` says: in limits that are floats, texts or below 0, in
several limits, answers (`n`, `best_of`…), nested configurations, documents, predictions and fields
that nobody knows, as `options` and as OpenAI's own lines. The provider reads every text of the body
that it is sent, and uses up the largest limit in it for as many answers as it can find. What it
bills is never above a call's hold, and of no run above its budget.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from decimal import Decimal
from random import Random
from typing import Any

from tests.conformance.greedy import OWN, WINDOW, most_billed, some_options
from tests.simulator.call import Call
from tests.simulator.fault import Fault
from tests.simulator.http1 import Answer
from tests.simulator.reply import Reply
from tests.simulator.wires.registry import BASES
from tests.simulator.wires.wire import Wire
from tests.torture.judge import READ, WROTE, Size, arena

WIRES = tuple(name for name in OWN if name != "openrouter")  # which says its own price


@dataclass(frozen=True, kw_only=True)
class _Named(Fault):
    """A whole answer that is named as OpenAI names them: the judge goes by the name."""

    index: int

    def answer(self, answer: Answer, wire: Wire) -> Answer:  # noqa: ARG002 - the seam's
        named = ("x-request-id", f"req_{self.index:08d}")
        return replace(answer, headers=(*answer.headers, named))


def run(size: Size) -> str:
    """Every provider's format; one line."""
    rows = size.of(36, 600)
    cap = Decimal(rows) / 120  # dollars: some rows find no room
    found = [_one(wire, rows, cap, size.seed) for wire in WIRES]
    sent, refused, billed = map(sum, zip(*found, strict=True))
    return (
        f"T22 budgets of ${cap:.2f}, hostile parameters, {len(WIRES)} formats: {sent:,} calls "
        f"billed for ${billed}, none above its hold, no budget above its limit; {refused:,} rows "
        "refused or without room, unsent"
    )


def _one(wire: str, rows: int, cap: Decimal, seed: int) -> tuple[int, int, Decimal]:
    """Calls billed, rows refused, and dollars."""
    provider, _, api = wire.partition(" ")
    with arena(rows) as world:
        world.configure(
            f"provider: {provider}\nbase_url: {world.sim.origin}{BASES[provider]}\n"
            f"params: {{}}\ncontext: {WINDOW}\n" + (f"api: {api}\n" if api else "")
        )
        lines = [
            json.dumps(_row(name, text, Random(f"{seed} {wire} {name}")))
            for name, text in world.prompts.items()
        ]
        world.input.write_text("\n".join(lines) + "\n", encoding="utf-8")
        unbounded: list[object] = []
        world.sim.reply = _greedy(provider, unbounded)
        if provider not in ("openai", "groq"):
            world.sim.fault = lambda call: _Named(index=call.index)
        done = world.run([*world.batch[:-1], "--budget", str(cap)])
        assert done.returncode in (1, 3), done.stderr
        verdict = world.judge()
        assert not unbounded, f"sent under a budget, and nothing bounds it: {unbounded[:3]}"
        assert "more than the worst case" not in done.stderr, done.stderr
        assert verdict.rebilled == verdict.doubtful == 0
        bill = world.sim.billed
        billed = Decimal(bill.input_tokens * READ + bill.output_tokens * WROTE).scaleb(-6)
        assert billed <= cap, billed
        assert verdict.billed > rows // 20, f"{verdict.billed} calls say nothing"
        return verdict.billed, verdict.failed, billed


def _row(name: str, text: str, dice: Random) -> dict[str, Any]:
    options = some_options(dice)
    limit = {"max_tokens": dice.randint(1, 900)} if dice.random() < 0.7 else {}
    if dice.random() < 0.5:
        return {"id": name, "prompt": text, "options": options, **limit}
    body = {"model": "m", "messages": [{"role": "user", "content": text}], **limit, **options}
    url = "/v1/chat/completions"
    return {"custom_id": name, "method": "POST", "url": url, "body": body}


def _greedy(provider: str, unbounded: list[object]) -> Callable[[Call], Reply]:
    def reply(call: Call) -> Reply:
        wire = "openai responses" if call.path.endswith("/responses") else provider
        usage = most_billed(wire, call.body or {})
        if usage is None:
            unbounded.append(call.body)
        return Reply(f"echo: {call.ask.last if call.ask else ''}", usage=usage)

    return reply
