"""The simulated batches of the OpenAI family do what a batch engine must live with."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

from tests.simulator import errors
from tests.simulator.batches import BatchSettings, Fate, LostAnswer, content_key
from tests.simulator.batches_openai import OpenAIRows
from tests.simulator.faults import CutBody, Disconnect, Hang
from tests.simulator.reply import Problem
from tests.simulator.scripts import fail_first, for_prompt
from tests.simulator.server import Simulator

HAND = Fate(progress="hand")


class Client:
    """A client of OpenAI's batches at a simulator."""

    def __init__(self, http: httpx2.Client, sim: Simulator) -> None:
        self.http, self.base = http, sim.base_url

    def upload(self, lines: list[Any]) -> str:
        """Upload rows; the file's id."""
        data = b"".join(json.dumps(line).encode() + b"\n" for line in lines)
        form = {"purpose": "batch"}
        answer = self.http.post(f"{self.base}/files", data=form, files={"file": ("in.jsonl", data)})
        made: dict[str, Any] = answer.raise_for_status().json()
        assert made["bytes"] == len(data)
        return str(made["id"])

    def create(self, file: str, **more: Any) -> httpx2.Response:
        """Make a batch."""
        body = {"input_file_id": file, "endpoint": "/v1/chat/completions", **more}
        return self.http.post(f"{self.base}/batches", json={"completion_window": "24h"} | body)

    def start(self, count: int = 4, **more: Any) -> str:
        """Upload `count` rows and make a batch of them; its id."""
        made = self.create(self.upload([row(number) for number in range(count)]), **more)
        return str(made.raise_for_status().json()["id"])

    def get(self, path: str) -> httpx2.Response:
        """Ask for anything."""
        return self.http.get(f"{self.base}/{path}")

    def poll(self, batch: str) -> dict[str, Any]:
        """Ask where a batch is."""
        found: dict[str, Any] = self.get(f"batches/{batch}").raise_for_status().json()
        return found

    def cancel(self, batch: str) -> httpx2.Response:
        """Cancel a batch."""
        return self.http.post(f"{self.base}/batches/{batch}/cancel")

    def lines(self, file: str | None) -> list[dict[str, Any]]:
        """The lines of a file; none of no file."""
        if file is None:
            return []
        return list(map(json.loads, self.get(f"files/{file}/content").text.splitlines()))


@pytest.fixture
def http() -> Iterator[httpx2.Client]:
    """Give an HTTP client that fails within 5 s."""
    with httpx2.Client(timeout=5, headers={"authorization": "Bearer k1"}) as client:
        yield client


def body(number: int) -> dict[str, Any]:
    """The body of a row."""
    return {"model": "sim-small", "messages": [{"role": "user", "content": f"row {number}"}]}


def row(number: int, **more: Any) -> dict[str, Any]:
    """A row that asks for its number."""
    line = {"custom_id": f"r{number}", "method": "POST", "url": "/v1/chat/completions"}
    return line | {"body": body(number)} | more


def ids(lines: list[dict[str, Any]]) -> list[str]:
    """The rows that lines are about."""
    return [line["custom_id"] for line in lines]


def sim_of(*fates: Fate, **more: Any) -> Simulator:
    """A simulator whose batches have these fates."""
    return Simulator(batch=BatchSettings(fates=fates or (Fate(),), **more))


def test_a_batch_advances_by_polls_and_answers_out_of_order(http: httpx2.Client) -> None:
    """Validating, in progress, finalizing, completed: four polls; every row is answered and billed
    once as an online call is, in an order of the provider's own."""
    with sim_of(Fate(to_end=4)) as sim:
        client = Client(http, sim)
        batch = client.start(20, metadata={"intent": "i-1"})
        assert client.get("batches").json()["data"][0]["status"] == "validating"
        seen = [client.poll(batch) for _ in range(4)]
        last = seen[-1]
        lines = client.lines(last["output_file_id"])
    states = ["in_progress", "in_progress", "finalizing", "completed"]
    assert [found["status"] for found in seen] == states
    assert [found["request_counts"]["completed"] for found in seen] == [5, 10, 15, 20]
    assert (last["error_file_id"], last["metadata"]) == (None, {"intent": "i-1"})
    assert sorted(ids(lines)) == sorted(f"r{number}" for number in range(20))
    assert ids(lines) != [f"r{number}" for number in range(20)]
    for line in lines:
        said = line["response"]["body"]["choices"][0]["message"]["content"]
        assert (said, line["error"]) == (f"echo: row {line['custom_id'][1:]}", None)
    assert sim.batches.billed.per_key == {content_key(body(n)): 1 for n in range(20)}
    assert sim.billed == sim.batches.billed
    assert last["usage"]["input_tokens"] == sim.billed.input_tokens
    assert last["usage"]["output_tokens"] == sim.billed.output_tokens


