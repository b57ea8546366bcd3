"""Readers: one value of the tree → one checked Python value, or a `ConfigError` naming it.

A reader takes its meaning from the text: whole numbers are decimal digits, booleans are YAML's,
money is exact. Readers of variables and flags are the same ones.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from decimal import Decimal
from typing import Any
from urllib.parse import urlsplit

from llmctl.config.tree import Node

Reader = Callable[[Node], Any]

_WHOLE = re.compile(r"[+-]?(0|[1-9][0-9_]{0,30})")
_NUMBER = re.compile(r"[+-]?([0-9]{1,30}(\.[0-9]{0,40})?|\.[0-9]{1,40})([eE][+-]?[0-9]{1,3})?")
_MONEY = re.compile(r"[0-9]{1,9}(\.[0-9]{0,20})?([eE]-?[0-9]{1,2})?")
_DURATION = re.compile(r"([0-9]{1,12}(?:\.[0-9]{0,9})?) ?(ms|s|m|h|d|w)?")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
_SIZE = re.compile(r"([0-9]{1,15}(?:\.[0-9]{0,6})?) ?(?:([kmgt])(i?)b?|b)?")
_BOOLEANS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,99}")
_HEADER = re.compile(r"[A-Za-z][A-Za-z0-9-]{0,63}")
_HOST = re.compile(r"[\w.-]+|[0-9a-fA-F:.]+(%[\w.-]+)?")


def _plain(node: Node) -> str | None:
    return node.value if node.plain and isinstance(node.value, str) else None


def text(node: Node) -> str:
    """Printable text on one line, not empty."""
    if not isinstance(node.value, str) or node.null:
        raise node.error("must be text")
    if not node.value.strip() or not node.value.isprintable():
        raise node.error("must be text on one line, without control characters, not empty")
    return node.value


def label(node: Node) -> str:
    """The text of a tag: any scalar as it is written, possibly empty."""
    if not isinstance(node.value, str) or node.null or not node.value.isprintable():
        raise node.error("must be text on one line, without control characters")
    return node.value


def one_of(*names: str) -> Reader:
    """A reader of one of these words."""

    def read(node: Node) -> str:
        if node.value not in names:
            raise node.error(f"must be {' or '.join(names)}, not {node.shown()}")
        return str(node.value)

    return read


def names(node: Node) -> tuple[str, ...]:
    """A list of names; a single one may stand alone. Each of them once."""
    if node.null:
        return ()
    items = node.value if isinstance(node.value, tuple) else (node,)
    found = tuple(text(item) for item in items)
    for item, name in zip(items, found, strict=True):
        if found.count(name) > 1:
            raise item.error(f"names {item.shown()} twice")
    return found


def flag(node: Node) -> bool:
    """A boolean: true or false, also yes, no, on, off."""
    value = _BOOLEANS.get((_plain(node) or "").lower())
    if value is None:
        raise node.error(f"must be true or false, not {node.shown()}")
    return value


def whole(low: int, high: int, *, null: bool = False) -> Reader:
    """A reader of a whole number in this range; with `null` also of nothing, as None."""

    def read(node: Node) -> int | None:
        if null and node.null:
            return None
        written = _plain(node)
        if written is not None and _WHOLE.fullmatch(written):
            value = int(written.replace("_", ""))
            if low <= value <= high:
                return value
        raise node.error(f"must be a whole number from {low} to {high}, not {node.shown()}")

    return read


def number(low: float, high: float, *, null: bool = False) -> Reader:
    """A reader of a number in this range; with `null` also of nothing, as None."""

    def read(node: Node) -> float | None:
        if null and node.null:
            return None
        written = _plain(node)
        if written is not None and _NUMBER.fullmatch(written):
            value = float(written)
            if low <= value <= high:
                return value
        raise node.error(f"must be a number from {low:g} to {high:g}, not {node.shown()}")

    return read


def seconds(high: float, *, zero: bool = False, null: bool = False) -> Reader:
    """A reader of a duration (`10`, `1.5`, `500ms`, `10s`, `5m`, `2h`, `24h`, `7d`) as seconds.

    At most `high` seconds; 0 only with `zero`; with `null` also nothing, as None.
    """

    def read(node: Node) -> float | None:
        if null and node.null:
            return None
        match = _DURATION.fullmatch(node.value) if isinstance(node.value, str) else None
        if match is not None:
            value = float(match[1]) * _SECONDS[match[2] or "s"]
            if 0 < value <= high or (zero and value == 0):
                return value
        raise node.error(
            f"must be a duration such as 10, 10s or 5m, at most {high:.0f} seconds, "
            f"not {node.shown()}"
        )

    return read


def size(node: Node) -> int:
    """A size in bytes: `500MB`, `1GB`, `2GiB`, `800 kB`, a plain number."""
    value = parse_size(node.value) if isinstance(node.value, str) else None
    if not value:
        raise node.error(f"must be a size such as 500MB, 1GB or 2GiB, not {node.shown()}")
    return value


def parse_size(text: str) -> int | None:
    """Bytes: kB, MB, GB, TB are powers of 1000, KiB, MiB, GiB, TiB of 1024. None: no size."""
    match = _SIZE.fullmatch(text.strip().lower())
    if match is None:
        return None
    base = 1024 if match[3] else 1000
    return int(float(match[1]) * base ** (" kmgt".index(match[2]) if match[2] else 0))


def parse_duration(text: str) -> float | None:
    """Seconds, written as `seconds` reads them. None: no duration."""
    match = _DURATION.fullmatch(text.strip())
    return None if match is None else float(match[1]) * _SECONDS[match[2] or "s"]


def money(node: Node) -> Decimal:
    """US dollars, exact."""
    written = _plain(node)
    if written is None or not _MONEY.fullmatch(written):
        raise node.error(f"must be a price in USD per million tokens, not {node.shown()}")
    return Decimal(written)


def maybe_money(node: Node) -> Decimal | None:
    """US dollars, exact; None when nothing is written."""
    return None if node.null else money(node)


def variable(node: Node) -> str:
    """The name of an environment variable. What is written is never shown: it may be a key."""
    if not isinstance(node.value, str) or not _VARIABLE.fullmatch(node.value):
        raise node.error(
            "must be the name of an environment variable, such as OPENAI_API_KEY "
            "(a key itself never belongs in a file)"
        )
    return node.value


_KEY_NAME = re.compile(r"\w[\w.-]{0,63}")


def key_name(node: Node) -> str:
    """The name of a stored key. What is written is never shown: it may be a key."""
    if not isinstance(node.value, str) or not _KEY_NAME.fullmatch(node.value):
        raise node.error(
            "must be the name of a stored key, such as openai: letters, digits, dots, dashes and "
            "underscores (see `llmctl keys list`)"
        )
    return node.value


def command(node: Node) -> tuple[str, ...]:
    """A program and its arguments: a list, or one line that is split as a shell would split it,
    without being run by one. What is written is never shown: it may hold a secret."""
    import shlex

    if isinstance(node.value, tuple):
        words = tuple(text(item) for item in node.value)
    else:
        try:
            words = tuple(shlex.split(text(node)))
        except ValueError:
            raise node.error("has a quotation mark that is not closed") from None
    if not words or not words[0]:
        raise node.error("must name a program and its arguments, such as op read op://…")
    return words


def header(node: Node) -> str:
    """The name of the header that carries a key. What is written is never shown."""
    if not isinstance(node.value, str) or not _HEADER.fullmatch(node.value):
        raise node.error("must be the name of a header, such as api-key")
    return node.value.lower()


def address(node: Node) -> str:
    """A base URL without its trailing slash: http or https, a host, no credentials.

    What is written is never shown: it may hold a password.
    """
    url = text(node)
    if any(c.isspace() or c in '\\<>"' for c in url):
        raise node.error("must be a URL, without spaces, quotes or backslashes")
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:  # its message may repeat what is written
        raise node.error("is not a URL: its host or port is malformed") from None
    if parts.scheme not in ("http", "https") or not host or not _HOST.fullmatch(host):
        raise node.error("must begin with http:// or https:// and a host")
    if port == 0:
        raise node.error("must have a port from 1 to 65535")
    if "@" in parts.netloc or "?" in url or "#" in url:
        raise node.error(
            "may hold no user, password, query (?) or fragment (#); "
            "a key goes into an environment variable, named by key: {env: NAME}"
        )
    for end in ("/chat/completions", "/responses", "/messages", "/models"):
        if parts.path.rstrip("/").endswith(end):
            raise node.error(f"must end before {end}, which llmctl adds")
    return url.rstrip("/")
