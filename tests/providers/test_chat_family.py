"""What is Mistral's, OpenRouter's and Groq's own about chat completions."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from llmctl.errors import (
    BadResponse,
    ServerFailed,
)
from llmctl.protocols import Codec
from llmctl.providers.groq import Groq
from llmctl.providers.mistral import Mistral
from llmctl.providers.openrouter import OpenRouter
from llmctl.types import JSON, Message
from tests.providers.recordings import asked

MISTRAL: Codec = Mistral()
GROQ: Codec = Groq()
OPENROUTER: Codec = OpenRouter()
PDF = {"type": "file", "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,A"}}
PDF_URL = {"type": "file", "file": {"filename": "a.pdf", "file_url": "https://h/a.pdf"}}
AUDIO = {"type": "input_audio", "input_audio": {"data": "AA", "format": "flac"}}


def part(codec: Codec, provider: str, given: JSON) -> Any:
    """What the part becomes in the provider's request."""
    request = asked(provider, "m", messages=(Message("user", (given,)),))
    return (codec.encode(request, stream=False).body or {})["messages"][0]["content"][0]


def test_mistrals_parts() -> None:
    """Files are documents, along or by address; audio is its base64."""
    assert part(MISTRAL, "mistral", PDF) == {
        "type": "document_url",
        "document_url": "data:application/pdf;base64,A",
        "document_name": "a.pdf",
    }
    assert part(MISTRAL, "mistral", PDF_URL)["document_url"] == "https://h/a.pdf"
    assert part(MISTRAL, "mistral", AUDIO) == {"type": "input_audio", "input_audio": "AA"}
    own = {"type": "document_url", "document_url": "https://h/a.pdf"}
    assert part(MISTRAL, "mistral", own) == own


def test_openrouters_parts() -> None:
    """A file's address stands where its data would."""
    assert part(OPENROUTER, "openrouter", PDF) == PDF
    assert part(OPENROUTER, "openrouter", PDF_URL)["file"] == {
        "filename": "a.pdf",
        "file_data": "https://h/a.pdf",
    }


def test_only_who_must_be_asked_is_asked_for_usage() -> None:
    """Mistral refuses unknown fields; OpenRouter tells its usage unasked."""
    for codec, wanted in ((MISTRAL, False), (OPENROUTER, False), (GROQ, True)):
        made = codec.encode(asked("x", "m"), stream=True).body or {}
        assert ("stream_options" in made) is wanted
        assert made["stream"] is True


def test_openrouters_key_check_asks_for_the_key() -> None:
    """The list of models is public there and says nothing of a key."""
    assert (OPENROUTER.probe().method, OPENROUTER.probe().path) == ("GET", "/key")
    OPENROUTER.decode_probe(b'{"data":{"label":"x"}}')
    with pytest.raises(BadResponse):
        OPENROUTER.decode_probe(b"{}")


def test_groqs_own_corner() -> None:
    """Usage and errors may come under `x_groq`."""
    chunk = {"choices": [], "x_groq": {"usage": {"prompt_tokens": 4, "completion_tokens": 1}}}
    usage = GROQ.reader().piece("message", orjson.dumps(chunk).decode()).usage
    assert usage is not None
    assert usage.input == 4
    with pytest.raises(ServerFailed, match="out of luck"):
        GROQ.reader().piece("message", '{"x_groq":{"error":"out of luck"}}')
