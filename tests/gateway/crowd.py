"""Many callers at once, each on a connection of its own that it may drop at any moment."""

from __future__ import annotations

import asyncio
import json
import re
import sqlite3
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from tests.gateway.serving import Gateway, configure
from tests.simulator.server import Simulator

CHAT, MESSAGES = "/v1/chat/completions", "/v1/messages"


@dataclass(frozen=True)
class Question:
    """What a caller with this `token` asks, for an answer of at most `most` tokens; `body` is what
    is said beside that."""

    token: str | None = None
    text: str = "hello"
    path: str = CHAT
    most: int = 1000
    body: Mapping[str, Any] | None = None

    def bytes(self) -> bytes:
        """The request, after which the connection ends."""
        turn = {"role": "user", "content": self.text}
        limit = "max_tokens" if self.path == MESSAGES else "max_completion_tokens"
        asked = {"model": "sim", "messages": [turn], limit: self.most, **(self.body or {})}
        body = json.dumps(asked).encode()
        who = "" if self.token is None else f"authorization: Bearer {self.token}\r\n"
        return (
            f"POST {self.path} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
            f"{who}content-length: {len(body)}\r\nconnection: close\r\n\r\n"
        ).encode() + body


@dataclass(frozen=True)
class Reply:
    """What a caller got: a whole reply, its body as it came."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def error(self) -> Any:
        """What the error says."""
        return json.loads(self.body)["error"]


class Caller:
    """One connection with one question."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    @classmethod
    async def asking(cls, gateway: Gateway, question: Question) -> Caller:
        """A caller whose question is sent."""
        port = int(gateway.url.rpartition(":")[2])
        caller = cls(*await asyncio.open_connection("127.0.0.1", port))
        caller._writer.write(question.bytes())
        return caller

    async def reads(self, words: bytes) -> None:
        """Return when these words of the reply have come."""
        await self._reader.readuntil(words)

    async def reply(self) -> Reply:
        """The reply, to the end of the connection; status 0 where that broke."""
        raw = b""
        with suppress(ConnectionError):
            raw = await self._reader.read()
        self._writer.close()
        with suppress(ConnectionError):
            await self._writer.wait_closed()
        if not raw:
            return Reply(0, {}, raw)
        head, _, body = raw.partition(b"\r\n\r\n")
        first, *lines = head.decode().split("\r\n")
        headers = dict(line.split(": ", 1) for line in lines)
        return Reply(int(first.split()[1]), headers, body)

    def hang_up(self, *, reset: bool = False) -> None:
        """Close the connection, or break it."""
        if reset:
            self._writer.transport.abort()
        else:
            self._writer.close()


async def ask(gateway: Gateway, question: Question) -> Reply:
    """The reply to one question."""
    return await (await Caller.asking(gateway, question)).reply()


def ask_at_once(gateway: Gateway, questions: Iterable[Question]) -> list[Reply]:
    """The replies to all questions, each of a caller of its own."""

    async def work() -> list[Reply]:
        return await asyncio.gather(*(ask(gateway, one) for one in questions))

    return asyncio.run(work())


def crowded(home: Path, sim: Simulator, serve: str = "", limits: str = "concurrency: 2000") -> None:
    """Configure profiles that take as many calls at a time as there are; `serve` follows."""
    file = configure(home, sim, serve)
    text = file.read_text()
    file.write_text(text.replace("price:", f"limits: {{{limits}}}\n    price:"))


def billed(sim: Simulator) -> Decimal:
    """What the provider's invoice says, at the profile's price."""
    return Decimal(sim.billed.input_tokens + 2 * sim.billed.output_tokens) / 10**6


def spent(row: sqlite3.Row) -> Decimal:
    """The most that a call may have cost, by the ledger."""
    return Decimal(row["cost_pico"] + (row["uncertain_pico"] or 0)) / 10**12


def in_flight(gateway: Gateway, secret: str) -> int:
    """Calls that a caller waits for."""
    with gateway.client(secret) as client:
        text = client.get("/metrics").text
    found = re.search(r"^llmctl_http_requests_in_flight\{.*\} (\d+)", text, re.MULTILINE)
    assert found is not None
    return int(found[1]) - 1  # the page itself is asked for
