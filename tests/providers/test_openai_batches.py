"""Batches of OpenAI and of its imitators keep the one contract, each server in its own way."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from llmctl.errors import BadResponse, CallError, ContentFiltered, InvalidRequest, ServerFailed
from llmctl.protocols import WireRequest
from llmctl.providers import openai_batches
from llmctl.providers.batch_api import BatchResult
from llmctl.providers.openai_batches import OpenAIBatches, Server
from llmctl.providers.registry import codec
from tests.conformance.batch_api import HAND, BatchApiSuite, Wired, call_id
from tests.conformance.codec import KEY, Loop
from tests.simulator.batches import BatchSettings, Fate
from tests.simulator.faults import Body
from tests.simulator.server import Simulator

API = OpenAIBatches()


class TestOpenAI(BatchApiSuite):
    """The suite."""

    adapter = "openai"


class TestGroq(BatchApiSuite):
    """The suite."""

    adapter = "groq"


@pytest.fixture
def wired(loop: Loop, tmp_path: Path) -> Iterator[Wired]:
    """OpenAI's batches, which go on by hand."""
    with Simulator(keys=[KEY], batch=BatchSettings(fates=(HAND,))) as sim:
        yield Wired("openai", sim, loop, tmp_path)


def told(wired: Wired, **fields: Any) -> Any:
    """What is made of a batch that the provider describes so."""
    body = orjson.dumps({"id": "b", "status": "completed", **fields})
    wired.sim.batch.faults = {"poll": Body(body=body)}
    return wired.run(API.status(wired.client, "b"))


def read(*lines: bytes) -> list[BatchResult]:
    """The results in a file of these lines."""
    return list(API.results(io.BytesIO(b"\n".join(lines))))


def failed(error: object, response: object = None) -> tuple[BatchResult, CallError]:
    """The result of a row that failed so, and its error."""
    (result,) = read(orjson.dumps({"custom_id": "a", "response": response, "error": error}))
    return result, codec("openai").failure(result.status, {}, result.body)


def test_what_servers_hold() -> None:
    """Each host has limits of its own; one that nobody knows has OpenAI's."""
    assert API.limits("https://api.openai.com/v1").rows == 50_000
    assert API.limits("http://127.0.0.1:1/v1") == API.limits("https://api.openai.com/v1")
    assert API.limits("https://x.openai.azure.com/openai/v1").size == 200_000_000
    assert API.limits("https://api.groq.com/openai/v1").size == 100_000_000
    assert API.limits("https://api.together.xyz/v1").size == 100_000_000


@pytest.mark.parametrize("host", ["api.x.ai", "api.fireworks.ai"])
def test_batches_of_another_shape_are_refused(host: str) -> None:
    """Nothing is sent to a server whose chat is like OpenAI's and whose batches are not."""
    with pytest.raises(InvalidRequest, match="not like OpenAI's") as caught:
        API.limits(f"https://{host}/v1")
    assert not caught.value.sent


def test_what_cannot_stand_in_a_batch(wired: Wired) -> None:
    """A request without a body, or above the base URL, has no line."""
    asked = wired.request("hi")
    for wire in (WireRequest("/models", None, method="GET"), WireRequest("../v2/x", {})):
        with pytest.raises(InvalidRequest) as caught:
            API.line(call_id(0), wire, asked)
        assert not caught.value.sent


