"""T20: what is a miss.

A question is asked, then again with one thing changed: every parameter, the model, the system
prompt, the origin. Each is sent; asked once more, none is. Errors, truncated and filtered answers
are sent anew every time. With the real command.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from tests.simulator.errors import server_error, status
from tests.simulator.fault import Fault
from tests.simulator.faults import Ending, Malformed, Refusal
from tests.simulator.scripts import first_of, for_prompt
from tests.simulator.server import Simulator
from tests.torture.judge import Arena, Size, arena

SCHEMA = {
    "type": "object",
    "properties": {"a": {"type": "string"}},
    "required": ["a"],
    "additionalProperties": False,
}
BASE: dict[str, Any] = {
    "prompt": "hello",
    "system": "be brief",
    "model": "m",
    "max_tokens": 50,
    "temperature": 0.5,
    "options": {"seed": 1, "top_p": 0.9, "stop": ["x"], "tools": []},
}
_MORE: tuple[dict[str, Any], ...] = (
    *({"seed": 2}, {"top_p": 0.91}, {"stop": ["y"]}, {"stop": []}, {"logprobs": True}),
    *({"presence_penalty": 0.1}, {"frequency_penalty": 0.1}, {"n": 2}, {"logit_bias": {"1": 2}}),
    *({"user": "u"}, {"tools": [{"type": "function", "function": {"name": "f"}}]}),
)
CHANGES: tuple[dict[str, Any], ...] = (
    *({"prompt": text} for text in ("hello ", "Hello", "hello\n", "he\u200bllo")),
    *({"system": text} for text in ("be long", None)),
    {"model": "m2"},
    *({"max_tokens": number} for number in (51, 500)),
    *({"temperature": number} for number in (0.0, 0.50001, 1.0)),
    *({"options": BASE["options"] | more} for more in _MORE),
    {"options": {"top_p": 0.9, "stop": ["x"], "tools": []}},
    {"schema": SCHEMA},
    {"schema": {**SCHEMA, "title": "another"}},
)
"""One thing changed; None: the field is left out."""

NO_ANSWERS: tuple[tuple[str, Fault], ...] = (
    ("truncated", Ending(finish="length")),
    ("filtered", Ending(finish="content_filter")),
    ("refused", Refusal()),
    ("400", status(400)),
    ("500", server_error()),
    ("malformed", Malformed()),
)
"""What no cache may keep."""


def run(size: Size) -> str:
    """All of it; one line."""
    with arena(0) as world:
        changed = _changes(world, size)
    origins = _origins()
    unkept(size)
    return (
        f"T20 cache keys: {changed} changes of one thing and {origins} of the origin, each a miss, "
        f"then a hit; {len(NO_ANSWERS)} kinds of no whole answer, never kept"
    )


def _changes(world: Arena, size: Size) -> int:
    rows = [{name: value for name, value in (BASE | change).items() if value is not None}
            for change in ({}, *CHANGES)]  # fmt: skip
    world.sim.reply = lambda _: json.dumps({"a": "yes"})
    sent = _sent(world, rows)
    assert sent == len(rows), f"{len(rows) - sent} of {len(rows)} shared an answer"
    if size.full:
        assert _sent(world, rows) == 0
    # The same with its keys in another order is the same.
    assert _sent(world, [dict(reversed(row.items())) for row in reversed(rows)]) == 0
    assert len(world.sim.record.requests_per_key) == len(rows), "two rows asked the same"
    return len(CHANGES)


def _origins() -> int:
    """The same question at another port, name and query."""
    with arena(0) as world, Simulator() as other:
        changes: list[Callable[[], None]] = [
            lambda: None,
            lambda: world.configure(base_url=other.base_url),
            lambda: world.configure(base_url=world.sim.base_url.replace("127.0.0.1", "localhost")),
            lambda: world.configure("query: {api-version: one}"),
        ]
        for change in changes:
            change()
            before = world.sim.record.requests + other.record.requests
            _sent(world, [BASE])
            assert world.sim.record.requests + other.record.requests == before + 1
            assert _sent(world, [BASE]) == 0
        assert other.record.requests == 1
        return len(changes) - 1


def unkept(size: Size) -> None:
    """What is no whole answer is asked for again by the next batch, and that answer is kept."""
    rows = [BASE | {"prompt": name} for name, _ in NO_ANSWERS]
    with arena(0, knobs="retry: {attempts: 1}") as world:
        world.sim.fault = first_of(*(for_prompt(name, fault) for name, fault in NO_ANSWERS))
        times = size.of(1, 2)
        for _ in range(times):
            assert _sent(world, rows, code=1) == len(rows)
        world.sim.fault = None
        _sent(world, rows)
        asked = world.sim.record.requests_per_key
        assert set(asked.values()) == {times + 1}, f"something was kept: {asked}"
        assert _sent(world, rows) == 0, "a whole answer was not kept"


def _sent(world: Arena, rows: list[dict[str, Any]], *, code: int = 0) -> int:
    """Run a batch of the rows from its start; how many requests that took of the provider."""
    world.input.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    before = world.sim.record.requests
    done = world.run([*world.batch, "--restart"])
    assert done.returncode == code, (done.returncode, done.stderr)
    return world.sim.record.requests - before
