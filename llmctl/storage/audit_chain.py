"""The audit's chain: how its lines, its head and its stubs are written and signed; pure.

A line's code (`mac`) is HMAC-SHA256 over the code of the line before and the line, of whose content
only the digests count: content that is erased leaves the chain as it was. Digests are salted, so
that nobody guesses what was erased.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, TypeVar

import msgspec
import orjson
from msgspec import Struct

FIRST = "0" * 64
"""What stands for the code before the first line."""

_SALT = 16  # bytes


class Head(Struct, frozen=True, kw_only=True):
    """Where the log ends: `size` bytes in `segment`, which has `lines` lines, the first of them
    written at `opened` (seconds since the epoch); `sequence` and `mac` of the last line. `key`
    names the key, without telling it."""

    segment: int = 1
    size: int = 0
    lines: int = 0
    opened: float = 0.0
    sequence: int = 0
    mac: str = FIRST
    key: str = ""


class Stub(Struct, frozen=True, kw_only=True):
    """What is left of a segment that was removed: its lines `first` to `last`, the code before it
    and its own last one, and when its first and last line were written."""

    segment: int
    first: int
    last: int
    before: str
    mac: str
    begin: str
    end: str


S = TypeVar("S", Head, Stub)


def key_name(key: bytes) -> str:
    """What tells keys apart, and helps nobody to find one."""
    return hmac.digest(key, b"name", "sha256").hex()[:16]


def line_mac(key: bytes, before: str, line: Mapping[str, Any]) -> str:
    """The code of a line, in hex; `before` is that of the line before."""
    covered = {name: value for name, value in line.items() if name != "mac"}
    if content := covered.get("content"):
        covered["content"] = {name: each["sha256"] for name, each in content.items()}
    text = orjson.dumps(covered, option=orjson.OPT_SORT_KEYS)
    return hmac.digest(key, before.encode() + text, "sha256").hex()


def encoded(line: Mapping[str, Any]) -> bytes:
    """The line as it stands in the file; there is no other way to write it."""
    return orjson.dumps(line, option=orjson.OPT_SORT_KEYS) + b"\n"


def decoded(raw: bytes) -> dict[str, Any] | None:
    """The line of a file; None for what is no JSON object, as of a line half written."""
    try:
        line = orjson.loads(raw)
    except orjson.JSONDecodeError:
        return None
    return line if isinstance(line, dict) else None


def problem(key: bytes, before: str, sequence: int, raw: bytes) -> str | None:
    """What is wrong with a line, whole with its line break, that should be number `sequence`; None
    where nothing is."""
    line = decoded(raw)
    if line is None:
        return "is no line of the log"
    try:
        right = line_mac(key, before, line)
    except (AttributeError, KeyError, TypeError):
        return "was changed: its content has another form"
    if line.get("sequence") != sequence:
        return f"should be number {sequence}, and is {line.get('sequence')!r}"
    if not hmac.compare_digest(right, str(line.get("mac"))):
        return "was changed, or what came before it was"
    if encoded(line) != raw:
        return "was written anew: it says the same in other bytes"
    wrong = [name for name, each in line.get("content", {}).items() if not _is_whole(each)]
    return f"has another {wrong[0]} than was written" if wrong else None


def content_field(text: str) -> dict[str, str]:
    """A text of a caller's or a model's, with what proves it."""
    salt = secrets.token_hex(_SALT)
    return {"salt": salt, "sha256": _digest(salt, text), "text": text}


def erased(line: Mapping[str, Any]) -> dict[str, Any]:
    """The line without its texts; its code stays as it is."""
    bare = {name: {"sha256": each["sha256"]} for name, each in line["content"].items()}
    return {**line, "content": bare}


def has_text(line: Mapping[str, Any]) -> bool:
    """Whether there is content in the line to erase."""
    return any("text" in each for each in line.get("content", {}).values())


def is_erased(line: Mapping[str, Any]) -> bool:
    """Whether content of the line was erased."""
    return any("text" not in each for each in line.get("content", {}).values())


def _is_whole(field: Mapping[str, str]) -> bool:
    """Whether a field of content is as it was written, or erased."""
    if field.keys() == {"sha256"}:
        return True
    if field.keys() != {"sha256", "salt", "text"}:
        return False
    return hmac.compare_digest(field["sha256"], _digest(field["salt"], field["text"]))


def _digest(salt: str, text: str) -> str:
    return hashlib.sha256(f"{salt}{text}".encode()).hexdigest()


def sign(key: bytes, value: Head | Stub) -> bytes:
    """The head or a stub as JSON on one line, with its signature."""
    said = msgspec.to_builtins(value)
    return encoded({**said, "signature": _signature(key, type(value).__name__, said)})


def unsign(key: bytes, raw: bytes, kind: type[S]) -> S | None:
    """The head or a stub; None for what the key has not signed."""
    said = decoded(raw.strip(b"\0 \n"))
    if said is None or not isinstance(given := said.pop("signature", None), str):
        return None
    if not hmac.compare_digest(given.encode(), _signature(key, kind.__name__, said).encode()):
        return None
    return msgspec.convert(said, kind)


def _signature(key: bytes, kind: str, said: Mapping[str, Any]) -> str:
    text = orjson.dumps(said, option=orjson.OPT_SORT_KEYS)
    return hmac.digest(key, kind.encode() + b"\n" + text, "sha256").hex()


def fragment(raw: bytes) -> dict[str, Any]:
    """What a line says of bytes that a crash left before it, instead of a line."""
    return {"bytes": len(raw), "sha256": hashlib.sha256(raw).hexdigest()}


def as_ranges(numbers: Iterable[int]) -> str:
    """`1-3,7` of ascending numbers."""
    found: list[list[int]] = []
    for number in numbers:
        if found and number == found[-1][1] + 1:
            found[-1][1] = number
        else:
            found.append([number, number])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in found)


def of_ranges(text: str) -> list[range]:
    """The numbers of `1-3,7`."""
    ends = [part.split("-") for part in text.split(",") if part]
    return [range(int(each[0]), int(each[-1]) + 1) for each in ends]


def utc(seconds: float) -> str:
    """A moment as lines have it, such as `2026-11-29T22:13:55.000Z`."""
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S.%f}"[:-3] + "Z"


def seconds_of(moment: str) -> float:
    """The seconds since the epoch of a line's moment."""
    return datetime.fromisoformat(moment).timestamp()
