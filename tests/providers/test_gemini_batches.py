"""Batches of Gemini keep the one contract, and what is their own."""

from __future__ import annotations

import io
from dataclasses import dataclass
from functools import partial
from typing import Any

import orjson
import pytest

from llmctl.errors import (
    AuthFailed,
    BadResponse,
    CallError,
    InvalidRequest,
    NotFound,
    Overloaded,
    PermissionRefused,
    RateLimited,
    ServerFailed,
)
from llmctl.protocols import WireRequest
from llmctl.providers.batch_api import BatchResult, FileNotVisible
from llmctl.providers.gemini import Gemini
from llmctl.providers.gemini_batches import GeminiBatches
from tests.conformance.batch_api import HAND, BatchApiSuite, Wired, call_id
from tests.simulator.call import Call
from tests.simulator.fault import Fault
from tests.simulator.faults import Body
from tests.simulator.http1 import Answer
from tests.simulator.wires.wire import Wire

DENIED = "You do not have permission to access the File {id} or it may not exist."


@dataclass(frozen=True, kw_only=True)
class UploadElsewhere(Fault):
    """An upload's address at another server."""

    def answer(self, answer: Answer, wire: Wire) -> Answer:  # noqa: ARG002  (the seam passes it)
        """Give that address."""
        return Answer(200, (("x-goog-upload-url", "http://127.0.0.1:9/upload"),), (b"",))


def result(**said: object) -> BatchResult:
    """The result in the line of a row."""
    line = orjson.dumps({"key": "a", **said})
    (found,) = GeminiBatches().results(io.BytesIO(b"\n" + line + b"\n\n"))
    assert found.call_id == "a"
    return found


def operation(name: str, intent: str, created: str | None = None) -> dict[str, Any]:
    """A batch in a list."""
    return {"name": f"batches/{name}", "metadata": {"displayName": intent, "createTime": created}}


def second_page(first: Fault, second: Fault, call: Call) -> Fault:
    """The second where a page is asked for by its token."""
    return second if "pageToken" in call.query else first


