"""Amazon's own SDK and llmctl, side by side."""

from __future__ import annotations

import base64
import json
from typing import Any, ClassVar

import pytest
from msgspec.structs import replace

from llmctl.types import Finish
from tests.conformance.codec import KEY, Wired
from tests.conformance.codec_dialects import PDF, PNG
from tests.reference.contract import FUNCTION, LOOKING, PARAMETERS, SYSTEM, TURNS, Said, SdkContract
from tests.simulator.call import Call

SPECIFIED: dict[str, Any] = {
    "toolSpec": {
        "name": FUNCTION["name"],
        "description": FUNCTION["description"],
        "inputSchema": {"json": PARAMETERS},
    }
}


def said(role: str, *content: Any) -> dict[str, Any]:
    """A message of texts and blocks."""
    return {"role": role, "content": [{"text": c} if isinstance(c, str) else c for c in content]}


LAST = [said(*TURNS[-1])]


class TestBedrock(SdkContract):
    """Converse. The SDK signs and llmctl has a bearer token here: tests/auth compares signatures.

    The models come in two lists.
    """

    name = "bedrock"
    module = "botocore.session"
    finishes: ClassVar[dict[str, Finish]] = {"end_turn": "stop", "tool_use": "tool_calls"}
    tools: ClassVar[Any] = {"tools": [SPECIFIED]}
    tools_option = "toolConfig"

    def client(self, sdk: Any, origin: str) -> Any:
        """Both clients, without retries: the models are another service's."""
        config = pytest.importorskip("botocore.config").Config(retries={"max_attempts": 0})
        return [
            sdk.get_session().create_client(
                service,
                region_name="eu-central-1",
                endpoint_url=f"{origin}/bedrock",
                aws_access_key_id=KEY,
                aws_secret_access_key="secret",
                config=config,
            )
            for service in ("bedrock-runtime", "bedrock")
        ]

    def ask(self, client: Any, *, stream: bool) -> Said:
        """The system prompt stands beside the turns."""
        given = {
            "system": [{"text": SYSTEM}],
            "messages": [said(*turn) for turn in TURNS],
            "inferenceConfig": {"maxTokens": 64, "temperature": self.temperature},
        }
        return self._said(client, given, stream=stream)

    def ask_with_schema(self, client: Any, model: Any) -> str:
        """The schema is a text."""
        schema = {"schema": json.dumps(model.model_json_schema())}
        form = {"type": "json_schema", "structure": {"jsonSchema": schema}}
        text = self._text(client, messages=LAST, outputConfig={"textFormat": form})
        city: str = model.model_validate_json(text).city
        return city

    def ask_with_image(self, client: Any) -> str:
        """An image's bytes."""
        image = {"format": "png", "source": {"bytes": base64.b64decode(PNG)}}
        return self._text(client, messages=[said("user", LOOKING, {"image": image})])

    def ask_with_tools(self, client: Any, *, stream: bool) -> Said:
        """A tool's specification."""
        return self._said(client, {"messages": LAST, "toolConfig": self.tools}, stream=stream)

    def ask_with_results(self, client: Any) -> str:
        """A call and its result are blocks of two turns."""
        use = {"toolUseId": "call_1", "name": "weather", "input": {"city": "Paris"}}
        result = {"toolUseId": "call_1", "content": [{"text": '{"rain":true}'}]}
        return self._text(
            client,
            system=[{"text": SYSTEM}],
            messages=[
                said("user", "Is it wet in Paris?"),
                said("assistant", {"toolUse": use}),
                said("user", {"toolResult": result}),
            ],
            toolConfig=self.tools,
            inferenceConfig={"maxTokens": 64},
        )

    def count(self, client: Any) -> int | None:
        """Its own count."""
        found = client[0].count_tokens(modelId="sim-small", input={"converse": {"messages": LAST}})
        tokens: int = found["inputTokens"]
        return tokens

    def test_the_models(self, wired: Wired, sdk: Any) -> None:
        """Both list the models and the inference profiles from the same places."""
        control = sdk[1]
        listed = control.list_foundation_models(byOutputModality="TEXT")["modelSummaries"]
        profiles = control.list_inference_profiles(maxResults=1000)["inferenceProfileSummaries"]
        first, after = wired.codec.decode_models(wired.fetch(wired.codec.models(None)))
        second, end = wired.codec.decode_models(wired.fetch(wired.codec.models(after)))
        places = [(call.method, call.path, call.query) for call in wired.sim.calls]
        assert places[2:] == places[:2]
        assert [m.id for m in first] == [m["modelId"] for m in listed if "48k" not in m["modelId"]]
        assert [m.id for m in second] == [each["inferenceProfileId"] for each in profiles]
        assert end is None

    @pytest.mark.parametrize("model", ["eu.anthropic.claude-x-v1:0", "arn:aws:bedrock:eu:1:p/x.y"])
    def test_a_models_path(self, wired: Wired, sdk: Any, model: str) -> None:
        """Colons and slashes of a model's name are escaped once."""
        sdk[0].converse(modelId=model, messages=LAST)
        asked = wired.request(TURNS[-1][1])
        asked = replace(asked, target=replace(asked.target, model=model))
        wired.fetch(wired.codec.encode(asked, stream=False))
        theirs, ours = wired.sim.calls
        assert ours.path == theirs.path
        assert ours.ask is not None
        assert ours.ask.model == model

    def test_a_document(self, wired: Wired, sdk: Any) -> None:
        """A PDF goes out in the same block, under a name of its own."""
        source = {"bytes": base64.b64decode(PDF)}
        blocks = [
            {"document": {"format": "pdf", "name": f"document-{n}", "source": source}}
            for n in (1, 2)
        ]
        self._text(sdk, messages=[said("user", LOOKING, *blocks)])
        file = {"filename": "a.pdf", "file_data": f"data:application/pdf;base64,{PDF}"}
        wired.ask(LOOKING, {"type": "file", "file": file}, {"type": "file", "file": file})
        self.agree(*wired.sim.calls)

    def agree(self, theirs: Call, ours: Call) -> None:
        """Also the type of what is sent."""
        super().agree(theirs, ours)
        assert ours.headers["content-type"] == theirs.headers["content-type"]

    def meaning(self, body: Any) -> Any:
        """The schema is JSON in a text."""
        found = super().meaning(body)
        if "outputConfig" in found:
            definition = found["outputConfig"]["textFormat"]["structure"]["jsonSchema"]
            definition["schema"] = json.loads(definition["schema"])
        return found

    def _text(self, client: Any, **given: Any) -> str:
        content = client[0].converse(modelId="sim-small", **given)["output"]["message"]["content"]
        return "".join(block["text"] for block in content if "text" in block)

    def _said(self, client: Any, given: dict[str, Any], *, stream: bool) -> Said:
        if stream:
            events = list(client[0].converse_stream(modelId="sim-small", **given)["stream"])
            deltas = [e["contentBlockDelta"]["delta"] for e in events if "contentBlockDelta" in e]
            text = "".join(delta.get("text", "") for delta in deltas)
            (reason,) = (e["messageStop"]["stopReason"] for e in events if "messageStop" in e)
            (usage,) = (e["metadata"]["usage"] for e in events if "metadata" in e)
        else:
            found = client[0].converse(modelId="sim-small", **given)
            content = found["output"]["message"]["content"]
            text = "".join(block.get("text", "") for block in content)
            reason, usage = found["stopReason"], found["usage"]
        cached = usage["cacheReadInputTokens"]
        read = usage["inputTokens"] + cached + usage["cacheWriteInputTokens"]
        return Said(text, reason, read, usage["outputTokens"], cached)
