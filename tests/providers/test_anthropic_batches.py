"""Batches of Anthropic keep the one contract, and what is their own."""

from __future__ import annotations

import io
import time

import orjson
import pytest
from msgspec.structs import replace

from llmctl.errors import BadResponse, InvalidRequest
from llmctl.providers.anthropic_batches import AnthropicBatches
from llmctl.providers.batch_api import BatchResult
from tests.conformance.batch_api import HAND, BatchApiSuite, Wired, call_id, cities
from tests.simulator.batches import Fate
from tests.simulator.faults import Body
from tests.simulator.scripts import fail_first


def result(**said: object) -> BatchResult:
    """The result in the line of a row."""
    line = orjson.dumps({"custom_id": "a", "result": said})
    (found,) = AnthropicBatches().results(io.BytesIO(b"\n" + line + b"\n\n"))
    assert found.call_id == "a"
    return found


class TestAnthropic(BatchApiSuite):
    """The suite, and what else there is at a provider."""

    adapter = "anthropic"
    uploads = False
    refuses = False
    tells_usage = False
    tells_queue = False

    def test_rows_that_were_not_asked_have_no_reply(self, wired: Wired) -> None:
        """Those of an expired and of a cancelled batch have the status 0, and count as failed."""
        self.set(wired, Fate(expire_after=3), Fate(progress="hand"))
        expired, cancelled = wired.submit(*cities(8)), wired.submit(*cities(2))
        wired.run(wired.api.cancel(wired.client, cancelled.id))
        wired.sim.batches.finish()
        for made, done in ((expired, 3), (cancelled, 0)):
            status = wired.status(made)
            found = wired.results(status)
            assert found.keys() == made.part.call_ids
            unasked = [row for row in found.values() if row == BatchResult(row.call_id, 0)]
            assert (status.done, status.failed) == (done, len(unasked))
            assert status.total == done + len(unasked)

    def test_all_batches_that_may_be_the_parts_are_found(self, wired: Wired) -> None:
        """As many rows, and made since it was, by a clock that may be a minute late."""
        self.set(wired, HAND)
        made = [wired.submit(*cities(count)) for count in (2, 3, 2)]
        newest_first = (made[2].id, made[0].id)
        for seconds, found in ((50, newest_first), (-3600, newest_first), (70, ())):
            part = replace(made[0].part, created=time.time() + seconds)
            assert wired.run(wired.api.find(wired.client, part)) == found

    def test_a_list_that_does_not_go_on(self, wired: Wired) -> None:
        """Where the next page is the same again, nobody can say that there is no batch."""
        self.set(wired, HAND)
        made = wired.submit("hi")
        other = {"id": made.id, "processing_status": "ended"}
        for data in ([other], []):
            page = orjson.dumps({"data": data, "has_more": True})
            self.set(wired, HAND, faults={"list": Body(body=page)})
            with pytest.raises(BadResponse):
                wired.run(wired.api.find(wired.client, made.part))

    def test_results_at_another_origin_are_not_asked_for(self, wired: Wired) -> None:
        """The key is for the profile's own."""
        self.set(wired, Fate(), results_origin="http://127.0.0.1:9")
        status = wired.end(wired.submit("hi"))
        assert status.downloads[0].path.startswith("http://127.0.0.1:9/")
        with pytest.raises(BadResponse, match="another server"):
            wired.files(status)

    @pytest.mark.parametrize(
        ("said", "ended", "cancelled"),
        [
            ({"processing_status": "in_progress"}, False, False),
            ({"processing_status": "canceling", "cancel_initiated_at": "T"}, False, False),
            ({"processing_status": "ended", "cancel_initiated_at": "T"}, True, True),
            ({"processing_status": "pondering", "ended_at": None}, False, False),
            ({"processing_status": "stopped", "ended_at": "T"}, True, False),
            ({"processing_status": "stopped", "archived_at": "T"}, True, False),
        ],
    )
    def test_words(
        self, wired: Wired, said: dict[str, object], *, ended: bool, cancelled: bool
    ) -> None:
        """Whatever the word, the times tell that the batch has ended."""
        made = wired.submit("hi")
        self.set(wired, HAND, faults={"poll": Body(body=orjson.dumps({"id": "b", **said}))})
        status = wired.status(made)
        assert (status.ended, status.cancelled) == (ended, cancelled)

    def test_archived_results(self, wired: Wired) -> None:
        """That they are gone is told: the rows were answered, and paid."""
        made = wired.submit("hi")
        gone = {"id": "b", "processing_status": "ended", "archived_at": "2026-01-02T03:04:05Z"}
        self.set(wired, HAND, faults={"poll": fail_first(1, Body(body=orjson.dumps(gone)))})
        assert "archived" in wired.status(made).problem
        assert wired.end(made).problem == ""

    def test_a_row_has_no_betas(self, wired: Wired) -> None:
        """They are a header of the whole batch: no line is made."""
        with pytest.raises(InvalidRequest, match="`headers` of the profile") as caught:
            wired.line(call_id(0), wired.request("hi", betas=["output-300k"]))
        assert not caught.value.sent

    def test_a_body_is_never_too_large(self, wired: Wired) -> None:
        """What goes around the rows counts."""
        self.set(wired, HAND)
        made = wired.submit("hi", "you")
        around = len(wired.sim.calls[-1].raw) - made.part.size
        assert wired.api.limits("").size + around == 256_000_000


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        ("invalid_request_error", 400),
        ("billing_error", 402),
        ("not_found_error", 404),
        ("request_too_large", 413),
        ("rate_limit_error", 429),
        ("api_error", 500),
        ("timeout_error", 504),
        ("overloaded_error", 529),
        ("unheard_of_error", 500),
    ],
)
def test_errors_of_rows(kind: str, status: int) -> None:
    """The type says which status the call alone would have had; the body is the error's own."""
    plain = {"type": kind, "message": "no"}
    whole = {"type": "error", "error": plain, "request_id": "req_1"}
    for error, named in ((whole, "req_1"), (plain, None)):
        expected = BatchResult("a", status, orjson.dumps(error), named)
        assert result(type="errored", error=error) == expected


def test_a_type_that_nobody_knows() -> None:
    """Such a row has failed at the provider; the others are read."""
    assert result(type="pondered", thought="x").status == 500


def test_half_an_emoji() -> None:
    """A message that was cut within a surrogate pair is read, as it is in a single reply."""
    line = b'{"custom_id":"a","result":{"type":"succeeded","message":{"text":"\\ud83e"}}}'
    (found,) = AnthropicBatches().results(io.BytesIO(line))
    assert orjson.loads(found.body) == {"text": "\ufffd"}
