"""What the audit says of a call, and where its head is written to."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from contextlib import closing
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any, Literal

import pytest
from msgspec.structs import replace

from llmctl.config.settings import Audit
from llmctl.errors import RateLimited
from llmctl.observers.audit import EVERY, Checkpoints, open_audit
from llmctl.redact import remember
from llmctl.storage.audit_chain import utc
from llmctl.storage.audit_check import check_integrity, read_checkpoint
from llmctl.storage.audit_log import AuditLog
from llmctl.storage.audit_upkeep import read_lines
from llmctl.types import Answer, CallRecord, Masked, Message, Usage
from tests.support import FakeClock, request, response

KEY = b"k" * 32
NOW = 1_800_000_000.0
PROVIDER_KEY = "sk-live-abcdefgh-12345678"


def a_record(result: Answer | RateLimited | None = None, **changes: Any) -> CallRecord:
    """How a call ended that was made for ann."""
    asked = request("where do I live?", user="ann", tags={"team": "search"}, **changes)
    ended = result or response("in Köln")
    return CallRecord(asked, ended, Usage(3, 2), Decimal("0.00012"), None, NOW, 1.0, None)


def lines(settings: Audit, *records: CallRecord, state: Path) -> list[dict[str, Any]]:
    """The lines of these calls."""
    clock = FakeClock(NOW)

    async def observe() -> None:
        opening = open_audit(
            settings, state, KEY, clock,
            run_id="run-1", user="me", regions={"test": "eu-central-1"}, warn=print,
        )  # fmt: skip
        async with opening as observer:
            for record in records:
                await observer(record)

    clock.run(observe())
    return [dict(line) for line in read_lines(state / "audit")][1:]


def test_a_line_says_who_when_what_and_at_what_cost(tmp_path: Path) -> None:
    """Everything is there but what was said: that is only where `content` asks for it."""
    (line,) = lines(Audit(), a_record(), state=tmp_path)
    assert "content" not in line
    said = {name: line[name] for name in ("call", "run", "user", "tags", "profile", "provider")}
    assert said == {
        "call": "call-1", "run": "run-1", "user": "ann", "tags": {"team": "search"},
        "profile": "test", "provider": "openai",
    }  # fmt: skip
    assert (line["origin"], line["region"]) == ("http://127.0.0.1:1", "eu-central-1")
    assert (line["asked_model"], line["model"]) == ("gpt-5-mini", "gpt-5-mini")
    assert (line["status"], line["error"], line["cache"]) == ("ok", None, "miss")
    assert (line["tokens"]["input"], line["tokens"]["output"]) == (3, 2)
    assert (line["cost_usd"], line["time"]) == ("0.00012", utc(NOW))
    assert (line["sequence"], line["kind"]) == (2, "call")
    assert b"live" not in b"".join(path.read_bytes() for path in tmp_path.rglob("*.jsonl"))


def test_a_failed_call_has_a_line(tmp_path: Path) -> None:
    """With the kind of its error, without its message, which may quote what was asked."""
    (line,) = lines(Audit(), a_record(RateLimited("slow down, ann")), state=tmp_path)
    assert (line["status"], line["error"]) == ("error", "rate_limited")
    assert "slow down" not in json.dumps(line)


def test_content(tmp_path: Path) -> None:
    """`full` has the request as the caller gave it, `masked` as it was sent; each with the answer
    and its tool calls, field by field."""
    sent = a_record(response("done", tool_calls=({"id": "t"},)), messages=(Message("user", "[m]"),))
    record = CallRecord(
        sent.request, sent.result, sent.usage, None, None, NOW, 1.0, None, asked=request("ann's")
    )
    for content, prompt in (("full", "ann's"), ("masked", "[m]")):
        settings = Audit(content=content)  # type: ignore[arg-type]
        (line,) = lines(settings, record, state=tmp_path / content)
        texts = {name: field["text"] for name, field in line["content"].items()}
        assert json.loads(texts.pop("prompt")) == [{"role": "user", "content": prompt}]
        assert texts == {"answer": "done", "tool_calls": '[{"id":"t"}]'}
        assert len({field["salt"] for field in line["content"].values()}) == 3
        assert check_integrity(tmp_path / content / "audit", KEY).findings == []


@pytest.mark.parametrize("content", ["masked", "full"])
def test_content_of_a_masked_call(content: Literal["masked", "full"], tmp_path: Path) -> None:
    """`masked` has tokens in question, answer and tool calls, though the caller got the values;
    `full` has the values in all of them."""
    token, value = "[[EMAIL_1a2b]]", 'ann"@x.example'
    asked = request(f"mail {token}", masked=Masked({"email": 1}, {token: value}))
    call = {"type": "function", "function": {"name": "f", "arguments": json.dumps({"to": value})}}
    answer = replace(response(f"to {value}"), tool_calls=(call,))
    record = CallRecord(asked, answer, Usage(3, 2), None, None, NOW, 1.0, None)
    (line,) = lines(Audit(content=content), record, state=tmp_path)
    said = {name: field["text"] for name, field in line["content"].items()}
    assert set(said) == {"prompt", "answer", "tool_calls"}
    for text in said.values():
        assert (token in text) is (content == "masked")
        assert ("x.example" in text) is (content == "full")
    assert json.loads(said["prompt"])


def test_never_a_key(tmp_path: Path) -> None:
    """A key that this process has held is in no line, wherever somebody has pasted it; half a
    character is no reason to write nothing."""
    remember(PROVIDER_KEY)
    record = a_record(response(f"your key is {PROVIDER_KEY} \ud800"), messages=(
        Message("user", f"my key is {PROVIDER_KEY}"),
    ))  # fmt: skip
    (line,) = lines(Audit(content="full"), record, state=tmp_path)
    assert PROVIDER_KEY not in json.dumps(line)
    assert line["content"]["answer"]["text"] == "your key is [key] ?"


@pytest.fixture
def server() -> Iterator[HTTPServer]:
    """A server that keeps what it is sent in `heard`, and answers with its `status`."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            self.server.heard.append(json.loads(body))  # type: ignore[attr-defined]
            self.send_response(self.server.status)  # type: ignore[attr-defined]
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    found = HTTPServer(("127.0.0.1", 0), Handler)
    vars(found).update(heard=[], status=204)
    thread = threading.Thread(target=found.serve_forever)
    thread.start()
    yield found
    found.shutdown()
    thread.join()
    found.server_close()


