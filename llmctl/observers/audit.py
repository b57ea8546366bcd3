"""The audit's observer: one line a call, and the log's head written elsewhere now and then."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import orjson
from msgspec import Struct

from llmctl.clock import Clock
from llmctl.config.settings import Audit
from llmctl.errors import CallError, DiskError
from llmctl.http import build, fetch
from llmctl.redact import redact_known_keys
from llmctl.shutdown import first_of
from llmctl.storage.audit_chain import Head, content_field, utc
from llmctl.storage.audit_log import FOLDER, AuditLog
from llmctl.storage.files import write_private
from llmctl.storage.ledger_rows import call_row, from_pico
from llmctl.types import Answer, CallRecord, Request

EVERY = 60.0
"""Seconds between two checkpoints of a long run."""

_LIMIT = 5.0  # seconds that a server may take for one


class AuditObserver(Struct, frozen=True):
    """Writes a line for every call; `regions` by the profile's name. Raises `DiskError`."""

    log: AuditLog
    settings: Audit
    run_id: str
    user: str
    regions: Mapping[str, str | None]

    async def __call__(self, record: CallRecord) -> None:
        """Return when the line is durable."""
        await self.log.append(self.entry(record))

    def entry(self, record: CallRecord) -> dict[str, Any]:
        """What a line says of a call; never a key."""
        row = call_row(record, None, self.run_id, self.user)
        request = record.request
        cost = from_pico(row.cost_pico)
        entry: dict[str, Any] = {
            "kind": "call",
            "call": row.call_id,
            "run": row.run_id,
            "user": clean(row.user),
            "tags": {clean(name): clean(value) for name, value in request.tags.items()},
            "profile": row.profile,
            "provider": row.provider,
            "origin": record.target.origin,
            "asked_model": row.asked_model,
            "model": row.model,
            "region": self.regions.get(row.profile),
            "started": utc(record.started),
            "status": row.status,
            "error": row.error_type,
            "http_status": row.http_status,
            "attempts": row.attempts or 0,
            "tokens": {
                "input": row.input_tokens,
                "output": row.output_tokens,
                "cached": row.cached_tokens,
                "reasoning": row.reasoning_tokens,
                "estimated": row.estimated,
            },
            "cost_usd": None if cost is None else f"{cost.normalize():f}",
            "cache": row.cache,
        }
        if self.settings.content != "none":
            texts = _texts(record, masked=self.settings.content == "masked")
            entry["content"] = {name: content_field(clean(text)) for name, text in texts.items()}
        return entry


def _texts(record: CallRecord, *, masked: bool) -> dict[str, str]:
    """What was asked, as the provider was asked it where `masked`, else as the caller did, and what
    came of it."""
    asked, result = record.request if masked else record.asked or record.request, record.result
    found = {"prompt": _prompt(asked)}
    if isinstance(result, Answer):
        found["answer"] = result.text
        if result.tool_calls:
            found["tool_calls"] = orjson.dumps(result.tool_calls).decode()
    elif result.text:
        found["answer"] = result.text
    said = asked.masked
    if said is None or not said.values:
        return found
    if masked:  # the record's answer has the caller's values again
        return {name: with_tokens(text, said.values) for name, text in found.items()}
    from llmctl.privacy.masking import Masker

    masker = Masker(b"", "", (), values=said.values)
    return {**found, "prompt": masker.restore(found["prompt"], in_json=True)}


def with_tokens(text: str, values: Mapping[str, str]) -> str:
    """The text with tokens instead of their values, the longest first; also of those within JSON,
    and within JSON in JSON, as the arguments of tool calls are."""
    for token, value in sorted(values.items(), key=lambda each: -len(each[1])):
        for _ in range(3):
            text = text.replace(value, token)
            value = orjson.dumps(value).decode()[1:-1]  # noqa: PLW2901 - the same, written deeper
    return text


def _prompt(request: Request) -> str:
    if request.raw is not None:
        return orjson.dumps(request.raw.body).decode()
    return orjson.dumps([message.as_json() for message in request.messages]).decode()


def clean(text: str) -> str:
    """The text without keys, and without halves of characters, which no JSON can hold."""
    whole = text if text.isascii() else text.encode("utf-8", "replace").decode()
    return redact_known_keys(whole)


class Checkpoints:
    """Writes the head of the log to `place`, a file or an address, whenever it has moved. `warn`
    gets a sentence where that fails; the next one says all that this one would have."""

    def __init__(
        self, log: AuditLog, place: str, clock: Clock, warn: Callable[[str], None]
    ) -> None:
        self._log, self._place, self._clock, self._warn = log, place, clock, warn
        self._written: Head | None = None

    async def run(self, ended: asyncio.Event) -> None:
        """Write every so many seconds, and once more when it has `ended`."""
        while not ended.is_set():
            await first_of(self._clock.sleep(EVERY), ended.wait())
            if not ended.is_set():  # else one that fails would be told twice
                await self.write()
        await self.write()  # it may have ended while the last one was under way

    async def write(self) -> None:
        """Write the head, if it has moved."""
        head = self._log.last
        if head is None or head == self._written:
            return
        said = {"sequence": head.sequence, "mac": head.mac, "time": utc(self._clock.wall())}
        text = orjson.dumps(said) + b"\n"
        try:
            if "://" in self._place:
                await _post(self._place, text)
            else:
                await asyncio.to_thread(write_private, Path(self._place), text)
        except (CallError, DiskError) as error:
            self._warn(f"the audit's checkpoint was not written: {error.message}")
        else:
            self._written = head


async def _post(url: str, text: bytes) -> None:
    """Send a checkpoint. Raises `CallError`."""
    request = build("POST", url, {"content-type": "application/json"}, text)
    reply = await fetch(request, _LIMIT, 0)
    if not 200 <= reply.status < 300:
        raise CallError(f"{request.url.host} answers {reply.status}")


@asynccontextmanager
async def open_audit(
    settings: Audit,
    state: Path,
    key: bytes,
    clock: Clock,
    *,
    run_id: str,
    user: str,
    regions: Mapping[str, str | None],
    warn: Callable[[str], None],
) -> AsyncIterator[AuditObserver]:
    """The observer of a run; at its end the head is written elsewhere. Raises as `AuditLog`."""
    log = AuditLog(state / FOLDER, key, clock)
    ended, writing = asyncio.Event(), None
    if settings.checkpoint is not None:
        checkpoints = Checkpoints(log, settings.checkpoint, clock, warn)
        writing = asyncio.ensure_future(checkpoints.run(ended))
    try:
        yield AuditObserver(log, settings, run_id, user, regions)
    finally:
        ended.set()
        if writing is not None:
            await writing
        log.close()
