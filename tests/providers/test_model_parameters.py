"""What models refuse: left out where a profile says it, refused unsent where the question does."""

from __future__ import annotations

from typing import Any

import pytest

from llmctl.config.settings import Profile
from llmctl.errors import InvalidRequest
from llmctl.providers.model_parameters import is_reasoning_model, refused
from llmctl.providers.registry import codec
from llmctl.request import Question, compose, left_out, retarget
from llmctl.types import JSON, Message, Price, RawRequest

USER = Message("user", "Hi")


def profile(model: str, adapter: str = "openai", **more: Any) -> Profile:
    """A profile of this model at some gateway."""
    return Profile("p", adapter, adapter, "https://gateway.example/v1", model, **more)


ONE, BOTH = {"temperature": 0.5}, {"temperature": 0.5, "top_p": 0.9}
EFFORT = {"reasoning_effort": "low", **ONE}


@pytest.mark.parametrize(
    ("model", "said", "out"),
    [
        ("gpt-5-mini", BOTH, {"temperature", "top_p"}),
        ("gpt-5-2025-08-07", {"logprobs": True}, {"logprobs"}),
        ("azure/gpt-5-nano", ONE, {"temperature"}),
        ("o3", {"presence_penalty": 0.5, "seed": 1}, {"presence_penalty"}),
        ("gpt-5.2-codex", ONE, {"temperature"}),
        ("gpt-5.2", ONE, set()),
        ("gpt-5.2", EFFORT, {"temperature"}),
        ("gpt-5.6-sol", ONE, {"temperature"}),
        ("gpt-5.6-sol", {"reasoning": {"effort": "none"}, **ONE}, set()),
        ("gpt-6.1-terra", ONE, {"temperature"}),
        ("gpt-6.1-terra", {"reasoning": {"effort": "none"}, **ONE}, set()),
        ("gpt-6-astra", {"reasoning": {"effort": "none"}, **ONE}, {"temperature"}),
        ("gpt-5-mini", {"temperature": 1, "top_p": None, "max_tokens": 5}, set()),
        ("gpt-5-chat-latest", BOTH, set()),
        ("gpt-4o", BOTH, set()),
        ("bedrock/us.anthropic.claude-sonnet-5-5", ONE, {"temperature"}),
        ("my-model", BOTH, set()),
    ],
)
def test_what_openais_and_gateways_models_refuse(model: str, said: JSON, out: set[str]) -> None:
    """Case 33: by the model's own name, at whichever address; a default value says nothing."""
    body = {"model": model, "messages": [], **said}
    asked = compose(Question((), raw=RawRequest("/responses", body)), profile(model), id="x")
    assert refused(asked).keys() == out
    params = {name: value for name, value in said.items() if name != "temperature"}
    assert set(left_out(profile(model, temperature=said.get("temperature"), params=params))) == out


@pytest.mark.parametrize(
    ("model", "said", "out"),
    [
        ("claude-sonnet-5-5", {**BOTH, "top_k": 5}, {"temperature", "top_p", "top_k"}),
        ("claude-opus-4-7", ONE, {"temperature"}),
        ("claude-haiku-4-5", ONE, set()),
        ("claude-haiku-4-5", BOTH, {"top_p"}),
        ("claude-3-5-haiku-latest", BOTH, set()),
        ("claude-sonnet-4-0", {"thinking": {"type": "enabled"}, **ONE}, {"temperature"}),
    ],
)
def test_what_anthropics_models_refuse(model: str, said: JSON, out: set[str]) -> None:
    """Case 33: sampling at all, both ways at once, or beside thinking."""
    params = {name: value for name, value in said.items() if name != "temperature"}
    made = profile(model, "anthropic", temperature=said["temperature"], params=params)
    assert set(left_out(made)) == out
    body = codec("anthropic").encode(compose(Question((USER,)), made, id="x"), stream=False).body
    assert body is not None
    assert said.keys() - body.keys() == out


def test_the_questions_own_parameter_stays() -> None:
    """Of two that exclude each other the profile's is left out; the question's own that the model
    refuses is refused before sending, also at a fallback."""
    claude = profile("claude-haiku-4-5", "anthropic", temperature=0.5)
    asked = compose(Question((USER,), options={"top_p": 0.9}), claude, id="x")
    assert (asked.temperature, dict(asked.options)) == (None, {"top_p": 0.9})
    own = compose(Question((USER,), temperature=0.0), profile("gpt-4o"), id="x")
    for api in ("chat", "responses"):
        other = retarget(own, profile("gpt-5-mini", api=api), "c")
        with pytest.raises(InvalidRequest, match=r"gpt-5-mini refuses temperature \(0.0\)") as why:
            codec("openai", api).encode(other, stream=False)
        assert (why.value.sent, why.value.exit_code) == (False, 2)
    from_profile = compose(Question((USER,)), profile("gpt-4o", temperature=0.5), id="x")
    assert retarget(from_profile, profile("gpt-5-mini", temperature=0.1), "c").temperature is None


@pytest.mark.parametrize(
    ("model", "like", "thinks"),
    [
        ("gpt-5-mini", None, True),
        ("openai/gpt-5.2", None, True),
        ("azure/o4-mini", None, True),
        ("my-deployment", "openai/gpt-5-mini", True),
        ("my-deployment", "openai/gpt-4o", False),
        ("openai/gpt-oss-20b", None, False),
        ("llama3", None, False),
    ],
)
def test_the_limit_of_models_that_think(model: str, like: str | None, *, thinks: bool) -> None:
    """Case 34: `max_completion_tokens` behind gateways, and where the deployment's name does not
    tell the model but `price: {as: …}` does."""
    made = profile(model, max_tokens=9, price=None if like is None else Price(like=like))
    asked = compose(Question((USER,)), made, id="x")
    body = codec("openai").encode(asked, stream=False).body or {}
    assert body.get("max_completion_tokens" if thinks else "max_tokens") == 9
    assert is_reasoning_model(asked.target) is thinks


@pytest.mark.parametrize(
    ("adapter", "api", "path"),
    [
        ("openai", "chat", "/chat/completions"),
        ("openai", "responses", "/responses"),
        ("groq", "chat", "/chat/completions"),
    ],
)
def test_an_openai_batch_line_is_not_judged(adapter: str, api: Any, path: str) -> None:
    """Its body goes out as it is, whatever its model is said to refuse: the provider decides."""
    body = {"model": "gpt-5-mini", "max_tokens": 9, "temperature": 0.5, "logprobs": True}
    raw = compose(Question((), raw=RawRequest(path, body)), profile("m", adapter), id="x")
    assert codec(adapter, api).encode(raw, stream=False).body == body