class TestGemini(BatchApiSuite):
    """The suite, and what else there is at a provider."""

    adapter = "gemini"
    tells_usage = False
    tells_queue = False

    def test_the_intent_is_on_file_and_batch(self, wired: Wired) -> None:
        """A person finds it at the provider; the file goes up in two requests, as it is."""
        self.set(wired, HAND)
        part = wired.submit("hi", "you").part
        start, upload, create = wired.sim.calls[-3:]
        assert start.body == {"file": {"displayName": f"{part.intent}.jsonl"}}
        assert start.headers["x-goog-upload-header-content-length"] == str(part.size)
        (file,) = wired.sim.batches.files.values()
        with part.open() as lines:
            assert (file.data[:], upload.method) == (lines.read(), "POST")
        assert create.path.endswith("/models/sim-small:batchGenerateContent")
        config = {"fileName": f"files/{file.id}"}
        assert create.body == {"batch": {"displayName": part.intent, "inputConfig": config}}

    def test_nothing_is_uploaded_to_another_origin(self, wired: Wired) -> None:
        """The key, and the prompts, are for the profile's own."""
        self.set(wired, HAND, faults={"upload": UploadElsewhere()})
        with pytest.raises(BadResponse, match="another server"):
            wired.submit("hi")

    @pytest.mark.parametrize(
        ("status", "words", "unseen"),
        [
            (403, DENIED, True),
            (404, "File files/{id} was not found.", True),
            (400, "The File {id} is not in an ACTIVE state and usage is not allowed.", True),
            (400, "Line 1 of files/{id} is no request.", False),
            (403, "You do not have permission to make batches.", False),
        ],
    )
    def test_words_for_a_file_that_is_not_visible(
        self, wired: Wired, status: int, words: str, *, unseen: bool
    ) -> None:
        """Google says it in several ways, which name the file."""
        part = wired.part("hi")
        file = wired.run(wired.api.upload(wired.client, part))
        assert file is not None
        error = {"code": status, "message": words.format(id=file.removeprefix("files/"))}
        body = orjson.dumps({"error": error})
        self.set(wired, HAND, faults={"create": Body(status=status, body=body)})
        with pytest.raises(CallError) as caught:
            wired.run(wired.api.create(wired.client, part, file))
        assert isinstance(caught.value, FileNotVisible) is unseen
        assert caught.value.http_status == status

    def test_no_order_of_the_list_is_relied_upon(self, wired: Wired) -> None:
        """A page with one young batch, or one whose time is not said, may be followed by more."""
        part = wired.part("hi")
        old, new = "2020-01-02T03:04:05Z", "2100-01-02T03:04:05Z"
        for time in (new, None):
            listed = [operation("a", "x", old), operation("b", "y", time), operation("c", "", old)]
            first = Body(body=orjson.dumps({"operations": listed, "nextPageToken": "0"}))
            second = Body(body=orjson.dumps({"operations": [operation("d", part.intent, old)]}))
            self.set(wired, HAND, faults={"list": partial(second_page, first, second)})
            assert wired.run(wired.api.find(wired.client, part)) == ("d",)

    def test_a_list_that_does_not_go_on(self, wired: Wired) -> None:
        """Where the next page is the same again, nobody can say that there is no batch."""
        part = wired.part("hi")
        body = orjson.dumps({"operations": [operation("a", "x")], "nextPageToken": "0"})
        self.set(wired, HAND, faults={"list": Body(body=body)})
        with pytest.raises(BadResponse):
            wired.run(wired.api.find(wired.client, part))

    def test_an_empty_list(self, wired: Wired) -> None:
        """Google leaves empty lists out: there is no batch."""
        self.set(wired, HAND, faults={"list": Body(body=b"{}")})
        assert wired.run(wired.api.find(wired.client, wired.part("hi"))) == ()

    @pytest.mark.parametrize("prefix", ["BATCH_STATE_", "JOB_STATE_"])
    @pytest.mark.parametrize(
        ("state", "more", "ended"),
        [
            ("UNSPECIFIED", {}, False),
            ("QUEUED", {}, False),
            ("PENDING", {}, False),
            ("RUNNING", {"output": {"responsesFile": "files/r"}}, False),
            ("UPDATING", {"endTime": "2026-01-02T03:04:05Z"}, False),
            ("PAUSED", {}, False),
            ("CANCELLING", {}, False),
            ("SUCCEEDED", {}, True),
            ("PARTIALLY_SUCCEEDED", {}, True),
            ("CANCELLED", {}, True),
            ("EXPIRED", {}, True),
            ("FAILED", {}, True),
            ("PONDERING", {}, False),
            ("PONDERED", {"endTime": "2026-01-02T03:04:05Z"}, True),
            ("PONDERED", {"output": {"responsesFile": "files/r"}}, True),
        ],
    )
    def test_states(
        self, wired: Wired, prefix: str, state: str, more: dict[str, Any], *, ended: bool
    ) -> None:
        """The provider's and its SDK's words; of others an end or results tell."""
        made = wired.submit("hi")
        body = orjson.dumps({"name": "batches/b", "metadata": {"state": prefix + state, **more}})
        self.set(wired, HAND, faults={"poll": Body(body=body)})
        status = wired.status(made)
        assert (status.word, status.ended) == (prefix + state, ended)
        assert status.cancelled is (state == "CANCELLED")
        assert bool(status.problem) is (state in ("FAILED", "PONDERED") and "output" not in more)

    @pytest.mark.parametrize("place", ["response", "metadata"])
    def test_results_whatever_the_end(self, wired: Wired, place: str) -> None:
        """A failed operation that is done and has a file was not refused; the counts are texts."""
        made = wired.submit("hi")
        output = {"responsesFile": "files/batch-x"}
        said: dict[str, Any] = {
            "name": "batches/b",
            "done": True,
            "metadata": {
                "state": "BATCH_STATE_FAILED",
                "batchStats": {"requestCount": "3", "successfulRequestCount": "2"},
            },
            "error": {"code": 13, "message": "half of it"},
        }
        if place == "response":
            said["response"] = output
        else:
            said["metadata"]["output"] = output
        self.set(wired, HAND, faults={"poll": Body(body=orjson.dumps(said))})
        status = wired.status(made)
        assert [wire.path for wire in status.downloads] == ["/files/batch-x:download?alt=media"]
        assert (status.ended, status.problem) == (True, "")
        assert (status.total, status.done, status.failed) == (3, 2, 0)

    def test_a_cancelled_operation(self, wired: Wired) -> None:
        """One that is done with the error CANCELLED was ended on purpose, and not refused."""
        made = wired.submit("hi")
        error = {"code": 1, "message": "cancelled"}
        said = {"name": "batches/b", "done": True, "metadata": {"state": ""}, "error": error}
        self.set(wired, HAND, faults={"poll": Body(body=orjson.dumps(said))})
        status = wired.status(made)
        assert (status.ended, status.cancelled, status.problem) == (True, True, "")

    def test_what_is_no_whole_answer_is_refused(self, wired: Wired) -> None:
        """No line is made for it, and nothing was sent."""
        for verb in ("embedContent", "streamGenerateContent?alt=sse"):
            wire = WireRequest(f"/models/m:{verb}", {"contents": []})
            with pytest.raises(InvalidRequest) as caught:
                wired.api.line(call_id(0), wire, wired.request("hi"))
            assert not caught.value.sent


