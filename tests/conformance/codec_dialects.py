"""The providers' dialects: what is each one's own about its codec."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from llmctl.types import Finish

PNG = base64.b64encode(b"\x89PNG\r\n\x1a\n" + bytes(16)).decode()
PDF = base64.b64encode(b"%PDF-1.4\n%%EOF\n").decode()
WAV = base64.b64encode(b"RIFF\x24\0\0\0WAVEfmt " + bytes(16)).decode()
PARTS: Mapping[str, tuple[Mapping[str, Any], tuple[str, str]]] = {
    "image": (
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}},
        ("image/png", PNG),
    ),
    "pdf": (
        {
            "type": "file",
            "file": {"filename": "a.pdf", "file_data": f"data:application/pdf;base64,{PDF}"},
        },
        ("application/pdf", PDF),
    ),
    "audio": (
        {"type": "input_audio", "input_audio": {"data": WAV, "format": "wav"}},
        ("audio/wav", WAV),
    ),
    "image by address": (
        {"type": "image_url", "image_url": {"url": "https://example.org/a.png"}},
        ("url", "https://example.org/a.png"),
    ),
}
"""Attachments as the program holds them, and what the provider must receive."""


@dataclass(frozen=True, kw_only=True)
class Dialect:
    """What is the provider's own about its codec.

    `name` is the provider's, at the simulator and in a target; `key_header` carries the key.
    `words` are its finish reasons and ours, `fails` those that are errors, with their row type;
    `refuses` is False where it has no way to refuse. `told` are the token counts it reports
    besides input and output; `takes` the attachments, by the names of `PARTS`; `option` a
    parameter of its own and where in the body it arrives. `limits` are the fields of
    `RateHeaders` that its headers fill. `end_mark`: a stream has one beside the reason to finish.
    `frames`: its streams are Amazon's frames, not server-sent events.
    """

    name: str
    key_header: str = "authorization"
    api: str = "chat"
    words: Mapping[str, Finish]
    fails: Mapping[str, str] = field(default_factory=dict)
    refuses: bool = True
    told: frozenset[str] = frozenset({"cached", "reasoning"})
    takes: frozenset[str] = frozenset(PARTS)
    option: tuple[str, Any] = ("top_p", 0.25)
    option_at: tuple[str, ...] = ("top_p",)
    counts: bool = False
    end_mark: bool = False
    frames: bool = False
    limits: frozenset[str] = frozenset()


_OPENAI: dict[str, Finish] = {
    "stop": "stop",
    "length": "length",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
    "content_filter": "content_filter",
    "unheard_of": "other",
}
_ALL_LIMITS = frozenset(
    {"remaining_requests", "remaining_tokens", "reset_requests", "reset_tokens"}
)

OPENAI_CHAT = Dialect(
    name="openai",
    end_mark=True,
    words=_OPENAI,
    told=frozenset({"cached", "written", "reasoning"}),
    counts=True,
    limits=_ALL_LIMITS,
)

OPENAI_RESPONSES = Dialect(
    name="openai",
    api="responses",
    words={"max_output_tokens": "length", "content_filter": "content_filter"},
    told=frozenset({"cached", "written", "reasoning"}),
    takes=frozenset(PARTS) - {"audio"},
    counts=True,
    limits=_ALL_LIMITS,
)

ANTHROPIC = Dialect(
    name="anthropic",
    end_mark=True,
    key_header="x-api-key",
    words={
        "end_turn": "stop",
        "stop_sequence": "stop",
        "max_tokens": "length",
        "model_context_window_exceeded": "length",
        "tool_use": "tool_calls",
        "refusal": "content_filter",
        "pause_turn": "other",
        "unheard_of": "other",
    },
    told=frozenset({"cached", "written", "reasoning"}),
    takes=frozenset(PARTS) - {"audio"},
    counts=True,
    limits=_ALL_LIMITS,
)

GEMINI = Dialect(
    name="gemini",
    key_header="x-goog-api-key",
    words={
        "STOP": "stop",
        "MAX_TOKENS": "length",
        "SAFETY": "content_filter",
        "RECITATION": "content_filter",
        "BLOCKLIST": "content_filter",
        "PROHIBITED_CONTENT": "content_filter",
        "SPII": "content_filter",
        "MALFORMED_FUNCTION_CALL": "other",
        "UNHEARD_OF": "other",
    },
    option=("topP", 0.25),
    option_at=("generationConfig", "topP"),
    counts=True,
)

COHERE = Dialect(
    name="cohere",
    words={
        "COMPLETE": "stop",
        "STOP_SEQUENCE": "stop",
        "MAX_TOKENS": "length",
        "TOOL_CALL": "tool_calls",
        "UNHEARD_OF": "other",
    },
    fails={"ERROR": "server", "TIMEOUT": "server"},
    refuses=False,
    told=frozenset({"cached"}),
    takes=frozenset({"image", "image by address"}),
    option=("p", 0.25),
    option_at=("p",),
    counts=True,
)

MISTRAL = Dialect(
    name="mistral",
    end_mark=True,
    words={
        "stop": "stop",
        "length": "length",
        "model_length": "length",
        "tool_calls": "tool_calls",
        "unheard_of": "other",
    },
    fails={"error": "server"},
    refuses=False,
    told=frozenset({"cached"}),
    limits=frozenset({"remaining_requests", "remaining_tokens"}),
)

OPENROUTER = Dialect(
    name="openrouter",
    end_mark=True,
    words=_OPENAI,
    fails={"error": "server"},
    told=frozenset({"cached", "written", "reasoning"}),
)

GROQ = Dialect(
    name="groq",
    end_mark=True,
    words={
        "stop": "stop",
        "length": "length",
        "tool_calls": "tool_calls",
        "function_call": "tool_calls",
        "unheard_of": "other",
    },
    refuses=False,
    takes=frozenset({"image", "image by address"}),
    limits=_ALL_LIMITS,
)

BEDROCK = Dialect(
    name="bedrock",
    words={
        "end_turn": "stop",
        "stop_sequence": "stop",
        "max_tokens": "length",
        "model_context_window_exceeded": "length",
        "tool_use": "tool_calls",
        "guardrail_intervened": "content_filter",
        "content_filtered": "content_filter",
        "malformed_model_output": "other",
        "malformed_tool_use": "other",
        "unheard_of": "other",
    },
    told=frozenset({"cached", "written"}),
    takes=frozenset(PARTS) - {"image by address"},
    option=("topP", 0.25),
    option_at=("inferenceConfig", "topP"),
    counts=True,
    frames=True,
)

VERTEX = replace(GEMINI, name="vertex", key_header="authorization")

VERTEX_CLAUDE = replace(
    ANTHROPIC, name="vertex-claude", key_header="authorization", limits=frozenset()
)

DIALECTS = (
    OPENAI_CHAT,
    OPENAI_RESPONSES,
    ANTHROPIC,
    GEMINI,
    COHERE,
    MISTRAL,
    OPENROUTER,
    GROQ,
    VERTEX,
    VERTEX_CLAUDE,
    BEDROCK,
)
