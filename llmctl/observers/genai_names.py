"""Names of OpenTelemetry's GenAI conventions, and of what they have no name for (`llmctl.…`).

Reference: github.com/open-telemetry/semantic-conventions-genai (docs/gen-ai/gen-ai-spans.md and
gen-ai-metrics.md, October 2026). All of it is *development* there: a name may change, and then it
changes here and with it `SCHEMA_URL`, which is the `schema_url` of that repository's
model/manifest.yaml.
"""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct

SCHEMA_URL = "https://opentelemetry.io/schemas/gen-ai-dev/1.42.0-dev"

# Attributes of spans; those of metrics are among them.
OPERATION = "gen_ai.operation.name"
PROVIDER = "gen_ai.provider.name"
REQUEST_MODEL = "gen_ai.request.model"
RESPONSE_MODEL = "gen_ai.response.model"
SERVER_ADDRESS = "server.address"
SERVER_PORT = "server.port"
ERROR_TYPE = "error.type"
HTTP_STATUS = "http.response.status_code"
TOKEN_TYPE = "gen_ai.token.type"  # noqa: S105 - `input` or `output`
OVERFLOW = "otel.metric.overflow"

MAX_TOKENS = "gen_ai.request.max_tokens"
TEMPERATURE = "gen_ai.request.temperature"
CHOICES = "gen_ai.request.choice.count"
STREAM = "gen_ai.request.stream"
STOP_SEQUENCES = "gen_ai.request.stop_sequences"
OUTPUT_TYPE = "gen_ai.output.type"
FINISH_REASONS = "gen_ai.response.finish_reasons"
FIRST_CHUNK = "gen_ai.response.time_to_first_chunk"

INPUT_TOKENS = "gen_ai.usage.input_tokens"
OUTPUT_TOKENS = "gen_ai.usage.output_tokens"
CACHE_READ = "gen_ai.usage.cache_read.input_tokens"
CACHE_CREATION = "gen_ai.usage.cache_creation.input_tokens"
REASONING = "gen_ai.usage.reasoning.output_tokens"

INPUT_MESSAGES = "gen_ai.input.messages"
OUTPUT_MESSAGES = "gen_ai.output.messages"

PROFILE = "llmctl.profile"
CALL = "llmctl.call.id"
CACHE = "llmctl.cache"
COST = "llmctl.cost.usd"
SAVED = "llmctl.saved.usd"
RETRIES = "llmctl.retries"
ESTIMATED = "llmctl.usage.estimated"
IN_BATCH = "llmctl.provider_batch"
TAG = "llmctl.tag."

# Of what sends: the resource.
SERVICE_NAME = "service.name"
SERVICE_VERSION = "service.version"
SERVICE_INSTANCE = "service.instance.id"

PARAMETERS: Mapping[str, tuple[str, type]] = {
    "max_tokens": (MAX_TOKENS, int),
    "max_completion_tokens": (MAX_TOKENS, int),
    "max_output_tokens": (MAX_TOKENS, int),
    "temperature": (TEMPERATURE, float),
    "top_p": ("gen_ai.request.top_p", float),
    "p": ("gen_ai.request.top_p", float),
    "top_k": ("gen_ai.request.top_k", int),
    "k": ("gen_ai.request.top_k", int),
    "seed": ("gen_ai.request.seed", int),
    "random_seed": ("gen_ai.request.seed", int),
    "frequency_penalty": ("gen_ai.request.frequency_penalty", float),
    "presence_penalty": ("gen_ai.request.presence_penalty", float),
}
"""Parameters of requests that have a name there, and the type of its values."""

_PROVIDERS = {
    "gemini": "gcp.gemini",
    "vertex": "gcp.vertex_ai",
    "vertex-claude": "gcp.vertex_ai",
    "bedrock": "aws.bedrock",
    "mistral": "mistral_ai",
}
"""Presets that are called otherwise there."""

_HOSTS = {
    "openai.azure.com": "azure.ai.openai",
    "cognitiveservices.azure.com": "azure.ai.openai",
    "services.ai.azure.com": "azure.ai.inference",
    "x.ai": "x_ai",
    "deepseek.com": "deepseek",
    "perplexity.ai": "perplexity",
    "moonshot.ai": "moonshot_ai",
}
"""Who stands behind an address where OpenAI's language is spoken, by the end of its host."""


def provider_name(provider: str, host: str) -> str:
    """The conventions' name of a preset at a host; the preset's own where they have none."""
    if provider != "openai":
        return _PROVIDERS.get(provider, provider)
    found = (name for end, name in _HOSTS.items() if host == end or host.endswith(f".{end}"))
    return next(found, provider)


def operation_name(adapter: str, path: str) -> str:
    """The conventions' name of what is asked; `path` is that of a body passed through, else ""."""
    if path.endswith("/embeddings"):
        return "embeddings"
    if path.endswith("/completions") and not path.endswith("/chat/completions"):
        return "text_completion"
    return "generate_content" if adapter in {"gemini", "vertex"} else "chat"


class Instrument(Struct, frozen=True, eq=False):
    """A metric: a histogram with these upper `bounds`, or, without bounds, a sum. Equal to itself
    alone: it is looked up for every measurement."""

    name: str
    unit: str
    description: str
    bounds: tuple[float, ...] = ()


_SECONDS = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
_FIRST_TOKEN = (
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
)  # fmt: skip

TOKEN_USAGE = Instrument(
    "gen_ai.client.token.usage",
    "{token}",
    "Number of input and output tokens used.",
    tuple(4.0**power for power in range(14)),
)
CLIENT_DURATION = Instrument(
    "gen_ai.client.operation.duration", "s", "GenAI operation duration.", _SECONDS
)
CLIENT_FIRST_CHUNK = Instrument(
    "gen_ai.client.operation.time_to_first_chunk", "s", "Time to receive the first chunk.", _SECONDS
)
SERVER_DURATION = Instrument(
    "gen_ai.server.request.duration",
    "s",
    "Generative AI server request duration such as time-to-last byte or last output token.",
    _SECONDS,
)
SERVER_FIRST_TOKEN = Instrument(
    "gen_ai.server.time_to_first_token",
    "s",
    "Time to generate first token for successful responses.",
    _FIRST_TOKEN,
)
SPENT = Instrument(COST, "{USD}", "US dollars that calls cost, as far as prices are known.")
