"""Keys and tokens in a text."""

from __future__ import annotations

import base64
import json
import random
import secrets

import pytest

from llmctl.privacy.findings import IDENTIFIERS
from llmctl.privacy.key_prefixes import has_crc32
from llmctl.privacy.recognisers import find
from llmctl.storage.virtual_keys import PREFIX
from tests.privacy.generator import github, token

DRAW = random.Random(11)


def values(text: str) -> list[str]:
    """What is found as a secret."""
    return [text[e.start : e.end] for e in find(text, IDENTIFIERS) if e.kind == "secret"]


def b64(value: object) -> str:
    """JSON in base64url."""
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")


HEX = "0123456789abcdef"
KEYS = {
    "OpenAI": f"sk-{token(DRAW, 20)}T3BlbkFJ{token(DRAW, 20)}",
    "OpenAI, of a project": f"sk-proj-{token(DRAW, 74)}_{token(DRAW, 20)}-{token(DRAW, 20)}",
    "OpenAI, of a service account": f"sk-svcacct-{token(DRAW, 60)}",
    "OpenAI, of an administrator": f"sk-admin-{token(DRAW, 60)}",
    "Anthropic": f"sk-ant-api03-{token(DRAW, 93)}AA",
    "OpenRouter": f"sk-or-v1-{token(DRAW, 64, HEX).lower()}",
    "Groq": f"gsk_{token(DRAW, 52)}",
    "Google": f"AIza{token(DRAW, 35)}",
    "xAI": f"xai-{token(DRAW, 80)}",
    "Hugging Face": "hf_" + "".join(DRAW.sample("abcdefghijklmnopqrstuvwxyzABCDEFGHIJ", 34)),
    "AWS": "AKIA" + "".join(DRAW.sample("ABCDEFGHIJKLMNOPQRSTUVWXYZ234567", 16)),
    "AWS, for a time": "ASIA" + "".join(DRAW.sample("ABCDEFGHIJKLMNOPQRSTUVWXYZ234567", 16)),
    "GitHub": github(DRAW),
    "GitHub, with a wrong checksum": f"gho_{token(DRAW, 36)}",
    "GitHub, fine-grained": f"github_pat_{token(DRAW, 22)}_{token(DRAW, 59)}",
    "GitLab": f"glpat-{token(DRAW, 20)}",
    "npm": f"npm_{token(DRAW, 36)}",
    "PyPI": f"pypi-AgEIcHlwaS5vcmc{token(DRAW, 60)}",
    "Slack": f"xoxb-12345678901-12345678901-{token(DRAW, 24)}",
    "Stripe": f"sk_live_{token(DRAW, 24)}",
    "Vault": f"hvs.{token(DRAW, 40)}",
    "JSON web token": f"{b64({'alg': 'HS256'})}.{b64({'sub': '1234567890'})}.{token(DRAW, 43)}",
    "llmctl serve": PREFIX + secrets.token_urlsafe(32),
}


@pytest.mark.parametrize("maker", KEYS)
def test_prefixes(maker: str) -> None:
    """A key is found whole in prose, in code and in JSON; glued to a word it is none."""
    key = KEYS[maker]
    for text in (f"I use {key}, ok?", f'{{"x": "{key}"}}', f"X={key}\n", f"({key})"):
        assert values(text) == [key]
    assert values(f"x{key[: len(key) // 2]}") == []


def test_secret_key_of_aws() -> None:
    """40 characters of base64 are one where the name beside them says so."""
    key = f"{token(DRAW, 20)}/{token(DRAW, 19)}"
    assert values(f"aws_secret_access_key = {key}") == [key]
    assert values(f'"SecretAccessKey": "/{key[1:]}"') == [f"/{key[1:]}"]
    assert values(f"my secret key is {key}.") == [key]
    assert values(f"digest {key}") == []


def test_keys_without_a_prefix() -> None:
    """Mistral's and Cohere's keys are found by the name beside them; a placeholder is none."""
    key = token(DRAW, 40)
    assert values(f"MISTRAL_API_KEY={key}") == [key]
    assert values(f"Cohere's api key is {key}") == [key]
    assert values(f'"api-key": "{key}"') == [key]
    assert values("api_key=your-own-secret-key-goes-here") == []
    assert values(f"see {key}") == []


def test_private_keys() -> None:
    """A PEM block is found whole, with real or escaped line breaks, and without its end."""
    lines = [token(DRAW, 64) for _ in range(20)]
    begin, end = "-----BEGIN RSA PRIVATE KEY-----", "-----END RSA PRIVATE KEY-----"
    for newline in ("\n", "\\n", "\r\n"):
        pem = newline.join([begin, *lines, end])
        assert values(f"key: {pem} (mine)") == [pem]
    cut = "\n".join([begin, *lines])
    assert values(cut) == [cut]
    assert values("-----BEGIN PUBLIC KEY-----\n" + "\n".join(lines)) == []


def test_checksum() -> None:
    """The checksum is GitHub's: with it a token is sure."""
    key = github(DRAW)
    other = key[:-1] + ("A" if key[-1] != "A" else "B")
    assert has_crc32(key)
    assert not has_crc32(other)
    assert [find(each, ["secret"])[0].score for each in (key, other)] == [1.0, 0.9]


def test_a_token_that_is_no_jwt() -> None:
    """Three pieces of base64 are a token where the first is a header."""
    assert values(f"eyJ{token(DRAW, 20)}.{token(DRAW, 20)}.{token(DRAW, 20)}") == []
