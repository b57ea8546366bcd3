"""Bedrock's wire format."""

from __future__ import annotations

import base64
import subprocess
import sys
from decimal import Decimal
from typing import Any

import orjson
import pytest
from msgspec.structs import replace

from llmctl.auth import extras
from llmctl.errors import (
    AuthFailed,
    BadResponse,
    CallError,
    CallTimeout,
    ContextTooLong,
    InvalidRequest,
    NotFound,
    Overloaded,
    PermissionRefused,
    QuotaExhausted,
    RateLimited,
    ServerFailed,
    SetupError,
)
from llmctl.pricing import Prices
from llmctl.protocols import Codec
from llmctl.providers.bedrock import Bedrock
from llmctl.providers.endpoint import join
from llmctl.tokens import Counter
from llmctl.types import JSON, Message, RawRequest, Request, Usage
from tests.conformance.codec_samples import events_of
from tests.providers.recordings import asked, streamed
from tests.simulator.wires.bedrock import exception_frame, frame

CODEC: Codec = Bedrock(now=lambda: 1_800_000_000.0)
CLAUDE = "eu.anthropic.claude-sonnet-4-5-20250929-v1:0"
TEXT = base64.b64encode(b"a,b").decode()


def ask(**changes: Any) -> Request:
    """A request to a model on Bedrock."""
    return asked("bedrock", changes.pop("model", CLAUDE), **changes)


def sent(**changes: Any) -> dict[str, Any]:
    """The body of such a request."""
    return dict(CODEC.encode(ask(**changes), stream=False).body or {})


def content(*given: JSON) -> Any:
    """What a user's turn of these parts becomes."""
    return sent(messages=(Message("user", given),))["messages"][0]["content"]


def attached(mime: str) -> JSON:
    """A file of this type."""
    url = f"data:{mime};base64,{TEXT}"
    return {"type": "file", "file": {"filename": "x", "file_data": url}}


# --- Requests -----------------------------------------------------------------------------------


def test_options_find_their_place() -> None:
    """Converse's own fields stand where it wants them; all else is the model's own."""
    made = sent(
        max_tokens=9,
        temperature=0,
        options={
            "stopSequences": ["x"],
            "top_k": 3,
            "serviceTier": {"type": "flex"},
            "guardrailConfig": {"guardrailIdentifier": "g"},
            "additionalModelRequestFields": {"a": 1},
            "inferenceConfig": {"topP": 0.5},
        },
    )
    del made["messages"]
    assert made == {
        "inferenceConfig": {
            "maxTokens": 9,
            "temperature": 0,
            "stopSequences": ["x"],
            "topP": 0.5,
        },
        "additionalModelRequestFields": {"top_k": 3, "a": 1},
        "serviceTier": {"type": "flex"},
        "guardrailConfig": {"guardrailIdentifier": "g"},
    }


def test_instructions_stand_first_and_roles_take_turns() -> None:
    """The API refuses two turns of one role in a row, and instructions between them."""
    turns = [("user", "a"), ("system", "b"), ("user", "c"), ("assistant", "d"), ("user", "e")]
    made = sent(messages=tuple(Message(*turn) for turn in turns))
    assert made["system"] == [{"text": "b"}]
    assert made["messages"] == [
        {"role": "user", "content": [{"text": "a"}, {"text": "c"}]},
        {"role": "assistant", "content": [{"text": "d"}]},
        {"role": "user", "content": [{"text": "e"}]},
    ]


@pytest.mark.parametrize(
    ("mime", "kind", "form"),
    [
        ("image/webp", "image", "webp"),
        ("audio/mpeg", "audio", "mp3"),
        ("audio/flac", "audio", "flac"),
        ("video/quicktime", "video", "mov"),
        ("text/csv", "document", "csv"),
        ("text/x-python", "document", "txt"),
        ("application/json", "document", "txt"),
    ],
)
def test_a_file_is_a_block_of_its_kind(mime: str, kind: str, form: str) -> None:
    """The type decides about the block and its format."""
    ((found, block),) = content(attached(mime))[0].items()
    assert (found, block["format"], block["source"]) == (kind, form, {"bytes": TEXT})


