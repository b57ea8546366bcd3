"""Anthropic's Messages API. Pure: no I/O; the clock is passed in.

Reference: platform.claude.com/docs/en/api/messages, …/api/messages-count-tokens,
…/api/models-list, …/api/rate-limits, …/api/errors, …/docs/en/build-with-claude/streaming,
…/vision, …/pdf-support, …/structured-outputs, …/handling-stop-reasons,
…/docs/en/agents-and-tools/tool-use/overview.

`options` go to the top level of the body (`thinking`, `tools`, `stop_sequences`, `top_p`…),
except `betas`, a list of names for the `anthropic-beta` header, as in Anthropic's own SDKs.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import groupby, takewhile
from typing import Any
from urllib.parse import urlencode

from msgspec.structs import replace

from llmctl.protocols import BodyFields, RateHeaders, WireRequest
from llmctl.providers import message_parts as chat
from llmctl.providers import replies
from llmctl.providers.model_parameters import require_accepted
from llmctl.types import JSON, Finish, Message, ProviderReply, Request, StreamChunk, Usage

VERSION = "2023-06-01"
"""`anthropic-version`. The later 2026-10-21 refuses `temperature`, `top_p` and `top_k`, and
answers alike (platform.claude.com/docs/en/api/versioning, …/api/migration-2026-10-21)."""

WITHOUT_SAMPLING = "2026-10-21"
"""The `anthropic-version` since which `temperature`, `top_p` and `top_k` are refused, whatever they
say (platform.claude.com/docs/en/api/migration-2026-10-21)."""

MAX_TOKENS = 8192
"""The output limit that Anthropic is sent where none is given: the API requires one. Thinking
counts, which the newest models do unasked; every model since Claude 4 takes this one, the older
ones `_MAX_TOKENS_BEFORE` (platform.claude.com/docs/en/about-claude/models/overview)."""

_MAX_TOKENS_BEFORE = 4096
_SINCE_4 = re.compile(r".*\bclaude-[a-z]+-[4-9]\b")

MESSAGES = "/messages"
"""Where its language is spoken, below its address."""

_PAGE = 1000  # models in one page: the most there can be (…/api/models-list)

_COUNTED = frozenset(
    {"model", "messages", "system", "tools", "tool_choice", "thinking", "output_config",
     "cache_control", "context_management", "mcp_servers"}
)  # fmt: skip
"""What count_tokens takes of a request's fields."""


class Anthropic(replies.BaseCodec):
    """The codec; see `protocols.Codec`."""

    fields = BodyFields(("max_tokens",), ("messages", "system"))

    def encode(self, request: Request, *, stream: bool) -> WireRequest:
        """A message, or the raw body of one as it is. An OpenAI-shaped body is translated."""
        body, headers = _body(request)
        return WireRequest(MESSAGES, {**body, "stream": True} if stream else body, headers)

    def auth(self, key: str) -> Mapping[str, str]:
        """The key has a header of its own."""
        return {"x-api-key": key}

    def reply(self, found: Mapping[str, Any]) -> ProviderReply:
        """The text blocks, joined; thinking, tools and their results are not text. Raises
        `ContentFiltered` for a refusal without text."""
        if found.get("type") == "error" or found.get("error"):
            raise replies.error_from_event(found)
        text = replies.block_texts(found["content"])
        usage = _usage(replies.object_or_empty(found.get("usage")))
        finish = replies.finish_of(found.get("stop_reason"), _FINISH) or "other"
        if finish == "content_filter" and not text:
            raise replies.content_filtered(_REFUSED, _refusal(found), usage)
        return ProviderReply(
            text, finish, replies.named(found, "model") or "", usage,
            reason=replies.first_text(found, "stop_reason"),
            tool_calls=tuple(
                replies.tool_call(block["name"], block.get("input"), block.get("id"))
                for block in found["content"] if block.get("type") == "tool_use"
            ),
            citations=replies.kept([c for b in found["content"] for c in b.get("citations") or ()]),
        )  # fmt: skip

    def bill(self, found: Mapping[str, Any]) -> replies.Bill:
        """`usage`."""
        return _usage(replies.object_or_empty(found.get("usage"))), None

    def reader(self) -> AnthropicReader:
        """A reader for one stream: usage comes in two events."""
        return AnthropicReader()

    def limits(self, headers: Mapping[str, str]) -> RateHeaders:
        """`anthropic-ratelimit-{requests,tokens}-{remaining,reset}`; where tokens are limited
        only by direction, those of the input, which run out first in a batch."""
        form = "anthropic-ratelimit-{of}-{what}"
        both = form.format(of="tokens", what="remaining") in headers

        def wait(when: str) -> float | None:
            at = replies.unix_time(when)
            return None if at is None else max(0.0, at - self._now())

        names = ("requests", "tokens" if both else "input-tokens")
        return replies.rate_headers(headers, form, wait, names)

    def models(self, after: str | None) -> WireRequest:
        """A page of the list, after the model `after`."""
        query = urlencode({"limit": _PAGE, **({"after_id": after} if after else {})})
        return WireRequest(f"/models?{query}", None, _headers(), "GET")

    def count(self, request: Request) -> WireRequest:
        """Anthropic counts whatever it would answer, for nothing."""
        body, headers = _body(request)
        kept = {name: value for name, value in body.items() if name in _COUNTED}
        return WireRequest("/messages/count_tokens", kept, headers)


