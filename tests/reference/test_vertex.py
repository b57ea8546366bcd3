"""google-genai and anthropic, sent to Vertex AI, and llmctl, side by side.

google-genai asks `v1beta1` unless told otherwise; llmctl asks `v1`, and `v1beta1` for the list of
models, which `v1` does not have (docs.cloud.google.com/vertex-ai/docs/reference/rest).
"""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
from msgspec.structs import replace

from llmctl.protocols import WireRequest
from llmctl.types import Message
from tests.conformance.codec import KEY, Wired
from tests.reference import test_anthropic, test_gemini
from tests.reference.contract import SYSTEM, TURNS
from tests.simulator.call import Call

PLACE = {"project": "sim", "location": "europe-west1"}


class TestVertexGemini(test_gemini.TestGemini):
    """Google's models."""

    name = "vertex"

    def client(self, sdk: Any, origin: str) -> Any:
        """The client of a project in a region."""
        credentials = pytest.importorskip("google.oauth2.credentials").Credentials(KEY)
        options = sdk.types.HttpOptions(base_url=f"{origin}/vertex", api_version="v1")
        return sdk.Client(vertexai=True, **PLACE, credentials=credentials, http_options=options)

    def models(self, client: Any) -> list[str]:
        """Names with their publisher before them."""
        config = {"http_options": {"api_version": "v1beta1"}}
        return [model.name.rpartition("/")[2] for model in client.models.list(config=config)]

    def test_the_token_count_of_a_whole_request(self, wired: Wired, sdk: Any) -> None:
        """Instructions, tools and limits are counted beside the contents, not in another request
        as the Gemini API wants it."""
        types = pytest.importorskip("google.genai.types")
        tools = [types.Tool(function_declarations=[test_gemini.DECLARED])]
        config = {
            "system_instruction": SYSTEM,
            "tools": tools,
            "generation_config": types.GenerationConfig(temperature=0.5, max_output_tokens=64),
        }
        sdk.models.count_tokens(model="sim-small", contents=TURNS[-1][1], config=config)
        asked = wired.request(
            messages=(Message("system", SYSTEM), Message("user", TURNS[-1][1])),
            max_tokens=64,
            temperature=0.5,
            options={"tools": self.tools},
        )
        wire = wired.codec.count(asked)
        assert isinstance(wire, WireRequest)
        wired.fetch(wire)
        self.agree(*wired.sim.calls)


class TestVertexClaude(test_anthropic.TestAnthropic):
    """Anthropic's models."""

    name = "vertex-claude"
    carries: ClassVar[dict[str, str]] = {}
    test_the_models = None  # type: ignore[assignment]  # the SDK has no list of them

    def client(self, sdk: Any, origin: str) -> Any:
        """The client of a project in a region, without retries."""
        return sdk.AnthropicVertex(
            region="eu",
            project_id="sim",
            access_token=KEY,
            base_url=f"{origin}/vertex-claude/v1",
            max_retries=0,
        )

    def agree(self, theirs: Call, ours: Call) -> None:
        """Neither version nor beta stands in a header that the other one does not send."""
        super().agree(theirs, ours)
        assert own(ours) == own(theirs)

    def test_betas(self, wired: Wired, sdk: Any) -> None:
        """Names of betas go out in one header; a dated model is not escaped."""
        model, betas = "claude-sonnet-4-5@20250929", ["context-1m-2025-08-07", "b-2"]
        sdk.beta.messages.create(
            model=model, betas=betas, max_tokens=64, messages=test_anthropic.LAST
        )
        asked = wired.request(TURNS[-1][1], max_tokens=64, options={"betas": betas})
        target = replace(asked.target, model=model)
        wired.fetch(wired.codec.encode(replace(asked, target=target), stream=False))
        self.agree(*wired.sim.calls)


def own(call: Call) -> dict[str, str]:
    """The headers of Anthropic's own."""
    return {name: value for name, value in call.headers.items() if name.startswith("anthropic-")}
