"""The loopback provider does what tests will blame the client for."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2
import pytest

from tests.simulator import errors
from tests.simulator.faults import Hang
from tests.simulator.reply import Reply, Usage
from tests.simulator.scripts import mixture
from tests.simulator.server import Simulator


@pytest.fixture
def http() -> Iterator[httpx2.Client]:
    """Give an HTTP client that fails within 5 s."""
    with httpx2.Client(timeout=5, headers={"authorization": "Bearer k1"}) as client:
        yield client


def chat(text: str = "hi", **more: Any) -> dict[str, Any]:
    """Give the body of a chat request."""
    return {"model": "sim-small", "messages": [{"role": "user", "content": text}], **more}


def post(http: httpx2.Client, sim: Simulator, text: str = "hi", **more: Any) -> httpx2.Response:
    """Send a chat request."""
    return http.post(f"{sim.base_url}/chat/completions", json=chat(text, **more))


def said(answer: httpx2.Response) -> str:
    """Take the text of a chat answer."""
    text: str = answer.json()["choices"][0]["message"]["content"]
    return text


def events(payload: str) -> list[str]:
    """Take the data of every complete SSE event."""
    return [block.rpartition("data: ")[2] for block in payload.split("\n\n")[:-1]]


def request_bytes(**more: Any) -> bytes:
    """Give a chat request as bytes."""
    body = json.dumps(chat(**more)).encode()
    lines = ["POST /v1/chat/completions HTTP/1.1", "host: sim", f"content-length: {len(body)}"]
    return "\r\n".join([*lines, "", ""]).encode() + body


def test_a_chat_answer_has_openais_shape(http: httpx2.Client) -> None:
    """A plain answer echoes the prompt in a chat.completion and is billed as its usage says."""
    with Simulator() as sim:
        answer = post(http, sim, "hello there")
    body = answer.json()
    assert answer.headers["x-request-id"] == "req_00000000"
    assert (body["object"], body["model"]) == ("chat.completion", "sim-small")
    assert body["choices"][0]["message"]["content"] == "echo: hello there"
    assert body["choices"][0]["finish_reason"] == "stop"
    usage = body["usage"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    assert usage["prompt_tokens_details"]["cached_tokens"] == 0
    assert usage["completion_tokens_details"]["reasoning_tokens"] == 0
    assert sim.billed.requests == 1
    assert sim.billed.input_tokens == usage["prompt_tokens"]
    assert sim.billed.output_tokens == usage["completion_tokens"]


def test_a_call_is_recorded(http: httpx2.Client) -> None:
    """A call shows what was asked, by whom, and what became of it."""
    with Simulator() as sim:
        post(http, sim, "a")
        post(http, sim, "a")
    first, second = sim.calls
    assert (first.method, first.path, first.prompt) == ("POST", "/v1/chat/completions", "a")
    assert (first.api_key, first.outcome, first.status) == ("k1", "answered", 200)
    assert first.body == chat("a")
    assert (second.index, second.attempt, second.key) == (1, 2, first.key)
    assert second.connection == first.connection
    assert sim.record.requests_per_key == {first.key: 2}
    assert (sim.billed.per_key[first.key], sim.billed.repeated) == (2, 1)


def test_a_stream_has_openais_events(http: httpx2.Client) -> None:
    """A stream is role, deltas, finish and [DONE]; usage comes only when asked for."""
    with Simulator() as sim:
        bare = post(http, sim, "one two", stream=True).text
        asked = post(http, sim, "x", stream=True, stream_options={"include_usage": True}).text
    first, *_, last, done = events(bare)
    assert json.loads(first)["choices"][0]["delta"]["role"] == "assistant"
    assert '"content":"echo:"' in bare
    assert json.loads(last)["choices"][0]["finish_reason"] == "stop"
    assert (done, "usage" in bare) == ("[DONE]", False)
    final = json.loads(events(asked)[-2])
    assert final["choices"] == []
    assert final["usage"]["completion_tokens"] == sim.calls[1].billed.output  # type: ignore[union-attr]
    assert json.loads(events(asked)[0])["usage"] is None


def test_replies_can_be_replaced(http: httpx2.Client) -> None:
    """A reply states its text, usage and model; a stated usage is billed as it is."""
    usage = Usage(input=100, output=50, cached=40, reasoning=30)
    with Simulator(reply=lambda call: Reply(call.prompt[::-1], usage=usage, model="m-2")) as sim:
        body = post(http, sim, "abc").json()
    assert (said(httpx2.Response(200, json=body)), body["model"]) == ("cba", "m-2")
    assert body["usage"]["prompt_tokens_details"]["cached_tokens"] == 40
    billed = sim.billed
    assert (billed.input_tokens, billed.cached_tokens) == (100, 40)
    assert (billed.output_tokens, billed.reasoning_tokens) == (50, 30)


def test_max_tokens_is_honoured(http: httpx2.Client) -> None:
    """An answer never bills more than max_tokens, and says `length` when it was cut."""
    with Simulator(reply=lambda _: "word " * 100) as sim:
        choice = post(http, sim, max_tokens=5).json()["choices"][0]
    assert (len(choice["message"]["content"]), choice["finish_reason"]) == (20, "length")
    assert sim.billed.output_tokens == 5


def test_keys_are_revoked_while_it_runs(http: httpx2.Client) -> None:
    """accept_keys changes at once which keys are served, on every endpoint."""
    with Simulator(keys={"k1"}) as sim:
        assert post(http, sim).status_code == 200
        sim.accept_keys({"k2"})
        assert post(http, sim).status_code == 401
        assert http.get(f"{sim.base_url}/models").status_code == 401
        sim.accept_keys(None)
        assert post(http, sim).status_code == 200


def test_a_hang_ends_with_the_client() -> None:
    """Hang sends nothing, or the beginning of a stream, until the client gives up."""
    with Simulator(fault=lambda call: Hang(pieces=1 if call.index else None)) as sim:
        with socket.create_connection(("127.0.0.1", sim.port), timeout=5) as sock:
            sock.sendall(request_bytes())
            sim.wait_for_calls(1)
            assert sim.record.in_flight == 1
        sim.wait_until(lambda: sim.calls[0].outcome == "abandoned")
        with socket.create_connection(("127.0.0.1", sim.port), timeout=5) as sock:
            sock.sendall(request_bytes(stream=True))
            begun = b""
            while b"\n\n" not in begun:
                begun += sock.recv(65536)
        assert b'"role":"assistant"' in begun
        assert b"echo" not in begun
        sim.wait_until(lambda: sim.record.in_flight == 0)
        assert (sim.billed.requests, sim.record.outcomes["abandoned"]) == (0, 2)


def test_a_mixture_is_fair_and_blind_to_order(http: httpx2.Client) -> None:
    """Rates hold, and the same seed hits the same contents whatever order they come in."""
    script = mixture((0.3, errors.server_error()), (0.1, errors.unavailable()), seed=5)
    texts = [f"row {number}" for number in range(400)]
    with Simulator(fault=script) as sim:
        one = {text: post(http, sim, text).status_code for text in texts}
    with Simulator(fault=script) as sim:
        two = {text: post(http, sim, text).status_code for text in reversed(texts)}
    assert one == two
    counts = [list(one.values()).count(status) for status in (500, 503)]
    assert 90 < counts[0] < 150
    assert 20 < counts[1] < 60


def test_rate_limits_are_enforced(http: httpx2.Client) -> None:
    """Beyond rpm comes a 429 that says how long to wait; headers tell what is left."""
    with Simulator(rpm=2) as sim:
        first, second, third = (post(http, sim) for _ in range(3))
    assert [r.status_code for r in (first, second, third)] == [200, 200, 429]
    left = [r.headers["x-ratelimit-remaining-requests"] for r in (first, second)]
    assert left == ["1", "0"]
    assert first.headers["x-ratelimit-limit-requests"] == "2"
    assert 25 < int(third.headers["retry-after"]) <= 30
    assert sim.billed.requests == 2


@pytest.mark.parametrize(("moment", "billed"), [("received", 0), ("billed", 3)])
def test_the_gate_holds_answers(http: httpx2.Client, moment: Any, billed: int) -> None:
    """Held calls wait together, before or after they are billed, until they are released."""
    with Simulator() as sim, ThreadPoolExecutor(3) as pool:
        sim.hold(moment)
        answers = [pool.submit(post, http, sim, str(number)) for number in range(3)]
        sim.wait_for_calls(3)
        sim.wait_until(lambda: sim.billed.requests == billed)
        assert (sim.record.in_flight, sim.record.max_in_flight) == (3, 3)
        sim.release()
        assert [said(answer.result()) for answer in answers] == ["echo: 0", "echo: 1", "echo: 2"]
        assert sim.billed.requests == 3


@pytest.mark.parametrize(
    "body", [b"{", b"[" * 100_000, b'{"model": "m"}', json.dumps(chat(x=float("nan"))).encode()]
)
def test_bad_requests(http: httpx2.Client, body: bytes) -> None:
    """What is no chat request gets a 400, and the server lives on."""
    with Simulator() as sim:
        assert http.post(f"{sim.base_url}/chat/completions", content=body).status_code == 400
        assert http.get(f"{sim.base_url}/nothing").status_code == 404
        assert post(http, sim).status_code == 200


def test_a_scripts_mistake_is_raised(http: httpx2.Client) -> None:
    """A script that raises gives a 500, and its exception when the simulator ends."""

    def broken(_: object) -> str:
        message = "my mistake"
        raise LookupError(message)

    with pytest.raises(LookupError, match="my mistake"), Simulator(reply=broken) as sim:
        assert post(http, sim).status_code == 500


def test_a_dead_provider_refuses(http: httpx2.Client) -> None:
    """Dropped connections break calls in flight; after the end nothing listens."""
    with Simulator() as sim, ThreadPoolExecutor(1) as pool:
        sim.hold()
        answer = pool.submit(post, http, sim)
        sim.wait_for_calls(1)
        sim.drop_connections()
        with pytest.raises((httpx2.RemoteProtocolError, httpx2.ReadError)):
            answer.result()
    with pytest.raises(httpx2.ConnectError):
        post(http, sim)