def _headers(betas: object = None, version: str = VERSION) -> Mapping[str, str]:
    if isinstance(betas, list | tuple):
        betas = ",".join(map(str, betas))
    return {"anthropic-version": version, **({"anthropic-beta": str(betas)} if betas else {})}


def default_limit(request: Request) -> int:
    """The output limit of a request that gives none. A thinking budget comes on top, as it must be
    smaller than the limit."""
    budget = replies.object_or_empty(request.options.get("thinking")).get("budget_tokens")
    least = MAX_TOKENS if _SINCE_4.match(request.target.known_as[1]) else _MAX_TOKENS_BEFORE
    return least + (max(0, budget) if isinstance(budget, int) else 0)


def _body(request: Request) -> tuple[JSON, Mapping[str, str]]:
    """The body and its headers. What is wrong with a raw one is Anthropic's to say."""
    raw = request.raw
    if raw is not None and raw.path == MESSAGES:
        version = raw.headers.get("anthropic-version", VERSION)
        return raw.body, _headers(raw.headers.get("anthropic-beta"), version)
    require_accepted(request)
    if raw is not None:
        request = _from_openai(request)
    options = dict(request.options)
    betas = options.pop("betas", None)
    limit = request.max_tokens
    if limit is None:
        limit = default_limit(request)
    body: dict[str, Any] = {
        "model": request.target.model,
        "max_tokens": limit,
        **_conversation(request),
    }
    if request.temperature is not None:
        body["temperature"] = request.temperature
    body.update(options)
    if request.schema is not None:
        given = replies.object_or_empty(options.get("output_config"))
        form = {"type": "json_schema", "schema": to_anthropic_schema(request.schema)}
        body["output_config"] = {**given, "format": form}
    return body, _headers(betas)


# --- Messages -----------------------------------------------------------------------------------

_IMAGES = frozenset({"image/jpeg", "image/png", "image/gif", "image/webp"})
_PDF = "application/pdf"

_OWN = frozenset(
    {"text", "image", "document", "search_result", "thinking", "redacted_thinking", "compaction",
     "container_upload", "tool_addition", "tool_removal"}
)  # fmt: skip
"""Anthropic's own content blocks, which go out as they are; so do those whose names say that
they belong to a tool."""

_OPTIONS = {
    "top_p": "top_p",
    "stop": "stop_sequences",
    "parallel_tool_calls": "parallel_tool_calls",
    "user": "user",
}
"""OpenAI's names → ours; the last two are translated below."""