@pytest.mark.parametrize(
    ("code", "status", "kind"),
    [
        (2, 500, ServerFailed),
        (3, 400, InvalidRequest),
        (4, 504, ServerFailed),
        (5, 404, NotFound),
        (7, 403, PermissionRefused),
        (8, 429, RateLimited),
        (13, 500, ServerFailed),
        (14, 503, Overloaded),
        (16, 401, AuthFailed),
        (429, 429, RateLimited),
        (503, 503, Overloaded),
        (77, 500, ServerFailed),
        (None, 500, ServerFailed),
        ("x", 500, ServerFailed),
    ],
)
def test_errors_of_rows(code: object, status: int, kind: type[CallError]) -> None:
    """google.rpc's code, or HTTP's, says which status and error the call alone would have had;
    message and details are kept."""
    delay = [{"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "7s"}]
    found = result(error={"code": code, "message": "so it is", "details": delay})
    assert found.status == status
    error = Gemini().failure(found.status, {}, found.body)
    assert type(error) is kind
    assert "so it is" in error.message
    assert error.retry_after == 7
    assert orjson.loads(found.body)["error"]["code"] == status


@pytest.mark.parametrize(
    "said", [{"error": {"code": 1, "message": "cancelled"}}, {}, {"response": None}]
)
def test_rows_that_were_not_asked_have_no_reply(said: dict[str, object]) -> None:
    """A row that was cancelled, or has neither response nor error, has the status 0."""
    assert result(**said) == BatchResult("a", 0)


def test_a_line_too_deep_to_read() -> None:
    """It is told like any other nonsense, and ends no run."""
    line = b'{"key":"a","response":' + b"[" * 5000 + b"]" * 5000 + b"}"
    with pytest.raises(BadResponse):
        list(GeminiBatches().results(io.BytesIO(line)))


def test_an_id_that_is_no_text() -> None:
    """Bytes that are no UTF-8 make an id that nobody asked for; the rows around it are read."""
    lines = b'{"key":"\xff","response":{}}\n{"key":"a","response":{"b":1}}\n'
    found = list(GeminiBatches().results(io.BytesIO(lines)))
    assert found == [BatchResult("\ufffd", 200, b"{}"), BatchResult("a", 200, b'{"b":1}')]
