"""Messages in Gemini's shape; pure.

Reference: ai.google.dev/api/caching#Content, ai.google.dev/gemini-api/docs/function-calling,
…/docs/thought-signatures, …/docs/image-understanding, …/docs/document-processing, …/docs/audio.
"""

from __future__ import annotations

from typing import Any

import orjson
from msgspec.structs import replace

from llmctl.providers.parts import Media, Native, Part, parts, refuse, text_only
from llmctl.providers.translate import from_chat
from llmctl.providers.turns import ToolCall, call_id, forced, functions, tool_calls, turns
from llmctl.types import JSON, Message, Request

_TAKEN = ("image/", "audio/", "video/", "text/")
_ALSO_TAKEN = frozenset({"application/pdf", "application/json"})

_OPTIONS = {
    "top_p": "topP",
    "stop": "stopSequences",
    "seed": "seed",
    "frequency_penalty": "frequencyPenalty",
    "presence_penalty": "presencePenalty",
    "logprobs": "responseLogprobs",
    "top_logprobs": "logprobs",
    "tools": "tools",
    "tool_choice": "tool_choice",
}
"""OpenAI's names → ours; the values of the last two are translated below."""

_MODES = {"auto": "AUTO", "none": "NONE", "required": "ANY", "named": "ANY"}

_UNSIGNED = "skip_thought_signature_validator"
"""In place of the signature of a call that another model made, or an older client recorded:
Gemini 3 and later refuse calls without one (ai.google.dev/gemini-api/docs/thought-signatures,
"FAQs")."""

_WITHOUT_SIGNATURES = ("gemini-1", "gemini-2", "models/gemini-1", "models/gemini-2")


def conversation(request: Request) -> dict[str, Any]:
    """`contents`, and `systemInstruction` where there is one: all instructions, wherever they
    stood, each a part. Results of tools that follow each other are one turn, as the API
    demands."""
    system: list[JSON] = []
    contents: list[dict[str, Any]] = []
    names: dict[str, str] = {}
    results = False
    for turn in turns(request):
        if turn.role == "system":
            system += [_part(part, request) for part in parts(turn, request)]
            continue
        if turn.role == "tool":
            part = _result(turn, names, request)
            if results:
                contents[-1]["parts"].append(part)
            else:
                contents.append({"role": "user", "parts": [part]})
        else:
            contents.append(_turn(turn, names, request))
        results = turn.role == "tool"
    found: dict[str, Any] = {"contents": contents}
    if system:
        # The role means nothing, but Google's own SDK sends it.
        found["systemInstruction"] = {"parts": system, "role": "user"}
    return found


def _turn(turn: Message, names: dict[str, str], request: Request) -> dict[str, Any]:
    made = [_part(part, request) for part in parts(turn, request)]
    if turn.role != "assistant":
        return {"role": "user", "parts": made or [{"text": ""}]}
    calls = tool_calls(turn, request)
    for index, call in enumerate(calls):
        names[call.id] = call.name
        made.append(_call(call, request, first=index == 0))
    return {"role": "model", "parts": made or [{"text": ""}]}


def _call(call: ToolCall, request: Request, *, first: bool) -> JSON:
    made: dict[str, Any] = {"name": call.name, "args": call.arguments}
    if call.id:
        made["id"] = call.id
    part: dict[str, Any] = {"functionCall": made}
    if call.signature:
        part["thoughtSignature"] = call.signature
    elif first and not request.target.model.startswith(_WITHOUT_SIGNATURES):
        part["thoughtSignature"] = _UNSIGNED
    return part


def _result(turn: Message, names: dict[str, str], request: Request) -> JSON:
    answered = call_id(turn)
    name = turn.extra.get("name") or names.get(answered)
    if not name:
        raise refuse("a tool's result without the call it belongs to", request)
    said = text_only(turn, request, "a tool's result")
    try:
        output = orjson.loads(said)
    except orjson.JSONDecodeError:
        output = said
    made: dict[str, Any] = {"name": str(name)}
    if answered:
        made["id"] = answered
    # The result has to be an object; `output` is the name the API gives to anything else.
    made["response"] = output if isinstance(output, dict) else {"output": said}
    return {"functionResponse": made}


def _part(part: Part, request: Request) -> JSON:
    if isinstance(part, Native):
        if "type" in part.part:
            raise refuse(f"parts of the type `{part.kind}`", request)
        return part.part  # Gemini's own parts have no type: `inlineData`, `fileData`…
    if isinstance(part, Media):
        return _media(part, request)
    return {"text": part.text}


def _media(part: Media, request: Request) -> JSON:
    mime = part.mime
    if mime is not None and not mime.startswith(_TAKEN) and mime not in _ALSO_TAKEN:
        raise refuse(f"attachments of the type {mime}", request)
    if part.data is not None:
        if mime is None:
            raise refuse("attachments of an unknown type", request, "give a data URL")
        return {"inlineData": {"mimeType": mime, "data": part.data}}
    located = {"fileUri": part.url or part.file_id}
    return {"fileData": {**located, "mimeType": mime} if mime else located}


def from_openai(request: Request) -> Request:
    """The request of an OpenAI-shaped body, its tools and the rest in Gemini's shape."""
    plain = from_chat(request, _OPTIONS)
    options = dict(plain.options)
    tools, choice = options.pop("tools", None), options.pop("tool_choice", None)
    if tools:
        options["tools"] = [
            {"functionDeclarations": [_tool(found) for found in functions(tools, request)]}
        ]
    if choice is not None:
        how, name = forced(choice, request)
        config: dict[str, Any] = {"mode": _MODES[how]}
        if name:
            config["allowedFunctionNames"] = [name]
        options["toolConfig"] = {"functionCallingConfig": config}
    return replace(plain, options=options)


def _tool(found: JSON) -> JSON:
    made: dict[str, Any] = {"name": found["name"]}
    if found.get("description"):
        made["description"] = found["description"]
    if found.get("parameters"):
        made["parametersJsonSchema"] = found["parameters"]
    return made
