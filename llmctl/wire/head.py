"""The bytes that a request begins with; pure.

Whatever comes in is held to what HTTP allows: a line break in a value would let it write headers
of its own.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from urllib.parse import unquote, urlsplit

from msgspec import Struct

from llmctl.wire.failures import Unsendable

_PORTS = {"http": 80, "https": 443}

_MOST = 64
"""Beginnings that are remembered: one for each path and set of headers, so mostly one or two."""

_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
"""A token (RFC 9110, 5.6.2): what a method and the name of a header may be."""

_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")
"""What the value of a header may be (RFC 9110, 5.5): Latin-1 without control characters."""

_URL = re.compile(r"[\x21-\x7e]+")
"""An address as it must be by now: ASCII, what is beyond it percent-encoded."""

_OURS = frozenset({"host", "content-length", "transfer-encoding", "connection"})
"""Headers that say where a request goes and where it ends: nobody else may set them."""


class Origin(Struct, frozen=True):
    """Who is spoken to: `host` is a name in ASCII or an IP address without brackets."""

    scheme: str
    host: str
    port: int

    @classmethod
    def of(cls, url: str) -> Origin:
        """The one that an address belongs to. Raises `Unsendable`."""
        try:
            parts = urlsplit(url)
            host, port = parts.hostname or "", parts.port
            host = host if host.isascii() else host.encode("idna").decode()
        except ValueError:
            raise Unsendable("the address is malformed") from None
        if parts.scheme not in _PORTS or not host or not _URL.fullmatch(host):
            raise Unsendable("the address must begin with http:// or https:// and a host")
        return cls(parts.scheme, host, _PORTS[parts.scheme] if port is None else port)

    @property
    def authority(self) -> str:
        """Host and port, as `CONNECT` wants them."""
        host = self.host.partition("%")[0]  # the zone of an IPv6 address means nothing elsewhere
        return f"[{host}]:{self.port}" if ":" in host else f"{host}:{self.port}"

    @property
    def netloc(self) -> str:
        """The same without the port that goes without saying, as `Host` wants it."""
        return self.authority.removesuffix(f":{_PORTS[self.scheme]}")

    @property
    def name(self) -> str:
        """What a certificate must be for."""
        return self.host.partition("%")[0].rstrip(".")


class Heads:
    """Heads of requests to one origin. Requests that are alike share their beginning, which is
    checked and put together once."""

    def __init__(self, origin: Origin, proxy: Mapping[str, str] | None = None) -> None:
        """`proxy`: requests go to a proxy, which is told the whole address and these headers."""
        self._origin = origin
        self._proxy = proxy
        self._known: dict[object, bytes] = {}

    def of(self, method: str, url: str, headers: Mapping[str, str], size: int) -> bytes:
        """The head of a request with a body of `size` bytes. Raises `Unsendable`."""
        key = (method, url, tuple(headers.items()))
        start = self._known.get(key)
        if start is None:
            start = self._begin(method, url, headers)
            if len(self._known) >= _MOST:
                self._known.clear()
            self._known[key] = start
        if size or method != "GET":
            return b"%bcontent-length: %d\r\n\r\n" % (start, size)
        return start + b"\r\n"

    def _begin(self, method: str, url: str, headers: Mapping[str, str]) -> bytes:
        if Origin.of(url) != self._origin:
            raise Unsendable(f"the address is none of {self._origin.netloc}")
        parts = urlsplit(url)
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        # Of the whole address: `urlsplit` leaves out line breaks, which are a mistake to be told.
        asked = url.partition("://")[2][len(parts.netloc) :]
        if not _NAME.fullmatch(method) or not _URL.fullmatch(asked or "/"):
            raise Unsendable("the address has a character that must be percent-encoded")
        if self._proxy is not None:
            target = f"{self._origin.scheme}://{self._origin.netloc}{target}"
        fields = {"accept": "*/*", **_login(parts.username, parts.password)}
        for name, value in headers.items():
            fields[name.lower()] = value
        if bad := _OURS & fields.keys():
            raise Unsendable(f"the header {min(bad)} is set by the connection itself")
        fields |= self._proxy or {}
        return lines(f"{method} {target} HTTP/1.1", {"host": self._origin.netloc, **fields})


def lines(first: str, fields: Mapping[str, str]) -> bytes:
    """The first line and the fields of a head, without the empty line at its end. Raises
    `Unsendable`, which names the field and does not show its value."""
    made = [first]
    for name, value in fields.items():
        if not _NAME.fullmatch(name):
            raise Unsendable("a header has a name that HTTP does not allow")
        if not _VALUE.fullmatch(value):
            raise Unsendable(
                f"the header {name} has a value that HTTP cannot carry (a line break, another "
                "control character, or one beyond Latin-1)"
            )
        made.append(f"{name}: {value}")
    made.append("")
    return "\r\n".join(made).encode("latin-1")


def _login(user: str | None, password: str | None) -> Mapping[str, str]:
    """The header for a name and password that stand in an address."""
    if not user:
        return {}
    login = f"{unquote(user)}:{unquote(password or '')}".encode()
    return {"authorization": "Basic " + base64.b64encode(login).decode()}
