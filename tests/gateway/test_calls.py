"""Calls through the gateway by the vendors' own SDKs, and by llmctl itself."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anthropic
import openai
import pytest

from tests.conftest import KEY, LLMCTL
from tests.gateway.site import Site, site
from tests.simulator.reply import Reply, ToolCall
from tests.simulator.server import echo

EVERY = ("sim", "answers", "claude", "google")
"""A profile of each dialect that providers speak."""

WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather of a place.",
        "parameters": {"type": "object", "properties": {"place": {"type": "string"}}},
    },
}


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A gateway with profiles of each dialect, and tokens `web` and `few`."""
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "TMPDIR") if name in os.environ}
    tokens = {"web": {}, "few": {"profiles": ("sim", "claude")}}
    with site(tmp_path_factory.mktemp("host"), kept, "", tokens=tokens) as made:
        yield made


def openai_at(host: Site, token: str = "web") -> openai.OpenAI:
    """The vendor's client, by base URL and key alone."""
    key = host.secrets.get(token, token)
    return openai.OpenAI(base_url=f"{host.gateway.url}/v1", api_key=key, max_retries=0)


def anthropic_at(host: Site, token: str = "web") -> anthropic.Anthropic:
    """The vendor's client, by base URL and key alone."""
    key = host.secrets.get(token, token)
    return anthropic.Anthropic(base_url=host.gateway.url, api_key=key, max_retries=0)


@pytest.mark.parametrize("profile", EVERY)
def test_openai_chat_reaches_every_provider(profile: str, host: Site) -> None:
    """Plain and streamed, whatever the provider speaks, with its usage."""
    with openai_at(host) as client:
        asked: Any = {"model": profile, "messages": [{"role": "user", "content": "hello"}]}
        plain = client.chat.completions.create(**asked)
        assert plain.choices[0].message.content == "echo: hello"
        assert plain.choices[0].finish_reason == "stop"
        assert plain.usage is not None
        assert plain.usage.completion_tokens > 0
        asked["messages"][0]["content"] = "again"
        pieces = client.chat.completions.create(
            **asked, stream=True, stream_options={"include_usage": True}
        )
        chunks = list(pieces)
        text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
        assert text == "echo: again"
        assert chunks[-1].usage is not None
        assert chunks[-1].usage.completion_tokens > 0


@pytest.mark.parametrize("profile", EVERY)
def test_openai_responses_reach_every_provider(profile: str, host: Site) -> None:
    """Plain and streamed, whatever the provider speaks, with its usage."""
    with openai_at(host) as client:
        plain = client.responses.create(model=profile, input="hello")
        assert plain.output_text == "echo: hello"
        assert plain.usage is not None
        assert plain.usage.output_tokens > 0
        with client.responses.stream(model=profile, input="again") as stream:
            text = "".join(e.delta for e in stream if e.type == "response.output_text.delta")
            assert text == stream.get_final_response().output_text == "echo: again"


@pytest.mark.parametrize("profile", EVERY)
def test_anthropic_messages_reach_every_provider(profile: str, host: Site) -> None:
    """Plain, streamed and counted, whatever the provider speaks."""
    with anthropic_at(host) as client:
        asked: Any = {"model": profile, "messages": [{"role": "user", "content": "hello"}]}
        plain = client.messages.create(**asked, max_tokens=100)
        assert [getattr(block, "text", None) for block in plain.content] == ["echo: hello"]
        assert plain.stop_reason == "end_turn"
        assert plain.usage.output_tokens > 0
        asked["messages"][0]["content"] = "again"
        with client.messages.stream(**asked, max_tokens=100) as stream:
            assert "".join(stream.text_stream) == "echo: again"
            assert stream.get_final_message().usage.output_tokens > 0
        assert client.messages.count_tokens(**asked).input_tokens > 0


@pytest.mark.parametrize("profile", EVERY)
def test_tools_are_called_whatever_the_provider_speaks(profile: str, host: Site) -> None:
    """The model's call of a tool reaches callers of both vendors, and the result goes back."""
    made = ToolCall("weather", '{"place":"Oslo"}', "call_7")
    host.sim.reply = lambda call: (
        Reply("sunny")
        if "cold" in call.raw.decode()
        else Reply("", "tool_calls", tool_calls=(made,))
    )
    with openai_at(host) as client:
        asked: Any = [{"role": "user", "content": "How is Oslo?"}]
        first = client.chat.completions.create(model=profile, messages=asked, tools=[WEATHER])
        calls: Any = first.choices[0].message.tool_calls
        (call,) = calls
        assert json.loads(call.function.arguments) == {"place": "Oslo"}
        said: Any = first.choices[0].message.model_dump(exclude_none=True)
        told: Any = {"role": "tool", "tool_call_id": call.id, "content": "cold"}
        more = client.chat.completions.create(
            model=profile, messages=[*asked, said, told], tools=[WEATHER]
        )
        assert more.choices[0].message.content == "sunny"
    with anthropic_at(host) as other:
        function = WEATHER["function"]
        tool: Any = {"name": "weather", "input_schema": function["parameters"]}
        with other.messages.stream(
            model=profile, messages=asked, tools=[tool], max_tokens=100
        ) as stream:
            message = stream.get_final_message()
        (block,) = [block for block in message.content if block.type == "tool_use"]
        assert (message.stop_reason, block.name, block.input) == (
            "tool_use",
            "weather",
            {"place": "Oslo"},
        )
        said = {"role": "assistant", "content": [block.model_dump(exclude_none=True)]}
        result: Any = {"type": "tool_result", "tool_use_id": block.id, "content": "cold"}
        end = other.messages.create(
            model=profile,
            messages=[
                *asked,
                said,
                {"role": "user", "content": [result]},
            ],
            tools=[tool],
            max_tokens=100,
        )
        assert [getattr(block, "text", None) for block in end.content] == ["sunny"]
    host.sim.reply = echo


