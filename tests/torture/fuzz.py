"""T13: streams, input lines and configurations, spoilt at random: nothing may crash or hang.

The first finding ends it with what was found and how to see it again.
"""

from __future__ import annotations

import faulthandler
import re
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any

import orjson

from llmctl.batch.input import Problem, lines
from llmctl.batch.rows import RowError
from llmctl.batch.rows import RowReader as Rows
from llmctl.config.load import load
from llmctl.config.profiles import as_yaml
from llmctl.config.settings import Profile
from llmctl.errors import CallError, ConfigError
from llmctl.protocols import Codec, Event
from llmctl.providers.registry import codec
from llmctl.providers.replies import EventReader
from llmctl.request import compose
from tests.conformance.codec_dialects import DIALECTS
from tests.conformance.codec_samples import SAMPLES, events_of, streamed, wire_of
from tests.simulator.reply import Problem as Trouble
from tests.torture.judge import Size

_PATIENCE = 60.0
"""Seconds after which a block of cases counts as hanging."""

_BLOCK = 256
"""Cases between two looks at the watch that ends what hangs: setting it takes a millisecond."""


@dataclass(frozen=True)
class Stream:
    """A streamed answer: who reads it, and its bytes."""

    name: str
    codec: Codec
    payload: bytes

    @cached_property
    def says(self) -> Any:
        """What it says when it comes in one piece."""
        return said(self.codec, [self.payload])


def run(size: Size) -> str:
    """A million chunkings, 200,000 lines, 50,000 files; one line."""
    started, slowest = time.monotonic(), 0.0
    streams = all_streams()
    chunkings, rows = size.of(3_000, 1_000_000), size.of(2_000, 200_000)
    files = size.of(200, 50_000)
    with tempfile.TemporaryDirectory(prefix="llmctl-torture-") as folder:
        works: tuple[tuple[int, Callable[[Random], None]], ...] = (
            (chunkings, _Chunkings(streams)),
            (rows, _Lines()),
            (files, _Files(Path(folder))),
        )
        for count, work in works:
            for number in range(count):
                if number % _BLOCK == 0:
                    faulthandler.dump_traceback_later(_PATIENCE, exit=True)
                begun = time.monotonic()
                try:
                    work(Random(f"{size.seed} {number}"))
                except BaseException as error:
                    error.add_note(f"case {number} of {type(work).__name__}, --seed {size.seed}")
                    raise
                slowest = max(slowest, time.monotonic() - begun)
            faulthandler.cancel_dump_traceback_later()
    return (
        f"T13 fuzz: {chunkings:,} chunkings of {len(streams)} streams, {rows:,} lines, "
        f"{files:,} configurations: 0 crashes, 0 hangs (slowest case {slowest:.2f} s) "
        f"in {time.monotonic() - started:.0f} s"
    )


def all_streams() -> list[Stream]:
    """Every codec's streams, well and ill."""
    found: list[Stream] = []
    for dialect in DIALECTS:
        made = codec(dialect.name, dialect.api)
        wire, _, _ = wire_of(made, dialect, stream=True)
        for number, reply in enumerate(SAMPLES):
            events = streamed(made, dialect, reply)
            name = f"{dialect.name} {dialect.api} {number}"
            broken = [*events[:2], wire.error_event(Trouble("it broke"))]
            unheard = [piece for event in events for piece in (event, wire.unknown_event())]
            kinds = {"": events, " broken": broken, " unheard": unheard, " cut": events[:-1]}
            found += [Stream(name + kind, made, b"".join(told)) for kind, told in kinds.items()]
    return found


def said(made: Codec, pieces: Sequence[bytes]) -> Any:
    """All that a codec reads out of a stream, or the error it ends in."""
    reader = made.reader()
    text, rest = "", []
    try:
        for event in events_of(made, pieces):
            read = reader.piece(event.name, event.data)
            text += read.text
            rest.append((read.finish, read.model, read.usage, read.cost, read.done))
        ended = reader.end()
    except CallError as error:
        return text, [told for told in rest if any(told)], type(error), str(error)
    return text + ended.text, [told for told in rest if any(told)], ended.done