def test_documents_have_different_names() -> None:
    """The API refuses two of one name, also in different turns."""
    turn = Message("user", (attached("text/csv"), attached("text/csv")))
    made = sent(messages=(turn, Message("assistant", "b"), turn))["messages"]
    names = [b["document"]["name"] for m in made for b in m["content"] if "document" in b]
    assert len(set(names)) == 4


def test_what_cannot_be_attached_is_not_sent() -> None:
    """Addresses, types that no block has, parts of other providers."""
    for part in (
        {"type": "image_url", "image_url": {"url": "https://example.org/a.png"}},
        {"type": "file", "file": {"file_id": "f"}},
        attached("application/zip"),
        {"type": "image_url", "image_url": {"url": f"data:image/tiff;base64,{TEXT}"}},
        {"type": "input_video", "x": 1},
    ):
        with pytest.raises(InvalidRequest, match="does not take") as caught:
            content(part)
        assert not caught.value.sent


def test_converses_own_blocks_pass() -> None:
    """What has no type is a block of the API's."""
    assert content({"cachePoint": {"type": "default"}}) == [{"cachePoint": {"type": "default"}}]


@pytest.mark.parametrize(
    ("choice", "chosen"),
    [
        ("auto", {"auto": {}}),
        ("required", {"any": {}}),
        ({"type": "function", "function": {"name": "f"}}, {"tool": {"name": "f"}}),
    ],
)
def test_a_choice_of_tools_is_translated(choice: Any, chosen: Any) -> None:
    """Each way to choose has a counterpart."""
    body = {
        "messages": [{"role": "user", "content": "hi"}],
        "tools": [{"type": "function", "function": {"name": "f", "strict": True}}],
        "tool_choice": choice,
        "stop": "x",
    }
    made = sent(raw=RawRequest("/chat/completions", body))
    spec = {"name": "f", "inputSchema": {"json": {"type": "object"}}, "strict": True}
    assert made["toolConfig"] == {"tools": [{"toolSpec": spec}], "toolChoice": chosen}
    assert made["inferenceConfig"] == {"stopSequences": ["x"]}


def test_the_choice_of_no_tool_sends_none() -> None:
    """There is no word for it: without tools none is called."""
    body = {
        "messages": [{"role": "user", "content": "hi"}],
        "tools": [{"type": "function", "function": {"name": "f"}}],
        "tool_choice": "none",
    }
    assert "toolConfig" not in sent(raw=RawRequest("/chat/completions", body))


def test_a_schema_keeps_the_rest_of_its_field() -> None:
    """The form of the text stands beside the effort."""
    made = sent(options={"outputConfig": {"effort": "low"}}, schema={"type": "object"})
    assert made["outputConfig"]["effort"] == "low"
    schema = made["outputConfig"]["textFormat"]["structure"]["jsonSchema"]["schema"]
    assert orjson.loads(schema)["additionalProperties"] is False


@pytest.mark.parametrize("options", [{"temperature": 0.5}, {"topP": 0.5}, {"top_k": 5}])
def test_what_a_claude_refuses_is_not_sent(options: dict[str, Any]) -> None:
    """The newer ones take no sampling parameters, wherever they run."""
    with pytest.raises(InvalidRequest, match="refuses"):
        sent(model="global.anthropic.claude-opus-5-5", options=options)


def test_tokens_are_counted_by_the_models_own_id() -> None:
    """CountTokens refuses an inference profile's, and all fields but those that are read."""
    wire = CODEC.count(ask(max_tokens=5, options={"top_k": 1, "serviceTier": {"type": "flex"}}))
    assert wire is not None
    model = "anthropic.claude-sonnet-4-5-20250929-v1%3A0"
    assert wire.path == f"/model/{model}/count-tokens"
    assert wire.body is not None
    fields = {"messages", "additionalModelRequestFields"}
    assert wire.body["input"]["converse"].keys() == fields