def test_a_server_without_metadata_keeps_the_name_of_the_file(
    wired: Wired, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The intent is found there, and a stranger's batch is not taken for ours."""
    monkeypatch.setitem(openai_batches._SERVERS, "127.0.0.1", Server(metadata=False))
    made, other = wired.submit("a"), wired.submit("b")
    assert "metadata" not in (wired.sim.batches.jobs[0].said)
    for each in (made, other):
        assert wired.run(API.find(wired.client, each.part)) == (each.id,)
    assert wired.run(API.find(wired.client, wired.part("c"))) == ()
    for file in list(wired.sim.batches.files):
        wired.run(wired.client.exchange(WireRequest(f"/files/{file}", None, method="DELETE")))
    assert wired.run(API.find(wired.client, made.part)) == ()


def test_together_answers_in_a_frame_and_lists_without_one(wired: Wired) -> None:
    """A new batch in `job`, a list that is a bare array, times as text, words in capitals."""
    part = wired.part("hi")
    file = wired.run(API.upload(wired.client, part))
    wired.sim.batch.faults = {
        "create": Body(body=b'{"job":{"id":"b1","status":"VALIDATING"},"warning":""}'),
        "list": Body(
            body=orjson.dumps(
                [
                    {"id": name, "status": "FAILED", "created_at": when, "input_file_id": file}
                    for name, when in (
                        ("b0", "2020-01-01T00:00:00Z"),
                        ("b1", "2100-01-01T00:00:00Z"),
                    )
                ]
            )
        ),
    }
    assert wired.run(API.create(wired.client, part, file)) == "b1"
    assert wired.run(API.find(wired.client, part)) == ("b1",)
    status = told(wired, status="FAILED", error="the model is gone")
    assert (status.ended, status.problem) == (True, "the model is gone")


def test_the_first_errors_of_a_refused_batch(wired: Wired) -> None:
    """Their lines are named, the rest is counted, and keys are cut out."""
    errors = [{"line": n, "code": "bad", "message": f"no {n}\n{KEY}"} for n in range(1, 6)]
    status = told(wired, status="failed", errors={"object": "list", "data": errors})
    assert status.problem == (
        "line 1: no 1 [key]; line 2: no 2 [key]; line 3: no 3 [key]; and 2 more"
    )
    assert told(wired, status="failed").problem == "the provider does not say why"
    assert not told(wired, status="expired").problem


def test_a_batch_without_a_word_is_none(wired: Wired) -> None:
    """Nothing is known of it, least of all that it is over."""
    wired.sim.batch.faults = {"poll": Body(body=b'{"id":"b","output_file_id":"f"}')}
    with pytest.raises(BadResponse):
        wired.run(API.status(wired.client, "b"))


@pytest.mark.parametrize("word", ["validating", "in_progress", "finalizing", "cancelling"])
def test_words_of_batches_that_go_on(wired: Wired, word: str) -> None:
    """Such a batch has not ended, whatever stands beside its word."""
    assert not told(wired, status=word, output_file_id="f", completed_at=1).ended


@pytest.mark.parametrize("word", ["completed", "failed", "expired", "cancelled", "FAILED"])
def test_words_of_batches_that_are_over(wired: Wired, word: str) -> None:
    """Such a batch has ended, and both of its files are got, where they are there."""
    status = told(wired, status=word, output_file_id="a/b", error_file_id="")
    assert [wire.path for wire in status.downloads] == ["/files/a%2Fb/content"]
    assert (status.ended, status.cancelled) == (True, word == "cancelled")


def test_a_word_that_nobody_knows_is_the_end_by_its_signs(wired: Wired) -> None:
    """An end time or a file beside it says so; without any the batch goes on."""
    assert not told(wired, status="resting").ended
    assert told(wired, status="resting", expired_at=1).ended
    assert told(wired, status="resting", error_file_id="f").ended


@pytest.mark.parametrize("code", ["batch_expired", "batch_cancelled", "batch_canceled"])
def test_rows_that_were_not_asked(code: str) -> None:
    """They have no reply."""
    assert failed({"code": code, "message": "m"})[0] == BatchResult("a", 0)


def test_errors_without_a_status() -> None:
    """They get that of the call alone; what nobody knows is the server's fault."""
    for code, status in (
        ("invalid_request_error", 400), ("rate_limit_exceeded", 429), ("model_not_found", 404),
        ("503", 503), (422, 422), ("request_timeout", 500), (None, 500),
    ):  # fmt: skip
        assert failed({"code": code, "message": "m"})[0].status == status
    result, error = failed({"code": "content_filter", "message": "the filter"})
    assert (result.status, type(error)) == (400, ContentFiltered)
    result, error = failed("words alone")
    assert isinstance(error, ServerFailed)
    assert "words alone" in str(error)
    assert failed(None)[0].status == 500


def test_a_status_without_a_body() -> None:
    """It counts, with the error beside it; Azure leaves both out where its filter was at work."""
    assert failed({"message": "m"}, {"status_code": 429, "body": None})[0].status == 429
    azure = {"request_id": "", "status_code": "", "body": None}
    result, error = failed({"code": "content_filter", "message": "m"}, azure)
    assert (result.status, result.request_id, type(error)) == (400, None, ContentFiltered)


def test_bodies_stay_as_they_are() -> None:
    """White space, escapes, big numbers and the order of fields are the provider's."""
    body = b'{"b" : 1.0e2,\t"a":"\\u00e9\\ud83d\\ude00", "n":123456789012345678901234567890}'
    line = b'{"custom_id":"a","response":{"status_code":200,"request_id":"r","body": %b}}'
    (result,) = read(line % body, b"", b"  ")
    assert result == BatchResult("a", 200, body, "r")


def test_what_json_forbids_is_read_all_the_same() -> None:
    """One answer with NaN does not cost the file."""
    line = b'{"custom_id":"a","response":{"status_code":200,"body":{"x":NaN}},"error":null}'
    assert read(line)[0].body == b'{"x": null}'


@pytest.mark.parametrize(
    "line", [b"a canary", b"{}", b"[]", b'{"custom_id":7}', b'{"custom_id":"a"']
)
def test_a_line_that_is_none_is_named(line: bytes) -> None:
    """By its number, without its content; the lines before it are read."""
    good = b'{"custom_id":"a","response":{"status_code":200,"body":{}}}'
    found = API.results(io.BytesIO(b"\n".join([good, line])))
    assert next(found).call_id == "a"
    with pytest.raises(BadResponse, match=r"^line 2 of the results") as caught:
        next(found)
    assert line.decode() not in str(caught.value)


def test_an_expired_batch_tells_its_late_rows(wired: Wired) -> None:
    """The rows that OpenAI did not get to are among the results, without a reply."""
    wired.sim.batch.fates = (Fate(expire_after=1),)
    found = wired.results(wired.end(wired.submit("a", "b", "c")))
    assert sorted(result.status for result in found.values()) == [0, 0, 200]