def test_a_rows_key_is_that_of_the_same_call_online(http: httpx2.Client) -> None:
    """A row that is sent online after its batch answered it is billed twice, and counted so."""
    with sim_of(Fate(to_end=1)) as sim:
        client = Client(http, sim)
        client.poll(client.start(1))
        http.post(f"{sim.base_url}/chat/completions", json=body(0))
    assert (sim.billed.requests, sim.billed.repeated) == (2, 1)
    assert sim.batches.billed.requests == 1


def test_a_test_moves_a_batch_by_hand(http: httpx2.Client) -> None:
    """With `hand` no poll moves a batch; `advance` and `finish` do, and the bill is there."""
    with sim_of(HAND) as sim:
        client = Client(http, sim)
        batch = client.start()
        assert [client.poll(batch)["status"] for _ in range(3)] == ["validating"] * 3
        sim.batches.advance()
        assert client.poll(batch)["status"] == "in_progress"
        assert sim.billed.requests == 0
        sim.batches.finish()
        assert sim.billed.requests == 4
        assert client.poll(batch)["status"] == "completed"


def test_seconds_end_a_batch(http: httpx2.Client) -> None:
    """With `seconds` the time since create counts."""
    with sim_of(Fate(progress="seconds", to_end=0), Fate(progress="seconds", to_end=60)) as sim:
        client = Client(http, sim)
        assert client.poll(client.start())["status"] == "completed"
        batch = client.start()
        assert client.poll(batch)["status"] == "in_progress"
        sim.batches.advance(60)
        assert client.poll(batch)["status"] == "completed"


def test_an_uploaded_file_is_not_visible_at_once(http: httpx2.Client) -> None:
    """The first creates of a file cannot find it; nothing is made until one does."""
    with sim_of(invisible=2) as sim:
        client = Client(http, sim)
        file = client.upload([row(0)])
        answers = [client.create(file) for _ in range(3)]
        assert [answer.status_code for answer in answers] == [400, 400, 200]
        assert "Cannot find file" in answers[0].json()["error"]["message"]
        assert len(sim.batches.jobs) == 1


def test_create_is_answered_after_it_was_done(http: httpx2.Client) -> None:
    """A broken connection or a 500 hides a batch that exists; a plain refusal hides none."""
    script = iter([Disconnect(), LostAnswer(), errors.server_error()])
    with sim_of(faults={"create": lambda _: next(script, None)}) as sim:
        client = Client(http, sim)
        file = client.upload([row(0)])
        with pytest.raises(httpx2.RemoteProtocolError):
            client.create(file, metadata={"intent": "lost"})
        assert client.create(file).status_code == 500
        assert client.create(file).status_code == 500
        assert client.get("batches").json()["data"][-1]["metadata"] == {"intent": "lost"}
        assert len(sim.batches.jobs) == 2


def test_validation_fails_after_create_was_answered(http: httpx2.Client) -> None:
    """Create answers 200; the first poll finds the batch failed, with nothing billed."""
    problem = Problem("Enqueued token limit reached", code="token_limit_exceeded")
    with sim_of(Fate(invalid=problem), Fate()) as sim:
        client = Client(http, sim)
        made = client.create(client.upload([row(0)])).json()
        assert (made["status"], client.poll(made["id"])["status"]) == ("validating", "failed")
        other = row(2, body=body(2) | {"model": "x"})
        lines = [row(0), row(0), row(1, url="/v1/embeddings"), other]
        found = client.poll(client.create(client.upload(lines)).json()["id"])
    wrong = [(problem["line"], problem["code"]) for problem in found["errors"]["data"]]
    expected = ["duplicate_custom_id", "invalid_json_line", "mismatched_model"]
    assert wrong == list(zip([2, 3, 4], expected, strict=True))
    assert (found["output_file_id"], sim.billed.requests) == (None, 0)