def cut(payload: bytes, dice: Random) -> list[bytes]:
    """The bytes in random pieces: a few anywhere, a few side by side; seldom every byte alone."""
    if dice.random() < 0.02:
        return [payload[at : at + 1] for at in range(len(payload))]
    places = {dice.randrange(len(payload) + 1) for _ in range(dice.randint(0, 12))}
    for at in tuple(places)[:3]:
        places |= {at + 1, at + 2, at + 3}
    ends = sorted({0, len(payload), *(at for at in places if at < len(payload))})
    return [payload[at:end] for at, end in pairwise(ends)]


class _Chunkings:
    """Streams in random pieces say what they say in one; bytes in random order are read as the
    WHATWG's rules have it."""

    def __init__(self, streams: Sequence[Stream]) -> None:
        self._streams = streams

    def __call__(self, dice: Random) -> None:
        if dice.random() < 0.5:
            stream = dice.choice(self._streams)
            found = said(stream.codec, cut(stream.payload, dice))
            assert found == stream.says, f"{stream.name}: {found!r} instead of {stream.says!r}"
            return
        payload = b"".join(dice.choices(_FRAGMENTS, k=dice.randint(0, 24)))
        reader = EventReader()
        events = [event for piece in cut(payload, dice) for event in reader.feed(piece)]
        assert events == by_the_rules(payload), f"{payload!r}: {events!r}"


_FRAGMENTS = (
    *(b"\n", b"\r", b"\r\n", b"\n\n", b"\r\n\r\n", b"\r\r", b":", b" ", b"\0", b"\x0b", b"\x0c"),
    *(b"data", b"data:", b"data: ", b"data:  x", b"data: {}", b"data:[DONE]", b"\xef\xbb\xbf"),
    *(b"event: e", b"event:", b"event", b"id: 1", b"retry: 5", b": comment", b"unheard: of"),
    *("é".encode(), "🦜".encode(), b"\xf0\x9f", b"\xa6\x9c", b"\xff", b"\xc3", b"\xe2\x80\xa8"),
)
"""What an event stream is made of, and what it should not be."""


def by_the_rules(payload: bytes) -> list[Event]:
    """The events of a whole stream, read as plainly as the rules are written."""
    text = payload.decode("utf-8", "replace").removeprefix("\ufeff")
    *whole, _unfinished = re.split("\r\n|\n|\r", text)
    events, name, data = [], "", list[str]()
    for line in whole:
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if not line:
            if data:
                events.append(Event(name or "message", "\n".join(data)))
            name, data = "", []
        elif field == "data":
            data.append(value)
        elif field == "event":
            name = value
    return events


class _Lines:
    """An input line is a row, whose id and question can be told and sent, or a `RowError`."""

    def __init__(self) -> None:
        self._reader = Rows(system="be brief")

    def __call__(self, dice: Random) -> None:
        raw = _spoilt(dice.choice(_ROWS), dice)
        if dice.random() < 0.2:
            junk = {dice.choice(_KEYS): _junk(dice, 3) for _ in range(dice.randint(0, 6))}
            raw = orjson.dumps(junk) + dice.choice((b"\n", b"\r\n", b""))
        for number, line in lines(BytesIO(raw)):
            if isinstance(line, Problem):
                continue
            try:
                request = self._reader.request((number, line), _PROFILE)
            except RowError:
                continue
            row = self._reader.parse((number, line))
            sent = compose(row.question, _PROFILE, id=row.id)
            assert (row.id, sent.fingerprint) == (request.id, request.fingerprint), line
            assert orjson.dumps(row.id)