@pytest.mark.parametrize(
    ("limit", "changes"),
    [
        (9, {"max_tokens": 9}),
        (7, {"options": {"inferenceConfig": {"maxTokens": 7}}}),
        (5000, {"max_tokens": 9, "options": {"thinking": {"budget_tokens": 5000}}}),
    ],
)
def test_a_limit_bounds_a_budget_wherever_it_stands(limit: int, changes: dict[str, Any]) -> None:
    """Thinking, of the model's own fields, counts too."""
    assert Counter(codec=lambda *_: CODEC).max_output(ask(**changes)) == limit


# --- Answers ------------------------------------------------------------------------------------

CITED = {
    "citationsContent": {"content": [{"text": "so "}, {"text": "it is"}], "citations": [{"a": 1}]}
}
SEARCH = {"toolUseId": "s", "name": "search", "type": "server_tool_use"}
USED = {
    "inputTokens": 10,
    "outputTokens": 5,
    "totalTokens": 115,
    "cacheReadInputTokens": 60,
    "cacheWriteInputTokens": 40,
    "cacheDetails": [{"ttl": "1h", "inputTokens": 30}, {"ttl": "5m", "inputTokens": 10}],
}
USAGE = Usage(input=110, output=5, cached_input=60, cache_write=40, cache_write_1h=30)


def test_a_whole_answer() -> None:
    """Cited text is text, reasoning is none, Amazon's own tools are not for the caller."""
    blocks = [
        {"reasoningContent": {"reasoningText": {"text": "hm"}}},
        {"text": "I say "},
        CITED,
        {"toolUse": {**SEARCH, "input": {}}},
        {"toolUse": {"toolUseId": "t", "name": "f", "input": {"a": 1}}},
    ]
    message = {"role": "assistant", "content": blocks}
    body = {"output": {"message": message}, "stopReason": "tool_use", "usage": USED}
    found = CODEC.decode(200, {}, orjson.dumps(body))
    assert (found.text, found.finish, found.usage) == ("I say so it is", "tool_calls", USAGE)
    assert [(c["id"], c["function"]["arguments"]) for c in found.tool_calls] == [("t", '{"a":1}')]
    assert found.citations == ({"a": 1},)


def test_a_streamed_answer() -> None:
    """The same in pieces; its usage comes last. Without a reason to finish it is incomplete."""
    tool, thought = {"toolUseId": "t", "name": "f"}, {"text": "hm"}
    pieces: list[tuple[str, dict[str, Any]]] = [
        ("messageStart", {"role": "assistant"}),
        (
            "contentBlockDelta",
            {"contentBlockIndex": 0, "delta": {"reasoningContent": thought}},
        ),
        ("contentBlockDelta", {"contentBlockIndex": 1, "delta": {"text": "so it is"}}),
        ("contentBlockDelta", {"contentBlockIndex": 1, "delta": {"citation": {"a": 1}}}),
        ("contentBlockStart", {"contentBlockIndex": 2, "start": {"toolUse": SEARCH}}),
        ("contentBlockDelta", {"contentBlockIndex": 2, "delta": {"toolUse": {"input": "{}"}}}),
        ("contentBlockStart", {"contentBlockIndex": 3, "start": {"toolUse": tool}}),
        ("contentBlockDelta", {"contentBlockIndex": 3, "delta": {"toolUse": {"input": '{"a"'}}}),
        ("contentBlockDelta", {"contentBlockIndex": 3, "delta": {"toolUse": {"input": ":1}"}}}),
        ("contentBlockStop", {"contentBlockIndex": 3}),
        ("messageStop", {"stopReason": "tool_use"}),
    ]
    frames = [frame(name, payload) for name, payload in pieces]
    assert not streamed(CODEC, frames[:-1]).done
    found = streamed(CODEC, [*frames, frame("metadata", {"usage": USED})])
    assert (found.text, found.finish, found.usage) == ("so it is", "tool_calls", USAGE)
    assert found.done
    reader = CODEC.reader()
    last = [reader.piece(event.name, event.data) for event in events_of(CODEC, frames)][-1]
    assert [(c["id"], c["function"]["arguments"]) for c in last.tool_calls] == [("t", '{"a":1}')]
    assert last.citations == ({"a": 1},)