def test_embeddings_and_models_are_read_by_the_vendor_s_client(host: Site) -> None:
    """Embeddings pass through; the list names what the caller may use, in both vendors' shapes."""
    with openai_at(host, "few") as client:
        found = client.embeddings.create(model="sim", input=["one", "two"])
        assert len(found.data) == 2
        assert [model.id for model in client.models.list()] == ["sim", "claude"]
        assert client.models.retrieve("claude").id == "claude"
        with pytest.raises(openai.PermissionDeniedError):
            client.models.retrieve("google")
        with pytest.raises(openai.NotFoundError):
            client.embeddings.create(model="nothing", input="one")
    with anthropic_at(host, "few") as other:
        assert [model.id for model in other.models.list()] == ["sim", "claude"]


def test_llmctl_itself_asks_through_a_gateway(
    host: Site, tmp_path: Path, environ: dict[str, str]
) -> None:
    """`ask -p` by a profile at the gateway, and its batch: the same program at both ends."""
    home = tmp_path / "other"
    (home / ".config/llmctl").mkdir(parents=True)
    (home / ".config/llmctl/config.yaml").write_text(
        f"default: team\nprofiles:\n  team: {{provider: openai, base_url: {host.gateway.url}/v1, "
        "model: sim, key: {env: TEAM_KEY}, price: {input: 1, output: 2}}\n"
    )
    env = {**environ, "HOME": str(home), "TEAM_KEY": host.secrets["web"]}
    done = subprocess.run(
        [LLMCTL, "ask", "--no-stdin", "hello"], env=env, capture_output=True, text=True, check=True
    )
    assert done.stdout == "echo: hello"
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(f'{{"id": "{n}", "prompt": "row {n}"}}\n' for n in range(50)))
    out = tmp_path / "out.jsonl"
    subprocess.run(
        [LLMCTL, "batch", rows, "-o", out], env=env, capture_output=True, text=True, check=True
    )
    found = [json.loads(line) for line in out.read_text().splitlines()]
    assert {row["id"]: row["text"] for row in found} == {
        str(n): f"echo: row {n}" for n in range(50)
    }


def test_the_provider_sees_its_own_key_and_never_a_token(host: Site) -> None:
    """A caller's token is in no request to it."""
    with openai_at(host) as client:
        client.chat.completions.create(model="sim", messages=[{"role": "user", "content": "hi"}])
    call = host.sim.calls[-1]
    seen = f"{call.path}{call.query}{dict(call.headers)}{call.raw.decode()}"
    assert KEY in seen
    assert host.secrets["web"] not in seen


def test_errors_have_the_caller_s_own_shape(host: Site) -> None:
    """The vendors' clients raise their own classes for what the gateway refuses."""
    hello: Any = [{"role": "user", "content": "hi"}]
    with openai_at(host, "lk-wrong") as client, pytest.raises(openai.AuthenticationError):
        client.chat.completions.create(model="sim", messages=hello)
    with openai_at(host) as client:
        with pytest.raises(openai.NotFoundError, match="no model 'nothing'"):
            client.chat.completions.create(model="nothing", messages=hello)
        with pytest.raises(openai.BadRequestError, match="logit_bias"):
            client.chat.completions.create(model="claude", messages=hello, logit_bias={"1": 1})
    with anthropic_at(host, "lk-wrong") as other, pytest.raises(anthropic.AuthenticationError):
        other.messages.create(model="sim", messages=hello, max_tokens=10)
    with anthropic_at(host) as other, pytest.raises(anthropic.BadRequestError):
        other.messages.create(model="sim", messages=hello, max_tokens=10, extra_body={"top_k": 3})


def test_llm_asks_through_a_gateway(host: Site, environ: dict[str, str], tmp_path: Path) -> None:
    """The command `llm` by its own configuration of a server: plain, streamed, and its models."""
    folder = tmp_path / "llm"
    folder.mkdir()
    (folder / "extra-openai-models.yaml").write_text(
        f"- model_id: team\n  model_name: sim\n  api_base: {host.gateway.url}/v1\n"
        f"  headers: {{authorization: Bearer {host.secrets['web']}}}\n"
    )
    env = {**environ, "LLM_USER_PATH": str(folder), "OPENAI_API_KEY": "unused"}
    del env["PYTHONWARNINGS"]  # its own are its own
    command = [str(LLMCTL.with_name("llm")), "-m", "team", "hello"]
    for flags in ([], ["--no-stream"]):
        done = subprocess.run(
            [*command, *flags],
            check=False,
            env=env,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
        )
        assert done.stdout == "echo: hello\n", done.stderr
