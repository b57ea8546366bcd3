"""The simulated batches of each provider: the same fates, each in its provider's own words."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

from tests.simulator import errors
from tests.simulator.batches import Action, BatchSettings, Fate, LostAnswer
from tests.simulator.faults import CutBody, Disconnect
from tests.simulator.reply import Problem
from tests.simulator.scripts import fail_first
from tests.simulator.server import Simulator
from tests.simulator.wires.registry import BASES

Lines = list[dict[str, Any]]
CITIES = ["Paris", "Oslo", "Rome", "Bern"]


class Client:
    """A client of one provider's batches; subclasses know its paths and words.

    `ended` are its words for completed, expired and cancelled. `place` is where its batches are.
    """

    name: str
    ended: tuple[str, str, str]
    place = "/batches"

    def __init__(self, http: httpx2.Client, sim: Simulator) -> None:
        self.http, self.sim = http, sim
        self.base = sim.origin + BASES[self.name]

    def ask(self, method: str, path: str, body: Any = None) -> httpx2.Response:
        """Send a request."""
        url = path if path.startswith("http") else self.base + path
        return self.http.request(method, url, json=body)

    def create(self, cities: list[str]) -> httpx2.Response:
        """Make a batch whose rows ask for cities and are named by them."""
        return self.ask("POST", self.place, self.body(cities))

    def start(self, cities: list[str]) -> str:
        """Make a batch; its id."""
        made = self.create(cities).raise_for_status().json()
        return str(made["id"])

    def chat(self, city: str) -> dict[str, Any]:
        """A row as it would be sent online."""
        return {"model": "sim-small", "messages": [{"role": "user", "content": city}]}

    def body(self, cities: list[str]) -> Any:
        """The body of a create call."""
        requests = [{"custom_id": city, "body": self.chat(city)} for city in cities]
        endpoint = "/v1/chat/completions"
        return {"endpoint": endpoint, "model": "sim-small", "requests": requests}

    def poll(self, batch: str) -> dict[str, Any]:
        """Ask where a batch is."""
        answer = self.ask("GET", f"{self.place}/{batch}").raise_for_status()
        found: dict[str, Any] = answer.json()
        return found

    def cancel(self, batch: str) -> None:
        """Cancel a batch."""
        self.ask("POST", f"{self.place}/{batch}/cancel").raise_for_status()

    def status(self, found: dict[str, Any]) -> str:
        """The word for where a batch is."""
        return str(found["status"])

    def lines(self, found: dict[str, Any]) -> Lines:
        """All results."""
        return list(found["results"] or [])

    def read(self, path: str) -> Lines:
        """Lines of a file."""
        return list(map(json.loads, self.ask("GET", path).raise_for_status().text.splitlines()))

    def key(self, line: dict[str, Any]) -> str:
        """Which row a result is about."""
        return str(line["custom_id"])

    def good(self, line: dict[str, Any]) -> bool:
        """Whether a result is an answer."""
        return bool(line["response"]) and line["response"]["status_code"] == 200


class OpenAI(Client):
    """Files in, files out."""

    name = "openai"
    ended = ("completed", "expired", "cancelled")

    def create(self, cities: list[str]) -> httpx2.Response:
        """Upload before."""
        more = {"method": "POST", "url": "/v1/chat/completions"}
        rows = [{"custom_id": city, "body": self.chat(city), **more} for city in cities]
        file = upload(self, rows)
        body = {"input_file_id": file, "endpoint": more["url"], "completion_window": "24h"}
        return self.ask("POST", self.place, body)

    def lines(self, found: dict[str, Any]) -> Lines:
        """Those of both files."""
        files = filter(None, (found["output_file_id"], found["error_file_id"]))
        return [line for file in files for line in self.read(f"/files/{file}/content")]


class Groq(OpenAI):
    """OpenAI's, elsewhere."""

    name = "groq"


class Mistral(Client):
    """Requests in, files out."""

    name = "mistral"
    place = "/batch/jobs"
    ended = ("SUCCESS", "TIMEOUT_EXCEEDED", "CANCELLED")

    def lines(self, found: dict[str, Any]) -> Lines:
        """Those of both files."""
        files = filter(None, (found["output_file"], found["error_file"]))
        return [line for file in files for line in self.read(f"/files/{file}/content")]


class Anthropic(Client):
    """Requests in, a URL out."""

    name = "anthropic"
    place = "/messages/batches"
    ended = ("ended", "ended", "ended")

    def body(self, cities: list[str]) -> Any:
        """Messages with a limit."""
        return {
            "requests": [
                {"custom_id": city, "params": self.chat(city) | {"max_tokens": 50}}
                for city in cities
            ]
        }

    def status(self, found: dict[str, Any]) -> str:
        """Its own name for it."""
        return str(found["processing_status"])

    def lines(self, found: dict[str, Any]) -> Lines:
        """Those at the URL."""
        return self.read(found["results_url"])

    def good(self, line: dict[str, Any]) -> bool:
        """Whether it has a message."""
        return bool(line["result"]["type"] == "succeeded")