_SYSTEM_FIRST = re.compile(r"claude-(?:instant|[123]|(?:opus|sonnet|haiku)-4(?!-8))")
"""Models that take instructions only ahead of the conversation. Later ones also take a turn of
the role `system` between others (SystemMessageParam in Anthropic's SDK; seen in traffic of
claude-opus-4-8)."""


def _conversation(request: Request) -> dict[str, Any]:
    """`messages`, and `system` where there is one. Results of tools that follow each other are one
    turn, as the API demands."""
    spoken = list(chat.turns(request))
    if _SYSTEM_FIRST.match(request.target.model):
        spoken.sort(key=lambda turn: turn.role != "system")
    system = list(takewhile(lambda turn: turn.role == "system", spoken))
    messages: list[JSON] = []
    for is_result, group in groupby(spoken[len(system) :], lambda turn: turn.role == "tool"):
        if is_result:
            results = [
                {
                    "type": "tool_result",
                    "tool_use_id": chat.call_id(turn),
                    "content": _content(turn, request),
                }
                for turn in group
            ]
            messages.append({"role": "user", "content": results})
        else:
            messages += [{"role": t.role, "content": _content(t, request)} for t in group]
    if not system:
        return {"messages": messages}
    if all(isinstance(turn.content, str) for turn in system):
        return {"messages": messages, "system": "\n\n".join(turn.text for turn in system)}
    blocks = [_block(part, request) for turn in system for part in chat.parts(turn, request)]
    return {"messages": messages, "system": blocks}


def _content(turn: Message, request: Request) -> str | list[JSON]:
    calls = chat.tool_calls(turn, request)
    if isinstance(turn.content, str) and not calls:
        return turn.content
    return [
        *(_block(part, request) for part in chat.parts(turn, request)),
        *({"type": "tool_use", "id": c.id, "name": c.name, "input": c.arguments} for c in calls),
    ]


def _block(part: chat.Part, request: Request) -> JSON:
    if isinstance(part, chat.Text):
        return {"type": "text", "text": part.text, **part.extra}
    if isinstance(part, chat.Media):
        return _media(part, request)
    if part.kind in _OWN or "tool" in part.kind:
        return part.part
    raise chat.refusal(f"parts of the type `{part.kind}`", request)


def _media(part: chat.Media, request: Request) -> JSON:
    # `detail` says how closely to look; there is nothing like it here, and nothing is lost.
    extra = {key: value for key, value in part.extra.items() if key != "detail"}
    image = part.mime in _IMAGES or (part.image and part.mime != _PDF)
    mime = part.mime or _PDF
    if part.file_id:
        source = {"type": "file", "file_id": part.file_id}
    elif part.url:
        if not image and mime != _PDF:
            raise chat.refusal(f"files of the type {mime} by their address", request)
        source = {"type": "url", "url": part.url}
    elif mime in _IMAGES or mime == _PDF:
        source = {"type": "base64", "media_type": mime, "data": str(part.data)}
    elif mime.startswith("text/") and not part.image:
        source = {"type": "text", "media_type": "text/plain", "data": part.plain}
    else:
        raise chat.refusal(f"attachments of the type {mime}", request)
    return {"type": "image" if image else "document", "source": source, **extra}


def _from_openai(request: Request) -> Request:
    """The request of an OpenAI-shaped body, its tools and the rest in Anthropic's shape."""
    plain, tools, choice = chat.from_chat(request, _OPTIONS)
    options = dict(plain.options)
    one_by_one = options.pop("parallel_tool_calls", True) is False
    user = options.pop("user", None)
    if user is not None:
        options["metadata"] = {"user_id": user}
    if tools:
        options["tools"] = [_tool(function) for function in tools]
    if choice is not None or (one_by_one and tools):
        how, name = choice or ("auto", None)
        chosen: dict[str, Any] = {"type": {"required": "any", "named": "tool"}.get(how, how)}
        if name is not None:
            chosen["name"] = name
        if one_by_one and how != "none":
            chosen["disable_parallel_tool_use"] = True
        options["tool_choice"] = chosen
    return replace(plain, options=options)


