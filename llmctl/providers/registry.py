"""The built-in presets: adding a provider is one codec file and one entry here."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib import import_module
from typing import Any

from msgspec import Struct

from llmctl.protocols import Codec
from llmctl.providers.batch_api import BatchApi


class Preset(Struct, frozen=True):
    """A provider as it comes: its address, key variables and a default model.

    Of `key_env` the first variable that is set counts. `codecs` says by which class each of its
    interfaces is spoken, `module:Class` below this package; it is imported when it is used. So does
    `batches` of its batch interface ("": it has none). `shares` names the preset whose codecs it
    uses; `url_env` the variable by which the vendor's SDK is sent to another address, and what
    belongs behind that; `header_env` headers that its own address is sent when one of their
    variables is set.
    """

    name: str
    base_url: str
    model: str
    key_env: tuple[str, ...]
    codecs: Mapping[str, str]
    shares: str | None = None
    url_env: tuple[str, str] = ("", "")
    header_env: Mapping[str, tuple[str, ...]] = {}
    batches: str = ""

    @property
    def adapter(self) -> str:
        """The name of its wire format."""
        return self.shares or self.name


LOCAL = "local"
"""The preset served by the embedded model; its address is known only once it runs."""

_OPENAI = {"chat": "openai_chat:OpenAIChat", "responses": "openai_responses:OpenAIResponses"}

_LISTED = (
    Preset(
        "openai",
        "https://api.openai.com/v1",
        "gpt-5-mini",
        ("OPENAI_API_KEY",),
        _OPENAI,
        url_env=("OPENAI_BASE_URL", ""),
        header_env={
            "openai-organization": ("OPENAI_ORG_ID",),
            "openai-project": ("OPENAI_PROJECT_ID", "OPENAI_PROJECT"),
        },
        batches="openai_batches:OpenAIBatches",
    ),
    Preset(
        "anthropic",
        "https://api.anthropic.com/v1",
        "claude-sonnet-5-5",
        ("ANTHROPIC_API_KEY",),
        {"chat": "anthropic:Anthropic"},
        url_env=("ANTHROPIC_BASE_URL", "/v1"),
        batches="anthropic_batches:AnthropicBatches",
    ),
    Preset(
        "gemini",
        "https://generativelanguage.googleapis.com/v1beta",
        "gemini-3.8-flash",
        ("GEMINI_API_KEY", "GOOGLE_API_KEY"),
        {"chat": "gemini:Gemini"},
        url_env=("GOOGLE_GEMINI_BASE_URL", "/v1beta"),
        batches="gemini_batches:GeminiBatches",
    ),
    Preset(
        "cohere",
        "https://api.cohere.com/v2",
        "command-a-03-2025",
        ("COHERE_API_KEY", "CO_API_KEY"),
        {"chat": "cohere:Cohere"},
        url_env=("CO_API_URL", "/v2"),
    ),
    Preset(
        "mistral",
        "https://api.mistral.ai/v1",
        "mistral-small-latest",
        ("MISTRAL_API_KEY",),
        {"chat": "mistral:Mistral"},
        batches="mistral_batches:MistralBatches",
    ),
    Preset(
        "openrouter",
        "https://openrouter.ai/api/v1",
        "openai/gpt-5-mini",
        ("OPENROUTER_API_KEY",),
        {"chat": "openrouter:OpenRouter"},
        batches="openrouter_batches:OpenRouterBatches",
    ),
    Preset(
        "groq",
        "https://api.groq.com/openai/v1",
        "openai/gpt-oss-120b",
        ("GROQ_API_KEY",),
        {"chat": "groq:Groq"},
        url_env=("GROQ_BASE_URL", "/openai/v1"),
        batches="openai_batches:OpenAIBatches",
    ),
    Preset(LOCAL, "http://127.0.0.1/v1", "smollm2-135m", (), {}, shares="openai"),
)
PRESETS = {preset.name: preset for preset in _LISTED}


@cache
def codec(adapter: str, api: str = "chat") -> Codec:
    """The codec of a wire format; imported only when it is used. Raises `KeyError`."""
    made: Codec = _made(PRESETS[adapter].codecs[api])
    return made


_SPEAK_OPENAI = frozenset({"openai", "mistral", "openrouter", "groq"})


def speaks(adapter: str, api: str, path: str) -> bool:
    """Whether a provider takes the bodies of this path (`/chat/completions`, `/responses`,
    `/embeddings`, `/messages`) as they are, and answers in their language."""
    if path == "/messages":
        return adapter == "anthropic"
    return adapter in _SPEAK_OPENAI and (path != "/responses" or api == "responses")


@cache
def batch_api(adapter: str) -> BatchApi | None:
    """The batch interface of a wire format, imported only when it is used; None without one.
    Raises `KeyError`."""
    name = PRESETS[adapter].batches
    made: BatchApi | None = _made(name) if name else None
    return made


def _made(place: str) -> Any:
    module, _, name = place.partition(":")
    return getattr(import_module(f"llmctl.providers.{module}"), name)()
