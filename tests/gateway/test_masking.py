"""What callers of the gateway send is masked, and what they get is restored."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.cli.test_masking import MAIL, leaks, on_disk, received
from tests.gateway.conftest import Serve
from tests.gateway.serving import configure
from tests.simulator.call import Call
from tests.simulator.reply import Reply, ToolCall
from tests.simulator.server import Simulator

OTHER = "bob@example.org"
FORMS = ("chat/completions", "responses", "messages")
TOOL = {"type": "object", "properties": {"to": {"type": "string"}}}


@pytest.fixture(autouse=True)
def masked(team: dict[str, str], home: Path, sim: Simulator) -> None:
    """Every profile masks."""
    team["LLMCTL_STORE_KEY"] = "0123456789abcdef" * 4
    team["PYTHON_KEYRING_BACKEND"] = "keyring.backends.null.Keyring"
    file = configure(home, sim)
    said = file.read_text().replace("    key:", "    privacy: {}\n    key:")
    file.write_text(said)


def body(form: str, model: str, text: str, *, stream: bool, tools: bool = False) -> dict[str, Any]:
    """A question in a language."""
    made: dict[str, Any] = {"model": model, "stream": stream}
    flat = {"type": "function", "name": "send", "description": f"to {MAIL}", "parameters": TOOL}
    if form == "responses":
        return {**made, "input": text, **({"tools": [flat]} if tools else {})}
    made["messages"] = [{"role": "user", "content": text}]
    if form == "messages":
        tool = {"name": "send", "description": f"to {MAIL}", "input_schema": TOOL}
        return {**made, "max_tokens": 100, **({"tools": [tool]} if tools else {})}
    function = {name: each for name, each in flat.items() if name != "type"}
    return {**made, **({"tools": [{"type": "function", "function": function}]} if tools else {})}


def texts(value: Any) -> list[str]:
    """All texts in a JSON value."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, dict):
        value = list(value.values())
    return [text for each in value for text in texts(each)] if isinstance(value, list) else []


def streamed(said: str) -> str:
    """The texts and arguments of a stream's pieces, joined."""
    found = []
    for line in said.splitlines():
        if line.startswith("data: {"):
            event = json.loads(line[6:])
            choices = event.get("choices") or [{}]
            delta = choices[0].get("delta") or event.get("delta") or {}
            if isinstance(delta, str):
                found.append(delta)
                continue
            found.append(
                delta.get("content") or delta.get("text") or delta.get("partial_json") or ""
            )
            found += [call["function"]["arguments"] for call in delta.get("tool_calls", [])]
    return "".join(found)


@pytest.mark.parametrize("form", FORMS)
def test_every_language_is_masked_and_restored(
    form: str, serve: Serve, token: Callable[..., str], sim: Simulator, home: Path
) -> None:
    """Plain and streamed, whatever the caller and the provider speak, with text cut anywhere: no
    provider and no file sees the value, every caller gets it back."""

    def reply(call: Call) -> Reply:
        text = f"you are {call.prompt}."
        return Reply(text, pieces=tuple(text))

    sim.reply = reply
    with serve().client(token("web")) as client:
        for model in ("sim", "answers", "claude", "google"):
            for stream in (False, True):
                question = body(form, model, f"{model} {stream} {MAIL}", stream=stream)
                done = client.post(f"/v1/{form}", json=question)
                assert done.status_code == 200, done.text
                said = streamed(done.text) if stream else "\n".join(texts(done.json()))
                assert f"you are {model} {stream} {MAIL}." in said
    assert len(sim.calls) == 8
    assert leaks(received(sim) + on_disk(home / ".local", home / ".cache")) == []


@pytest.mark.parametrize("form", FORMS)
def test_tool_calls_are_restored(
    form: str, serve: Serve, token: Callable[..., str], sim: Simulator
) -> None:
    """Tools' descriptions go out masked, and the arguments of calls come back restored."""
    sim.reply = lambda call: Reply(tool_calls=(ToolCall("send", json.dumps({"to": call.prompt})),))
    with serve().client(token("web")) as client:
        for stream in (False, True):
            question = body(form, "sim", f"{stream} {MAIL}", stream=stream, tools=True)
            done = client.post(f"/v1/{form}", json=question)
            assert done.status_code == 200, done.text
            assert f"{stream} {MAIL}" in (streamed(done.text) if stream else done.text)
    assert leaks(received(sim)) == []


def test_no_caller_gets_anothers_value(
    serve: Serve, token: Callable[..., str], sim: Simulator
) -> None:
    """Two callers who ask the same words of different people, at a time and from the cache, each
    get their own."""
    tokens = token("one"), token("two")  # first: a gateway's first token opens another service
    gateway = serve()
    with gateway.client(tokens[0]) as one, gateway.client(tokens[1]) as two:
        for _ in range(2):
            for client, who in ((one, MAIL), (two, OTHER)):
                done = client.post(
                    "/v1/chat/completions", json=body(FORMS[0], "sim", f"I am {who}", stream=False)
                )
                assert done.json()["choices"][0]["message"]["content"] == f"echo: I am {who}"
    assert len(sim.calls) == 2
    assert leaks(received(sim), MAIL, OTHER) == []


def test_counting_masks_too(serve: Serve, token: Callable[..., str], sim: Simulator) -> None:
    """A provider that counts tokens meets tokens of ours."""
    question = {"model": "claude", "messages": [{"role": "user", "content": f"I am {MAIL}"}]}
    with serve().client(token("web")) as client:
        done = client.post("/v1/messages/count_tokens", json=question)
    assert (done.status_code, len(sim.calls), leaks(received(sim))) == (200, 1, [])


def test_streams_of_more_than_text_are_refused(
    serve: Serve, token: Callable[..., str], sim: Simulator
) -> None:
    """A stream that could not be put together again is refused, naming the field."""
    question = {**body(FORMS[0], "sim", f"I am {MAIL}", stream=True), "n": 2}
    with serve().client(token("web")) as client:
        done = client.post("/v1/chat/completions", json=question)
    assert (done.status_code, done.json()["error"]["param"], len(sim.calls)) == (400, "stream", 0)