def _tool(function: JSON) -> JSON:
    made = {key: function[key] for key in ("name", "description") if function.get(key)}
    made["input_schema"] = function.get("parameters") or {"type": "object"}
    if isinstance(function.get("strict"), bool):
        made["strict"] = function["strict"]
    return made


# --- Schemas ------------------------------------------------------------------------------------

_FORMATS = frozenset(
    {"date-time", "time", "date", "duration", "email", "hostname", "uri", "ipv4", "ipv6", "uuid"}
)
_DROPPED = frozenset({"$schema", "$id", "$comment"})
_KEPT = {
    "object": ("properties", "required"),
    "array": ("items", "minItems"),
    "string": ("format",),
}
"""What the API takes of a type's keywords, beside those of every type."""


def to_anthropic_schema(schema: JSON) -> JSON:
    """A JSON Schema as Anthropic's structured output takes it, by the rules of its own SDKs
    (anthropic 2.14, `transform_schema`): objects are closed, `oneOf` becomes `anyOf`, and what the
    API does not take moves into the description. The answer is checked against the schema as it
    was given."""
    left = {key: value for key, value in schema.items() if key not in _DROPPED}
    made: dict[str, Any] = {}
    for key in ("$defs", "definitions"):
        if isinstance(left.get(key), Mapping):
            made[key] = _nested("properties", left.pop(key))
    if "$ref" in left:
        return {**made, "$ref": left["$ref"]}
    made |= _of_any_type(left)
    kind = made.get("type")
    for each in kind if isinstance(kind, list | tuple) else (kind,):
        if each == "object":
            made["properties"] = {}
            left.pop("additionalProperties", None)
            made["additionalProperties"] = False
        for name in _KEPT.get(each, ()):
            value = left.pop(name, None)
            fits = value in (0, 1) if name == "minItems" else name != "format" or value in _FORMATS
            if value is not None:
                (made if fits else left)[name] = _nested(name, value)
    if left:
        limits = "{" + ", ".join(f"{key}: {value}" for key, value in left.items()) + "}"
        described = made.get("description")
        made["description"] = f"{described}\n\n{limits}" if described is not None else limits
    return made


def _of_any_type(left: dict[str, Any]) -> dict[str, Any]:
    """Type, or values, or choices instead of one, and the names; taken out of `left`."""
    kind = left.pop("type", "object" if "properties" in left else None)
    made: dict[str, Any] = {}
    if (values := left.get("enum")) and all(map(_is_plain, values)):
        made["enum"] = list(left.pop("enum"))
    if "const" in left and _is_plain(left["const"]):
        made["const"] = left.pop("const")
    choices = [(name, left.pop(name)) for name in ("anyOf", "oneOf", "allOf") if name in left]
    for name, choice in choices[:1]:
        made["allOf" if name == "allOf" else "anyOf"] = _subschema(choice)
    if not made and kind is not None:
        made["type"] = kind
    return made | {name: left.pop(name) for name in ("description", "title") if name in left}


def _is_plain(value: object) -> bool:
    return value is None or isinstance(value, str | int | float)


def _nested(name: str, value: Any) -> Any:
    if name == "properties":
        return {key: _subschema(each) for key, each in value.items()}
    return _subschema(value) if name == "items" else value


def _subschema(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_subschema(inner) for inner in value]
    return to_anthropic_schema(value) if isinstance(value, Mapping) else value


# --- Answers ------------------------------------------------------------------------------------

_FINISH: dict[str, Finish] = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "refusal": "content_filter",
}
"""The others (`pause_turn`, `compaction`) leave the turn to be continued: `other`."""