class Gemini(Client):
    """A file in, a file out, named apart."""

    name = "gemini"
    ended = ("BATCH_STATE_SUCCEEDED", "BATCH_STATE_EXPIRED", "BATCH_STATE_CANCELLED")

    def create(self, cities: list[str]) -> httpx2.Response:
        """Upload before."""
        rows = [
            {"key": city, "request": {"contents": [{"role": "user", "parts": [{"text": city}]}]}}
            for city in cities
        ]
        headers = {"x-goog-upload-protocol": "resumable", "x-goog-upload-command": "start"}
        url = self.base.replace("/v1beta", "/upload/v1beta/files")
        place = self.http.post(url, headers=headers, json={}).headers["x-goog-upload-url"]
        headers = {"x-goog-upload-command": "upload, finalize", "x-goog-upload-offset": "0"}
        data = "\n".join(map(json.dumps, rows)).encode()
        file = self.http.post(place, headers=headers, content=data).json()["file"]["name"]
        body = {"batch": {"inputConfig": {"fileName": file}}}
        return self.ask("POST", "/models/sim-small:batchGenerateContent", body)

    def start(self, cities: list[str]) -> str:
        """A name without its collection."""
        made = self.create(cities).raise_for_status().json()
        return str(made["name"]).removeprefix("batches/")

    def cancel(self, batch: str) -> None:
        """A verb at the end of the path."""
        self.ask("POST", f"/batches/{batch}:cancel").raise_for_status()

    def status(self, found: dict[str, Any]) -> str:
        """Its state."""
        return str(found["metadata"]["state"])

    def lines(self, found: dict[str, Any]) -> Lines:
        """Those of the file, where there is one."""
        if "response" not in found:
            return []
        return self.read(f"/{found['response']['responsesFile']}:download?alt=media")

    def key(self, line: dict[str, Any]) -> str:
        """Its own name for it."""
        return str(line["key"])

    def good(self, line: dict[str, Any]) -> bool:
        """Whether it has a response."""
        return "response" in line


class OpenRouter(Client):
    """Requests in, results in the batch."""

    name = "openrouter"
    ended = ("completed", "expired", "cancelled")


WIRES = {kind.name: kind for kind in (OpenAI, Groq, Mistral, Anthropic, Gemini, OpenRouter)}
CANCELLING = sorted(set(WIRES) - {"openrouter"})
FILES = sorted(set(WIRES) - {"openrouter", "anthropic"})
REFUSING = sorted(set(WIRES) - {"openai", "groq"})


def upload(client: Client, rows: Lines) -> str:
    """Upload a file as a form; its id."""
    data = "\n".join(map(json.dumps, rows)).encode()
    form = {"data": {"purpose": "batch"}, "files": {"file": ("in.jsonl", data)}}
    answer = client.http.post(f"{client.base}/files", **form).raise_for_status()  # type: ignore[arg-type]
    return str(answer.json()["id"])


@pytest.fixture
def http() -> Iterator[httpx2.Client]:
    """Give an HTTP client with every provider's key, that fails within 5 s."""
    keys = {"authorization": "Bearer k1", "x-api-key": "k1", "x-goog-api-key": "k1"}
    with httpx2.Client(timeout=5, headers=keys | {"anthropic-version": "2023-06-01"}) as client:
        yield client


def sim_of(*fates: Fate, **more: Any) -> Simulator:
    """A simulator whose batches have these fates, with one good key."""
    return Simulator(keys=["k1"], batch=BatchSettings(fates=fates or (Fate(to_end=1),), **more))


def split(client: Client, lines: Lines) -> tuple[list[str], list[str]]:
    """The rows that were answered, and those that have another result."""
    good = [client.key(line) for line in lines if client.good(line)]
    return sorted(good), sorted(client.key(line) for line in lines if not client.good(line))


@pytest.mark.parametrize("name", WIRES)
def test_a_batch_completes(http: httpx2.Client, name: str) -> None:
    """At its end all rows are answered, and billed once each."""
    with sim_of(Fate()) as sim:
        client = WIRES[name](http, sim)
        batch = client.start(CITIES)
        assert client.status(client.poll(batch)) not in client.ended
        found = client.poll(batch)
        assert client.status(found) == client.ended[0]
        assert split(client, client.lines(found)) == (sorted(CITIES), [])
    assert (sim.batches.billed.requests, sim.batches.billed.repeated) == (4, 0)
    assert sim.billed == sim.batches.billed