def test_a_file_has_a_size(http: httpx2.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """Too many rows, too many bytes or no row at all fail validation."""
    monkeypatch.setattr(OpenAIRows, "max_rows", 3)
    with sim_of(Fate(to_end=1)) as sim:
        client = Client(http, sim)
        assert [client.poll(client.start(count))["status"] for count in (3, 4, 0)] == [
            "completed",
            "failed",
            "failed",
        ]
        monkeypatch.setattr(OpenAIRows, "max_bytes", 200)
        assert client.poll(client.start(3))["status"] == "failed"
        assert sim.billed.requests == 3


@pytest.mark.parametrize(
    ("endpoint", "rest"),
    [("/v1/responses", {"input": "hi"}), ("/v1/embeddings", {"input": ["hi", "ho"]})],
)
def test_batches_are_for_other_endpoints_too(
    http: httpx2.Client, endpoint: str, rest: dict[str, Any]
) -> None:
    """Rows are answered as their endpoint answers them online."""
    asked = {"model": "sim-small", **rest}
    with sim_of(Fate(to_end=1)) as sim:
        client = Client(http, sim)
        made = client.create(client.upload([row(0, url=endpoint, body=asked)]), endpoint=endpoint)
        (line,) = client.lines(client.poll(made.json()["id"])["output_file_id"])
        online = http.post(sim.origin + endpoint, json=asked).json()
    assert line["response"]["body"]["object"] == online["object"]
    assert (sim.billed.requests, sim.billed.repeated) == (2, 1)


def test_an_expired_batch_holds_what_was_paid(http: httpx2.Client) -> None:
    """What was done is in the output and on the bill, the rest in the errors."""
    with sim_of(Fate(expire_after=37)) as sim:
        client = Client(http, sim)
        batch = client.start(100)
        assert client.poll(batch)["request_counts"]["completed"] == 18
        found = client.poll(batch)
        done, rest = client.lines(found["output_file_id"]), client.lines(found["error_file_id"])
    assert (found["status"], found["request_counts"]["failed"]) == ("expired", 63)
    assert (len(done), len(rest), sim.billed.requests) == (37, 63, 37)
    assert {line["error"]["code"] for line in rest} == {"batch_expired"}
    assert len({*ids(done), *ids(rest)}) == 100


def test_a_cancelled_batch_has_late_finishers(http: httpx2.Client) -> None:
    """Rows done by the time of the cancel, and some more, are delivered and billed."""
    with sim_of(Fate(to_end=10, to_cancel=2, late=3)) as sim:
        client = Client(http, sim)
        batch = client.start(20)
        client.poll(batch)
        assert client.cancel(batch).json()["status"] == "cancelling"
        states = [client.poll(batch)["status"] for _ in range(2)]
        found = client.poll(batch)
        done, rest = client.lines(found["output_file_id"]), client.lines(found["error_file_id"])
        assert client.cancel(batch).status_code == 400
    assert states == ["cancelling", "cancelled"]
    assert (len(done), len(rest), sim.billed.requests) == (5, 15, 5)
    assert {line["error"]["code"] for line in rest} == {"batch_cancelled"}


def test_every_row_fails(http: httpx2.Client) -> None:
    """A completed batch whose rows all failed has an error file only, and bills nothing."""
    with sim_of(Fate(row=errors.context_too_long(), to_end=1)) as sim:
        client = Client(http, sim)
        found = client.poll(client.start())
        lines = client.lines(found["error_file_id"])
    assert (found["status"], found["output_file_id"], len(lines)) == ("completed", None, 4)
    said = lines[0]["response"]
    assert (said["status_code"], said["body"]["error"]["code"]) == (400, "context_length_exceeded")
    assert sim.billed.requests == 0


def test_a_row_that_is_no_request_fails_alone(http: httpx2.Client) -> None:
    """What would be refused online is refused in a batch, beside rows that are answered."""
    with sim_of(Fate(row=for_prompt("row 2", errors.server_error()), to_end=1)) as sim:
        client = Client(http, sim)
        lines = [row(0, body={"model": "sim-small"}), row(1, body=body(1) | {"stream": True})]
        found = client.poll(client.create(client.upload([*lines, row(2), row(3)])).json()["id"])
        failed = client.lines(found["error_file_id"])
        assert ids(client.lines(found["output_file_id"])) == ["r3"]
    codes = {line["custom_id"]: line["response"]["status_code"] for line in failed}
    assert codes == {"r0": 400, "r1": 400, "r2": 500}


def test_results_are_no_promise(http: httpx2.Client) -> None:
    """A row is missing and was never done, one comes twice and is billed once, one is unknown."""
    with sim_of(Fate(drop={1}, double={2}, unknown=1, to_end=1)) as sim:
        client = Client(http, sim)
        lines = client.lines(client.poll(client.start())["output_file_id"])
    assert sorted(ids(lines)) == ["r0", "r2", "r2", "r3", "unknown-0"]
    assert sim.billed.per_key == {content_key(body(number)): 1 for number in (0, 2, 3)}


def test_queued_tokens_are_limited(http: httpx2.Client) -> None:
    """What batches of a model hold counts until they end; too much is found after create."""
    with sim_of(HAND, Fate(to_end=1), queue_tokens=10) as sim:  # a row has two tokens
        client = Client(http, sim)
        first, second = client.start(4), client.start(2)
        found = client.poll(second)
        assert found["errors"]["data"][0]["code"] == "token_limit_exceeded"
        sim.batches.finish(sim.batches.jobs[0])
        assert client.poll(first)["status"] == "completed"
        assert client.poll(client.start(2))["status"] == "completed"
        assert sim.billed.requests == 6


def test_polls_fail_and_downloads_break_off(http: httpx2.Client) -> None:
    """Polls are refused without counting; a download breaks off before its honest length."""
    faults = {
        "poll": fail_first(2, errors.rate_limited(0)),
        "results": fail_first(1, CutBody(fraction=0.5)),
    }
    with sim_of(Fate(to_end=1), faults=faults) as sim:
        client = Client(http, sim)
        batch = client.start()
        assert [client.get(f"batches/{batch}").status_code for _ in range(2)] == [429, 429]
        file = client.poll(batch)["output_file_id"]
        with pytest.raises(httpx2.RemoteProtocolError):
            client.lines(file)
        assert len(client.lines(file)) == 4
        assert sim.billed.requests == 4


def test_a_download_stops_half_way(http: httpx2.Client) -> None:
    """`Hang` stops a download after as many quarters as it says, and the server lives on."""
    faults = {"results": fail_first(1, Hang(pieces=2))}
    with sim_of(Fate(to_end=1), faults=faults) as sim:
        client = Client(http, sim)
        file = client.poll(client.start(8))["output_file_id"]
        url, got = f"{client.base}/files/{file}/content", b""
        with http.stream("GET", url) as answer:
            size = int(answer.headers["content-length"])
            for part in answer.iter_raw():
                got += part
                if len(got) >= size // 2:
                    break
        assert 0 <= len(got) - size // 2 <= 4
        assert len(client.lines(file)) == 8


def test_lists_have_pages_and_projects(http: httpx2.Client) -> None:
    """The newest batch comes first, `after` goes on; another project's key sees nothing."""
    with sim_of(projects={"k2": "other"}) as sim:
        client = Client(http, sim)
        made = [client.start(1) for _ in range(3)]
        page = client.get("batches?limit=2").json()
        rest = client.get(f"batches?limit=2&after={page['last_id']}").json()
        http.headers["authorization"] = "Bearer k2"
        assert client.get("batches").json()["data"] == []
        assert client.get(f"batches/{made[0]}").status_code == 404
        assert client.create("file-00000001").status_code == 400
    listed = [batch["id"] for batch in (*page["data"], *rest["data"])]
    assert (listed, page["has_more"], rest["has_more"]) == (made[::-1], True, False)


def test_a_stuck_batch_ends_when_it_is_cancelled(http: httpx2.Client) -> None:
    """With no end a batch stays where it is, whatever the number of polls."""
    with sim_of(Fate(to_end=float("inf"))) as sim:
        client = Client(http, sim)
        batch = client.start()
        assert [client.poll(batch)["status"] for _ in range(5)] == ["validating"] * 5
        client.cancel(batch)
        found = client.poll(batch)
        assert (found["status"], sim.billed.requests) == ("cancelled", 0)