# --- Errors -------------------------------------------------------------------------------------

FAILURES: list[tuple[int, str, str, type[CallError]]] = [
    (429, "ThrottlingException", "Too many requests, please wait", RateLimited),
    (429, "ThrottlingException", "Too many tokens per day, please wait", QuotaExhausted),
    (400, "ServiceQuotaExceededException", "the quota", QuotaExhausted),
    (403, "AccessDeniedException", "You don't have access to the model", PermissionRefused),
    (403, "AccessDeniedException", "Bearer Token has expired", AuthFailed),
    (403, "UnrecognizedClientException", "The security token is invalid.", AuthFailed),
    (403, "InvalidSignatureException", "Signature expired", AuthFailed),
    (403, "ExpiredTokenException", "The security token is expired", AuthFailed),
    (400, "IncompleteSignature", "no", AuthFailed),
    (403, "MissingAuthenticationToken", "Missing", AuthFailed),
    (400, "ValidationException", "Input is too long for requested model.", ContextTooLong),
    (400, "ValidationException", "prompt is too long: 9 tokens > 8 maximum", ContextTooLong),
    (400, "ValidationException", "The provided model identifier is invalid.", NotFound),
    (400, "ValidationException", "temperature: must be", InvalidRequest),
    (404, "ResourceNotFoundException", "no such model", NotFound),
    (408, "ModelTimeoutException", "late", CallTimeout),
    (429, "ModelNotReadyException", "not ready", Overloaded),
    (503, "ServiceUnavailableException", "down", Overloaded),
    (424, "ModelErrorException", "it broke", ServerFailed),
    (500, "InternalServerException", "it broke", ServerFailed),
]


@pytest.mark.parametrize(("status", "name", "message", "kind"), FAILURES)
def test_failures(status: int, name: str, message: str, kind: type[CallError]) -> None:
    """Amazon's names decide, in the header or the body, with or without a namespace."""
    body = {"message": message}
    for headers, said in (
        ({"x-amzn-errortype": f"{name}:http://internal.amazon.com/coral/"}, body),
        ({"x-amzn-errortype": name}, {"Message": message}),
        ({}, {"__type": f"com.amazon.coral.service#{name}", **body}),
    ):
        error = CODEC.failure(status, headers, orjson.dumps(said))
        assert type(error) is kind
        assert message in error.message


def test_a_bad_bearer_key_is_not_refused_permission() -> None:
    """Amazon says so with 403, without a name, under a capital letter."""
    for said in ("Authentication failed: Please make sure your API Key is valid.",
                 "Invalid API Key format: Must start with pre-defined prefix"):  # fmt: skip
        error = CODEC.failure(403, {}, orjson.dumps({"Message": said}))
        assert type(error) is AuthFailed


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("throttlingException", RateLimited),
        ("serviceUnavailableException", Overloaded),
        ("internalServerException", ServerFailed),
        ("modelStreamErrorException", ServerFailed),
        ("validationException", InvalidRequest),
    ],
)
def test_an_exception_within_a_stream(name: str, kind: type[CallError]) -> None:
    """It is what the same error is before it."""
    with pytest.raises(CallError, match="it broke") as caught:
        streamed(CODEC, [exception_frame(name, {"message": "it broke"})])
    assert type(caught.value) is kind