_PROFILE = Profile(
    name="p", provider="openai", adapter="openai", base_url="http://127.0.0.1:1/v1", model="m"
)
_DEEP = 1_000
_ROWS: tuple[bytes, ...] = (
    b'{"id": "a", "prompt": "hello"}\n',
    b'\xef\xbb\xbf{"prompt": "b\xe2\x80\xa8c", "max_tokens": 5, "temperature": 0.5}\r\n',
    b'{"id": 7, "messages": [{"role": "user", "content": [{"type": "text", "text": "x"}]}]}\n',
    (
        b'{"custom_id": "c", "method": "POST", "url": "/v1/chat/completions", "body": {"model": '
        b'"m", "messages": [{"role": "user", "content": "hi"}], "tools": [{"type": "function"}]}}\n'
    ),
    (
        b'{"prompt": "p", "system": "s", "model": "m", "options": {"a": [1, null]}, "tags": '
        b'{"k": "v"}, "schema": {"type": "object", "properties": {"x": {"type": "string"}}}}\n'
    ),
    b'{"prompt": NaN}\n',
    b'{"prompt": "\\ud800"}\n',
    b'{"id": "\xff\xfe", "prompt": "x"}\n',
    b'{"prompt": ' + b"[" * _DEEP + b"]" * _DEEP + b"}\n",
    b'{"prompt": 1e999, "max_tokens": 99999999999999999999999}\n',
)
_KEYS = (
    *("id", "custom_id", "prompt", "messages", "system", "model", "max_tokens", "temperature"),
    *("schema", "options", "tags", "method", "url", "body", "role", "content", "type", "text"),
)
_VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1.5, 2**63, 1e308, "", " ", "x", "user", "\0", "\u2028", "🦜"),
    *([], {}, [[]], [{}], {"role": "user", "content": "x"}, [{"role": "user", "content": None}]),
    *("/v1/chat/completions", "/v1/embeddings", "POST", {"model": "m", "messages": []}),
)


def _junk(dice: Random, depth: int) -> Any:
    if depth and dice.random() < 0.3:
        inner = [_junk(dice, depth - 1) for _ in range(dice.randint(0, 3))]
        return inner if dice.random() < 0.5 else {dice.choice(_KEYS): one for one in inner}
    return dice.choice(_VALUES)


def _spoilt(raw: bytes, dice: Random) -> bytes:
    """The bytes with a few of them changed, gone, doubled, or others between them."""
    spoilt = bytearray(raw)
    for _ in range(dice.randint(0, 4)):
        at = dice.randint(0, max(0, len(spoilt) - 1))
        how = dice.randrange(5)
        if how == 0:
            spoilt[at : at + 1] = bytes([dice.randrange(256)])
        elif how == 1:
            del spoilt[at : at + dice.randint(1, 12)]
        elif how == 2:
            spoilt[at:at] = spoilt[at : at + dice.randint(1, 12)]
        elif how == 3:
            spoilt[at:at] = dice.choice(_TOKENS)
        else:
            del spoilt[at:]
    return bytes(spoilt)


_TOKENS: tuple[bytes, ...] = (
    *(b'"', b"{", b"}", b"[", b"]", b",", b":", b"\\", b"\n", b"\r", b"\t", b"\0", b"null", b"NaN"),
    *(b"-Infinity", b"1e999", b"\\u0000", b"\\ud83e", b"\xff", b"\xed\xa0\x80", b"\xef\xbb\xbf"),
    *(b"  ", b"- ", b"#", b"&a", b"*a", b"<<: ", b"!!python/object:os.system ", b"|", b">-", b"%"),
)


class _Files:
    """A configuration file gives settings that can be shown and read again, or one `ConfigError`
    that names the file."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._path = folder, folder / "c.yaml"
        whole = (Path(__file__).parents[2] / "configs/team.yaml").read_bytes()
        self._files = [whole, *whole.split(b"\n\n")]

    def __call__(self, dice: Random) -> None:
        first = self._load(_spoilt(dice.choice(self._files), dice))
        for profile in first.profiles.values() if first is not None else ():
            again = self._load(as_yaml(profile).encode())
            assert again is not None
            assert again.profiles[profile.name].params == profile.params
            assert again.profiles[profile.name].model == profile.model

    def _load(self, raw: bytes) -> Any:
        self._path.write_bytes(raw)
        environ = {"HOME": str(self._folder)}
        try:
            return load(environ=environ, cwd=self._folder, config=self._path)
        except ConfigError as error:
            assert str(error).startswith(str(self._path)), error  # noqa: PT017 - names the file
            return None
