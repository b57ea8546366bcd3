"""The built-in presets: adding a provider is one codec file and one entry here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache, partial
from importlib import import_module
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from llmctl.protocols import Codec
from llmctl.providers.batch_api import BatchApi
from llmctl.providers.key_api import KeyApi

if TYPE_CHECKING:
    from llmctl.providers.bills import BillApi


class Preset(Struct, frozen=True):
    """A provider as it comes: its address, key variables and a default model.

    Of `key_env` the first variable that is set counts. `codecs` says by which class each of its
    interfaces is spoken, `module:Class` below this package; it is imported when it is used. So does
    `batches` of its batch interface ("": it has none). `shares` names the preset whose codecs it
    uses; `url_env` the variable by which the vendor's SDK is sent to another address, and what
    belongs behind that; `header_env` headers that its own address is sent when one of their
    variables is set. `key_api` makes and revokes keys, and `bill` asks what was charged, for the
    key of the variables `admin_env`.

    A provider in a `cloud` (the name of an `auth`) has an address for each region and project:
    `address` makes it of the two, where it is no profile by itself; `place_env` are the variables
    of both.
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
    key_api: str = ""
    admin_env: tuple[str, ...] = ()
    bill: str = ""
    cloud: str = ""
    address: Callable[[str, str], str] | None = None
    place_env: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())

    @property
    def adapter(self) -> str:
        """The name of its wire format."""
        return self.shares or self.name


LOCAL = "local"
"""The preset served by the embedded model; its address is known only once it runs."""

_OPENAI = {"chat": "openai_chat:OpenAIChat", "responses": "openai_responses:OpenAIResponses"}

_GOOGLE_PLACE = (("GOOGLE_CLOUD_LOCATION",), ("GOOGLE_CLOUD_PROJECT",))
_AWS_PLACE = (("AWS_REGION", "AWS_DEFAULT_REGION"), ())


def _vertex(publisher: str, region: str, project: str) -> str:
    """The address of a publisher's models on Vertex AI; `us` and `eu` are multi-regions
    (docs.cloud.google.com/vertex-ai/generative-ai/docs/learn/locations)."""
    hosts = {
        "global": "aiplatform.googleapis.com",
        "us": "aiplatform.us.rep.googleapis.com",
        "eu": "aiplatform.eu.rep.googleapis.com",
    }
    host = hosts.get(region, f"{region}-aiplatform.googleapis.com")
    return f"https://{host}/v1/projects/{project}/locations/{region}/publishers/{publisher}"


def _bedrock(region: str, _: str) -> str:
    """docs.aws.amazon.com/general/latest/gr/bedrock.html; China has a domain of its own."""
    domain = "amazonaws.com.cn" if region.startswith("cn-") else "amazonaws.com"
    return f"https://bedrock-runtime.{region}.{domain}"


_LISTED = (
    Preset(
        "openai",
        "https://api.openai.com/v1",
        "gpt-6.1-terra",
        ("OPENAI_API_KEY",),
        _OPENAI,
        url_env=("OPENAI_BASE_URL", ""),
        header_env={
            "openai-organization": ("OPENAI_ORG_ID",),
            "openai-project": ("OPENAI_PROJECT_ID", "OPENAI_PROJECT"),
        },
        batches="openai_batches:OpenAIBatches",
        key_api="key_admin:OpenAIKeys",
        admin_env=("OPENAI_ADMIN_KEY",),
        bill="openai_bill:OpenAIBill",
    ),
    Preset(
        "anthropic",
        "https://api.anthropic.com/v1",
        "claude-sonnet-5-5",
        ("ANTHROPIC_API_KEY",),
        {"chat": "anthropic:Anthropic"},
        url_env=("ANTHROPIC_BASE_URL", "/v1"),
        batches="anthropic_batches:AnthropicBatches",
        key_api="key_admin:AnthropicKeys",
        admin_env=("ANTHROPIC_ADMIN_KEY", "ANTHROPIC_ADMIN_API_KEY"),
        bill="anthropic_bill:AnthropicBill",
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
        "openai/gpt-6.1-terra",
        ("OPENROUTER_API_KEY",),
        {"chat": "openrouter:OpenRouter"},
        batches="openrouter_batches:OpenRouterBatches",
        key_api="key_admin:OpenRouterKeys",
        admin_env=("OPENROUTER_MANAGEMENT_KEY", "OPENROUTER_PROVISIONING_KEY"),
        bill="openrouter_bill:OpenRouterBill",
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
    Preset(
        "vertex",
        "",
        "gemini-3.8-flash",
        (),
        {"chat": "vertex:VertexGemini"},
        cloud="gcp",
        address=partial(_vertex, "google"),
        place_env=_GOOGLE_PLACE,
    ),
    Preset(
        "vertex-claude",
        "",
        "claude-sonnet-5-5",
        (),
        {"chat": "vertex:VertexClaude"},
        cloud="gcp",
        address=partial(_vertex, "anthropic"),
        place_env=_GOOGLE_PLACE,
    ),
    Preset(
        "bedrock",
        "",
        "global.anthropic.claude-sonnet-5-5",
        ("AWS_BEARER_TOKEN_BEDROCK",),
        {"chat": "bedrock:Bedrock"},
        cloud="aws",
        address=_bedrock,
        place_env=_AWS_PLACE,
    ),
)
PRESETS = {preset.name: preset for preset in _LISTED}
BUILT_IN = tuple(preset.name for preset in _LISTED if preset.address is None)
"""The presets that are profiles by themselves."""


@cache
def codec(adapter: str, api: str = "chat") -> Codec:
    """The codec of a wire format; imported only when it is used. Raises `KeyError`."""
    made: Codec = _made(PRESETS[adapter].codecs[api])
    return made


_SPEAK_OPENAI = frozenset({"openai", "mistral", "openrouter", "groq"})
_SPEAK_ANTHROPIC = frozenset({"anthropic", "vertex-claude"})


def speaks(adapter: str, api: str, path: str) -> bool:
    """Whether a provider takes the bodies of this path (`/chat/completions`, `/responses`,
    `/embeddings`, `/messages`) as they are, and answers in their language."""
    if path == "/messages":
        return adapter in _SPEAK_ANTHROPIC
    return adapter in _SPEAK_OPENAI and (path != "/responses" or api == "responses")


@cache
def batch_api(adapter: str) -> BatchApi | None:
    """The batch interface of a wire format, imported only when it is used; None without one.
    Raises `KeyError`."""
    name = PRESETS[adapter].batches
    made: BatchApi | None = _made(name) if name else None
    return made


def key_api(provider: str) -> type[KeyApi] | None:
    """The class of a preset's `KeyApi`, imported only when it is used; None without one."""
    name = PRESETS[provider].key_api
    found: type[KeyApi] | None = _class(name) if name else None
    return found


def bill_api(provider: str) -> BillApi | None:
    """How a preset's bill is asked for, imported only when it is used; None without one."""
    name = PRESETS[provider].bill
    made: BillApi | None = _made(name) if name else None
    return made


def _made(place: str) -> Any:
    return _class(place)()


def _class(place: str) -> Any:
    module, _, name = place.partition(":")
    return getattr(import_module(f"llmctl.providers.{module}"), name)