@pytest.mark.parametrize("name", WIRES)
@pytest.mark.parametrize("fault", [Disconnect(), LostAnswer()])
def test_create_is_done_and_not_heard_of(http: httpx2.Client, name: str, fault: Any) -> None:
    """A batch whose create was not answered is in the list, and goes on."""
    with sim_of(faults={"create": fail_first(1, fault)}) as sim:
        client = WIRES[name](http, sim)
        try:
            assert client.create(CITIES).status_code >= 500
        except httpx2.RemoteProtocolError:
            assert isinstance(fault, Disconnect)
        listed = client.ask("GET", client.place).json()
        (batch,) = listed.get("data") or listed["operations"]
        found = client.poll(batch.get("id") or batch["name"].removeprefix("batches/"))
        assert client.status(found) == client.ended[0]
        assert sim.billed.requests == 4


@pytest.mark.parametrize("name", WIRES)
def test_an_expired_batch_holds_what_was_done(http: httpx2.Client, name: str) -> None:
    """Two of four rows are delivered and billed; no other row is an answer."""
    with sim_of(Fate(to_end=1, expire_after=2)) as sim:
        client = WIRES[name](http, sim)
        found = client.poll(client.start(CITIES))
        assert client.status(found) == client.ended[1]
        good, rest = split(client, client.lines(found))
    assert (len(good), sim.billed.requests) == (2, 2)
    assert rest in ([], sorted(set(CITIES) - set(good)))


@pytest.mark.parametrize("name", CANCELLING)
def test_a_cancelled_batch_has_late_finishers(http: httpx2.Client, name: str) -> None:
    """One row more than at the time of the cancel is delivered and billed."""
    with sim_of(Fate(to_end=4, late=1)) as sim:
        client = WIRES[name](http, sim)
        batch = client.start(CITIES)
        client.poll(batch)
        client.cancel(batch)
        found = client.poll(batch)
        assert client.status(found) == client.ended[2]
        assert len(split(client, client.lines(found))[0]) == 2
        assert sim.billed.requests == 2


@pytest.mark.parametrize("name", WIRES)
def test_every_row_fails(http: httpx2.Client, name: str) -> None:
    """A completed batch may hold no answer at all; nothing is billed."""
    with sim_of(Fate(to_end=1, row=errors.context_too_long())) as sim:
        client = WIRES[name](http, sim)
        found = client.poll(client.start(CITIES))
        assert client.status(found) == client.ended[0]
        assert split(client, client.lines(found)) == ([], sorted(CITIES))
        assert sim.billed.requests == 0


@pytest.mark.parametrize("name", WIRES)
def test_results_are_no_promise(http: httpx2.Client, name: str) -> None:
    """A row is missing, one comes twice, one is unknown."""
    with sim_of(Fate(to_end=1, drop={1}, double={2}, unknown=1)) as sim:
        client = WIRES[name](http, sim)
        lines = client.lines(client.poll(client.start(CITIES)))
    expected = ["Bern", "Paris", "Rome", "Rome", "unknown-0"]
    assert split(client, lines) == (expected, [])
    assert (sim.billed.requests, sim.billed.repeated) == (3, 0)


@pytest.mark.parametrize("name", WIRES)
def test_validation_fails_late(http: httpx2.Client, name: str) -> None:
    """Create is answered; a poll finds the batch failed, or all its rows."""
    with sim_of(Fate(to_end=1, invalid=Problem("this will not do"))) as sim:
        client = WIRES[name](http, sim)
        found = client.poll(client.start(CITIES))
        if name == "anthropic":
            assert split(client, client.lines(found)) == ([], sorted(CITIES))
        else:
            assert "FAILED" in client.status(found).upper()
            assert "this will not do" in json.dumps(found)
        assert sim.billed.requests == 0


@pytest.mark.parametrize("name", REFUSING)
def test_a_full_queue_refuses(http: httpx2.Client, name: str) -> None:
    """Too many tokens of batches that have not ended are a 429, and no batch."""
    with sim_of(Fate(progress="hand"), queue_tokens=9) as sim:  # the cities have five tokens
        client = WIRES[name](http, sim)
        client.start(CITIES)
        assert client.create(CITIES).status_code == 429
        assert len(sim.batches.jobs) == 1
        sim.batches.finish()
        assert client.create(CITIES).is_success


