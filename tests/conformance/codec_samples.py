"""Answers as each provider words them, without a server: to be cut, damaged and read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from random import Random
from typing import Any

import orjson
from hypothesis import strategies as st

from llmctl.protocols import Codec, Event
from llmctl.providers.replies import EVENT_FIELD, EventReader
from llmctl.types import Message, Request, Target
from tests.conformance.codec_dialects import Dialect
from tests.simulator.call import Call
from tests.simulator.reply import Reply, ToolCall, Usage
from tests.simulator.wires.registry import BASES, Registry
from tests.simulator.wires.wire import Turn, Wire

_USAGE = Usage(input=90, output=40, cached=20, reasoning=30, written=10)
_CALL = ToolCall("look_up", '{"city":"Paris","why":"🦜"}')
SAMPLES = (
    Reply("naïve — “quoted” 🦜\u2028 line\r\nend", usage=_USAGE),
    Reply("cut", finish="length", usage=Usage(input=5, output=1)),
    Reply("some", finish="tool_calls", tool_calls=(_CALL, _CALL), usage=_USAGE),
    Reply("", finish="tool_calls", tool_calls=(_CALL,), usage=_USAGE),
    Reply("", refusal="No.", usage=_USAGE),
    Reply("half", finish="content_filter", usage=_USAGE),
)

JUNK: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["type", "text", "error", "message", "x"]), inner)
    ),
    max_leaves=6,
)
"""What may stand in any place of a damaged body."""


def whole(codec: Codec, dialect: Dialect, reply: Reply) -> bytes:
    """The body of a plain answer."""
    wire, turn = _turn(codec, dialect, reply, stream=False)
    return orjson.dumps(wire.whole(turn))


def streamed(codec: Codec, dialect: Dialect, reply: Reply) -> list[bytes]:
    """The events of a streamed answer."""
    wire, turn = _turn(codec, dialect, reply, stream=True)
    return list(wire.events(turn))


def events_of(codec: Codec, pieces: Sequence[bytes]) -> Iterator[Event]:
    """The events of a stream that comes in these pieces."""
    stream = codec.events(b"".join(pieces)[:EVENT_FIELD], "") or EventReader()
    for piece in pieces:
        yield from stream.feed(piece)


def wire_of(codec: Codec, dialect: Dialect, *, stream: bool) -> tuple[Wire, Any, str]:
    """The simulated endpoint of a request, the request's body, and its path."""
    target = Target(
        "test", dialect.name, dialect.name, "http://127.0.0.1:1", "sim", api=dialect.api
    )
    sent = codec.encode(Request("a", target, (Message("user", "hi"),)), stream=stream)
    path = BASES[dialect.name] + sent.path.partition("?")[0]
    wire = Registry(("sim",)).find("POST", path)
    assert wire is not None
    return wire, sent.body, path


def damaged(body: bytes, dice: Random, junk: Any) -> bytes:
    """The JSON with `junk` in one place of it, or with one place gone."""
    tree = orjson.loads(body)
    places: list[tuple[Any, Any]] = []
    _walk(tree, places)
    if not places:
        return orjson.dumps(junk)
    holder, key = dice.choice(places)
    if dice.random() < 0.2:
        del holder[key]
    else:
        holder[key] = junk
    return orjson.dumps(tree)


def _walk(value: Any, places: list[tuple[Any, Any]]) -> None:
    keys = value if isinstance(value, dict) else range(len(value) if isinstance(value, list) else 0)
    for key in list(keys):
        places.append((value, key))
        _walk(value[key], places)


def _turn(codec: Codec, dialect: Dialect, reply: Reply, *, stream: bool) -> tuple[Wire, Turn]:
    wire, body, path = wire_of(codec, dialect, stream=stream)
    call = Call("POST", path, "", {}, b"", "", 0, 0.0)
    usage = reply.usage or Usage(input=1)
    return wire, Turn(call, wire.read(body, path), reply, usage, 1_800_000_000)