def test_the_head_is_kept_elsewhere(tmp_path: Path) -> None:
    """A run writes it at its end, and the file verifies the log. One without a call writes none."""
    place = tmp_path / "elsewhere.json"
    settings = Audit(checkpoint=str(place))
    lines(settings, a_record(), a_record(), state=tmp_path)
    kept = read_checkpoint(place)
    assert (kept.sequence, place.stat().st_mode & 0o777) == (3, 0o600)
    assert check_integrity(tmp_path / "audit", KEY, kept).findings == []
    place.unlink()
    lines(settings, state=tmp_path)
    assert not place.exists()


def test_a_long_run_writes_it_every_minute(tmp_path: Path) -> None:
    """While calls come, not at the end alone; when none has come, it is not written again."""
    place = tmp_path / "elsewhere.json"
    slept: list[float] = []

    class Ticking(FakeClock):
        async def sleep(self, seconds: float) -> None:
            """A minute that passes at once, in which a call is made; but for the last."""
            slept.append(seconds)
            if len(slept) > 1:
                kept.append(read_checkpoint(place).sequence)
            if len(slept) == 4:
                ended.set()
            elif len(slept) != 2:
                log.append_now({"kind": "call", "call": str(len(slept))})

    kept: list[int] = []
    clock, ended = Ticking(), asyncio.Event()
    with closing(AuditLog(tmp_path / "audit", KEY, clock)) as log:
        asyncio.run(Checkpoints(log, str(place), clock, print).run(ended))
    assert slept == [EVERY] * 4
    assert kept == [2, 2, 3]


def test_a_server_is_told(tmp_path: Path, server: HTTPServer) -> None:
    """The head goes to an address; one that answers with an error, or not at all, is a warning, and
    the next one says all that it would have said."""
    warned: list[str] = []
    heard = vars(server)["heard"]
    place = f"http://127.0.0.1:{server.server_address[1]}/head"

    async def write() -> None:
        checkpoints = Checkpoints(log, place, FakeClock(), warned.append)
        await checkpoints.write()
        await checkpoints.write()
        assert len(heard) == 1
        await log.append({"kind": "call"})
        vars(server)["status"] = 500
        await checkpoints.write()
        vars(server)["status"] = 204
        await checkpoints.write()
        nobody = Checkpoints(log, "http://127.0.0.1:1/head", FakeClock(), warned.append)
        await nobody.write()

    with closing(AuditLog(tmp_path / "audit", KEY, FakeClock())) as log:
        asyncio.run(write())
    assert [one["sequence"] for one in heard] == [1, 2, 2]
    assert len({one["mac"] for one in heard}) == 2
    assert warned[0] == "the audit's checkpoint was not written: 127.0.0.1 answers 500"
    assert warned[1].startswith("the audit's checkpoint was not written: ")


def test_a_place_that_cannot_be_written_is_told_once(tmp_path: Path) -> None:
    """A run that ends tries once more, not twice with the same warning."""
    warned: list[str] = []

    class Waiting(FakeClock):
        async def sleep(self, seconds: float) -> None:
            """The run ends within the minute."""
            assert seconds == EVERY
            ended.set()
            await asyncio.Event().wait()

    clock, ended = Waiting(), asyncio.Event()
    with closing(AuditLog(tmp_path / "audit", KEY, clock)) as log:
        place = str(tmp_path / "missing" / "head.json")
        asyncio.run(Checkpoints(log, place, clock, warned.append).run(ended))
    assert len(warned) == 1