@pytest.mark.parametrize("name", FILES)
def test_a_file_is_not_visible_at_once(http: httpx2.Client, name: str) -> None:
    """The first create of each file cannot find it."""
    with sim_of(invisible=1) as sim:
        client = WIRES[name](http, sim)
        if name == "mistral":
            file = upload(client, client.body(CITIES)["requests"])
            body = {"endpoint": "/v1/chat/completions", "input_files": [file]}
            answers = [client.ask("POST", client.place, body) for _ in range(2)]
        else:
            answers = [client.create(CITIES)]
            answers.append(client.ask("POST", *again(answers[0])))
        assert [answer.status_code for answer in answers] == [400, 200]
        assert "Cannot find file" in answers[0].text


def again(answer: httpx2.Response) -> tuple[str, Any]:
    """The URL and the body of a request, to send them once more."""
    return str(answer.request.url), json.loads(answer.request.content)


@pytest.mark.parametrize("name", WIRES)
def test_polls_fail_and_downloads_break_off(http: httpx2.Client, name: str) -> None:
    """Refused polls do not count; results that broke off can be had again, at no further cost."""
    cut: Action = "poll" if name == "openrouter" else "results"
    with sim_of(faults={"poll": fail_first(1, errors.unavailable())}) as sim:
        client = WIRES[name](http, sim)
        batch = client.start(CITIES)
        refused = client.ask("GET", f"{client.place}/{batch}").status_code
        assert refused == (529 if name == "anthropic" else 503)
        sim.batches.settings.faults = {cut: fail_first(1, CutBody())}
        with pytest.raises(httpx2.RemoteProtocolError):
            client.lines(client.poll(batch))
        assert len(client.lines(client.poll(batch))) == 4
        assert sim.billed.requests == 4


@pytest.mark.parametrize("name", WIRES)
def test_a_project_sees_its_own_batches(http: httpx2.Client, name: str) -> None:
    """Another project's key gets a 404 for a batch, and an empty list."""
    with sim_of(projects={"k2": "other"}) as sim:
        sim.accept_keys({"k1", "k2"})
        client = WIRES[name](http, sim)
        batch = client.start(CITIES)
        http.headers.update({"authorization": "Bearer k2", "x-goog-api-key": "k2"})
        http.headers["x-api-key"] = "k2"
        assert client.ask("GET", f"{client.place}/{batch}").status_code == 404
        listed = client.ask("GET", client.place).json()
        assert (listed.get("data") or listed.get("operations") or []) == []


def test_anthropics_results_may_be_said_to_be_elsewhere(http: httpx2.Client) -> None:
    """`results_url` names another origin, which a careful client gives no key."""
    with sim_of(Fate(to_end=1)) as other, sim_of(results_origin=other.origin) as sim:
        client = Anthropic(http, sim)
        found = client.poll(client.start(CITIES))
        assert found["results_url"].startswith(f"{other.origin}/anthropic/v1/messages/batches/")
        assert other.record.requests == 0


def test_anthropic_counts_nothing_before_the_end(http: httpx2.Client) -> None:
    """While rows are done they are all said to be processing."""
    with sim_of(Fate(to_end=4)) as sim:
        client = Anthropic(http, sim)
        batch = client.start(CITIES)
        counts = [client.poll(batch)["request_counts"] for _ in range(4)]
    assert [each["processing"] for each in counts] == [4, 4, 4, 0]
    assert [each["succeeded"] for each in counts] == [0, 0, 0, 4]


def test_gemini_may_end_in_a_state_nobody_knows(http: httpx2.Client) -> None:
    """`word` replaces the state of an end, which is one all the same."""
    with sim_of(Fate(to_end=1, word="JOB_STATE_PARTIALLY_SUCCEEDED")) as sim:
        client = Gemini(http, sim)
        found = client.poll(client.start(CITIES))
    assert (client.status(found), found["done"]) == ("JOB_STATE_PARTIALLY_SUCCEEDED", True)


def test_openrouter_says_what_it_cost_and_cancels_nothing(http: httpx2.Client) -> None:
    """The price of a batch is that of its rows, half of what they cost online; a batch that goes
    on is not deleted, and there is no cancel."""
    with sim_of(Fate()) as sim:
        client = OpenRouter(http, sim)
        batch = client.start(CITIES)
        assert client.create(CITIES).status_code == 202
        client.poll(batch)
        assert client.ask("DELETE", f"/batches/{batch}").status_code == 409
        assert client.ask("POST", f"/batches/{batch}/cancel").status_code == 404
        found = client.poll(batch)
        online = client.ask("POST", "/chat/completions", client.chat("Oslo")).json()["usage"]
        assert client.ask("DELETE", f"/batches/{batch}").is_success
    costs = {client.key(row): row["response"]["body"]["usage"]["cost"] for row in found["results"]}
    assert found["usage"]["cost"] == pytest.approx(sum(costs.values()))
    assert costs["Oslo"] == pytest.approx(online["cost"] / 2)