# --- Models -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("base", "control"),
    [
        (f"https://bedrock-runtime{end}", f"https://bedrock{end}")
        for end in (
            ".eu-central-1.amazonaws.com",
            ".cn-north-1.amazonaws.com.cn",
            "-fips.us-east-1.amazonaws.com",
            ".us-east-1.api.aws",
        )
    ]
    + [
        (base, base)
        for base in ("http://127.0.0.1:1/x", "https://bedrock-runtime.eu.example.com",
                     "https://bedrock-runtime.eu.amazonaws.com.example.com",
                     "https://vpce-1.bedrock-runtime.eu-central-1.vpce.amazonaws.com")
    ],
)  # fmt: skip
def test_models_are_listed_by_another_host(base: str, control: str) -> None:
    """Only Amazon's own is known; no key goes to a host that nobody named."""
    assert join(base, "/foundation-models?x=1") == f"{control}/foundation-models?x=1"
    assert join(base, "/inference-profiles") == f"{control}/inference-profiles"
    assert join(base, "/model/m/converse") == f"{base}/model/m/converse"


def test_the_pages_of_models() -> None:
    """Models, then every page of profiles; what is neither is no list."""
    assert CODEC.decode_models(b'{"modelSummaries":[]}') == ([], _AFTER)
    body = orjson.dumps({"inferenceProfileSummaries": [], "nextToken": "a/b"})
    _, after = CODEC.decode_models(body)
    assert CODEC.models(after).path == f"{_AFTER}&nextToken=a%2Fb"
    with pytest.raises(BadResponse, match="base_url"):
        CODEC.decode_models(b'{"data":[]}')


_AFTER = "/inference-profiles?maxResults=1000"

# --- Prices -------------------------------------------------------------------------------------

AT = "https://bedrock-runtime.eu-central-1.amazonaws.com"


@pytest.mark.parametrize(
    ("model", "dearer"),
    [
        ("global.anthropic.claude-sonnet-4-5-20250929-v1:0", "1.0"),
        ("anthropic.claude-sonnet-4-5-20250929-v1:0", "1.1"),
        ("eu.anthropic.claude-sonnet-4-5-20250929-v1:0", "1.1"),
        ("ca.anthropic.claude-sonnet-4-5-20250929-v1:0", "1.1"),
    ],
)
def test_a_geography_costs_more_than_the_world(model: str, dearer: str) -> None:
    """Whatever the geography, also one that the list does not name; never less."""
    target = replace(ask().target, base_url=AT, model=model)
    found = Prices().per_million(target, None, 1_795_000_000.0)
    assert found is not None
    assert [found[0] / 3, found[1] / 15] == [Decimal(dearer)] * 2
    assert Prices().window(AT, model) == 200_000


@pytest.mark.parametrize(
    "model",
    [
        "arn:aws:bedrock:us-east-1:1:custom-model/amazon.nova-lite-v1:0:300k/abc",
        "arn:aws:bedrock:us-east-1:1:application-inference-profile/abc",
        "global.anthropic.claude-opus-4-1-20250805-v1:0",
        "zai.unheard",
    ],
)
def test_what_is_not_known_has_no_price(model: str) -> None:
    """Neither that of a model that its name mentions, nor $0."""
    target = replace(ask().target, base_url=AT, model=model)
    assert Prices().price(target, None, Usage(10, 10), 1_795_000_000.0) is None
    assert Prices().window(AT, model) is None


# --- The extra ----------------------------------------------------------------------------------


def test_without_the_extra_the_message_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before anything is sent and paid for."""
    monkeypatch.setattr(extras, "find_spec", lambda _: None)
    with pytest.raises(SetupError, match=r"pip install botocore.*extra `aws`"):
        Bedrock()


def test_botocore_is_imported_for_streams_only() -> None:
    """It takes long, and plain calls with a bearer key need none of it."""
    look = (
        "import sys; from llmctl.providers.registry import codec; codec('bedrock').reader();"
        "print('botocore' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", look], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
