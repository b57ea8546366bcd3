"""An issuer of tokens on loopback: its keys, what it signs, and what it says when it is asked."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

from llmctl.http import HttpClient
from tests.conformance.http_peer import Line, opened

ISSUER = "https://id.example"
AUDIENCE = "llmctl"


def rsa_key(bits: int = 2048) -> rsa.RSAPrivateKey:
    """A new RSA key."""
    return rsa.generate_private_key(65537, bits)


def ec_key() -> ec.EllipticCurvePrivateKey:
    """A new P-256 key."""
    return ec.generate_private_key(ec.SECP256R1())


def public(key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey, **more: Any) -> dict[str, Any]:
    """The entry of a key set."""
    if isinstance(key, rsa.RSAPrivateKey):
        return {**RSAAlgorithm.to_jwk(key.public_key(), as_dict=True), **more}
    return {**ECAlgorithm.to_jwk(key.public_key(), as_dict=True), **more}


def key_set(*entries: Mapping[str, Any]) -> bytes:
    """A key set (RFC 7517)."""
    return json.dumps({"keys": entries}).encode()


def claims(**changes: Any) -> dict[str, Any]:
    """Claims of a token that is good for a minute; None leaves one out."""
    now = int(time.time())
    said = {"iss": ISSUER, "aud": AUDIENCE, "sub": "ann", "iat": now, "exp": now + 60, **changes}
    return {name: value for name, value in said.items() if value is not None}


def signed(key: Any, said: Mapping[str, Any], algorithm: str = "RS256", **header: Any) -> str:
    """A token."""
    return jwt.encode(dict(said), key, algorithm, headers={"kid": "one", **header})


def forged(header: Mapping[str, Any], said: Mapping[str, Any], signature: bytes = b"") -> str:
    """A token that no library would write."""
    parts = json.dumps(header).encode(), json.dumps(said).encode(), signature
    return ".".join(base64.urlsafe_b64encode(part).decode().rstrip("=") for part in parts)


@dataclass
class Issuer:
    """What the server answers, and the requests it got: head and body."""

    body: bytes = b"{}"
    status: int = 200
    requests: list[tuple[str, bytes]] = field(default_factory=list)
    url: str = ""

    async def speak(self, line: Line) -> None:
        """Answer every request."""
        while True:
            self.requests.append(await line.request())
            head = f"HTTP/1.1 {self.status} X\r\ncontent-length: {len(self.body)}\r\n\r\n"
            line.say(head.encode() + self.body)

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[HttpClient]:
        """While open, it is at `url`, where a client can ask it."""
        async with opened(self.speak, many=False) as (client, peer):
            self.url = peer.url
            yield client
