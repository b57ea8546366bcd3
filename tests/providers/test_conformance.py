"""Every codec keeps the one contract: the same cases under the same names."""

from __future__ import annotations

from llmctl.providers.registry import PRESETS
from tests.conformance import codec_dialects as dialects
from tests.conformance.codec import CodecContract


def test_every_codec_is_tested() -> None:
    """Whatever a preset speaks stands below."""
    spoken = {(preset.name, api) for preset in PRESETS.values() for api in preset.codecs}
    assert {(dialect.name, dialect.api) for dialect in dialects.DIALECTS} == spoken


class TestOpenAIChat(CodecContract):
    """OpenAI's chat completions."""

    dialect = dialects.OPENAI_CHAT


class TestOpenAIResponses(CodecContract):
    """OpenAI's Responses."""

    dialect = dialects.OPENAI_RESPONSES


class TestAnthropic(CodecContract):
    """Anthropic's Messages."""

    dialect = dialects.ANTHROPIC


class TestGemini(CodecContract):
    """Google's Gemini."""

    dialect = dialects.GEMINI


class TestCohere(CodecContract):
    """Cohere's chat."""

    dialect = dialects.COHERE


class TestMistral(CodecContract):
    """Mistral's chat completions."""

    dialect = dialects.MISTRAL


class TestOpenRouter(CodecContract):
    """OpenRouter's chat completions."""

    dialect = dialects.OPENROUTER


class TestGroq(CodecContract):
    """Groq's chat completions."""

    dialect = dialects.GROQ