def _usage(found: Mapping[str, Any]) -> Usage | None:
    """`input_tokens` leaves the cache out there and includes it here; thinking is part of the
    output in both. Compactions stand beside the answer and are summed up with it
    (platform.claude.com, "Compaction"); what an adviser of another model used is not in it, so that
    the usage is an estimate then."""
    if not found:
        return None
    if rounds := replies.objects(found, "iterations"):
        own = [each for each in rounds if "advi" not in str(each.get("type"))]
        parts = filter(None, (_usage({**each, "iterations": None}) for each in own))
        used = sum(parts, Usage(searches=_searches(found), estimated=len(own) < len(rounds)))
        return replies.credible(used)
    read = replies.token_count(found.get("cache_read_input_tokens"))
    by_time = replies.object_or_empty(found.get("cache_creation"))
    written = replies.token_count(found.get("cache_creation_input_tokens"))
    written = written or sum(map(replies.token_count, by_time.values()))
    details = replies.object_or_empty(found.get("output_tokens_details"))
    usage = Usage(
        input=replies.token_count(found.get("input_tokens")) + read + written,
        output=replies.token_count(found.get("output_tokens")),
        cached_input=read,
        cache_write=written,
        cache_write_1h=min(written, replies.token_count(by_time.get("ephemeral_1h_input_tokens"))),
        reasoning=replies.token_count(details.get("thinking_tokens")),
        searches=_searches(found),
    )
    return replies.credible(usage)


def _searches(found: Mapping[str, Any]) -> int:
    tools = replies.object_or_empty(found.get("server_tool_use"))
    return replies.token_count(tools.get("web_search_requests"))


_REFUSED = "the model refused to answer"


def _refusal(found: Mapping[str, Any]) -> str | None:
    details = replies.object_or_empty(found.get("stop_details"))
    return replies.first_text(details, "explanation", "category")


class AnthropicReader(replies.BaseReader):
    """Reads one stream. Usage comes with `message_start` and `message_delta`, whose counts are
    totals, not differences; `message_stop` is the end mark."""

    def __init__(self) -> None:
        super().__init__()
        self._usage: dict[str, Any] = {}

    def bill(self, found: Mapping[str, Any]) -> replies.Bill:
        """All so far."""
        return self._usage_so_far(found), None

    def read(self, event: str, found: Mapping[str, Any]) -> StreamChunk:
        """One event; `ping` and events that are not known say nothing."""
        kind = found.get("type", event)
        if kind == "error" or event == "error":
            raise replies.error_from_event(found)
        if kind == "message_start":
            start = found["message"]
            model = replies.named(start, "model")
            return StreamChunk(model=model, usage=self._usage_so_far(start))
        if kind in ("content_block_start", "content_block_delta"):
            block = found.get("content_block") or found["delta"]
            at = str(found.get("index"))
            if block.get("type") == "tool_use":
                self.call(at, id=block.get("id"), name=block.get("name"))
            elif block.get("type") == "input_json_delta" and at in self.calls:
                self.call(at, arguments=block.get("partial_json"))
            elif block.get("type") == "citations_delta":
                self.citations += replies.kept([block.get("citation")])
            texts = block.get("type") in ("text", "text_delta")
            return StreamChunk(text=replies.required_text(block["text"]) if texts else "")
        if kind != "message_delta":
            return StreamChunk(done=kind == "message_stop")
        usage = self._usage_so_far(found)
        finish = replies.finish_of(found["delta"].get("stop_reason"), _FINISH)
        if finish == "content_filter" and not self._has_text:
            raise replies.content_filtered(_REFUSED, _refusal(found["delta"]), usage)
        reason = replies.first_text(found["delta"], "stop_reason")
        return StreamChunk(finish=finish, usage=usage, reason=reason)

    def _usage_so_far(self, found: Mapping[str, Any]) -> Usage | None:
        news = replies.object_or_empty(found.get("usage"))
        self._usage.update({key: value for key, value in news.items() if value is not None})
        return _usage(self._usage)
