"""Keys and tokens in a text, by the prefixes their makers gave them, or by the name beside them."""

from __future__ import annotations

import base64
import binascii
import re
import zlib
from collections.abc import Callable, Iterator

import orjson
from msgspec import Struct

from llmctl.privacy.findings import Finding

_BASE62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_FEWEST = 8  # different characters of a key; `sk-xxxxxxxxxxxxxxxxxxxx` is none


def is_random(key: str) -> bool:
    """Whether it may have been drawn by lot: letters and digits, of enough kinds."""
    return (
        len(set(key)) >= _FEWEST
        and any(letter.isdigit() for letter in key)
        and any(letter.isalpha() for letter in key)
    )


def has_crc32(token: str) -> bool:
    """Whether a token ends with the CRC-32, in base62, of what stands between it and the prefix.

    GitHub's scheme (github.blog/2021-04-05-behind-githubs-new-authentication-token-formats), and
    npm's.
    """
    body = token.rpartition("_")[2]
    number, checksum = zlib.crc32(body[:-6].encode()), ""
    while number:
        number, digit = divmod(number, 62)
        checksum = _BASE62[digit] + checksum
    return body[-6:] == checksum.rjust(6, "0")


def is_jwt(token: str) -> bool:
    """Whether the header is a JSON object that names an algorithm (RFC 7515)."""
    head = token.partition(".")[0]
    try:
        header = orjson.loads(base64.urlsafe_b64decode(head + "=" * (-len(head) % 4)))
    except (binascii.Error, orjson.JSONDecodeError):
        return False
    return isinstance(header, dict) and "alg" in header


class KeyForm(Struct, frozen=True):
    """How the keys of one maker look.

    Attributes:
        marks: one of them is in every such key; looked for first, because that is quick.
        pattern: the key, or its first group is.
        check: whether what fits the pattern can be a key.
        checksum: whether it surely is one. One that fails may be a key all the same.

    """

    name: str
    marks: tuple[str, ...]
    pattern: re.Pattern[str]
    check: Callable[[str], bool] = is_random
    checksum: Callable[[str], bool] | None = None


def _form(
    name: str,
    mark: str,
    rest: str,
    check: Callable[[str], bool] = is_random,
    checksum: Callable[[str], bool] | None = None,
) -> KeyForm:
    pattern = re.compile(rf"{re.escape(mark)}(?<![A-Za-z0-9]{re.escape(mark)}){rest}")
    return KeyForm(name, (mark,), pattern, check, checksum)


_ALNUM = "[A-Za-z0-9]"
_URL64 = "[A-Za-z0-9_-]"

# Whose a key is, and who says how it looks. Lengths are least ones: makers lengthen their keys.
FORMS: tuple[KeyForm, ...] = (
    # OpenAI (platform.openai.com/docs/api-reference/authentication): sk-, sk-proj-, sk-svcacct-,
    # sk-admin-; Anthropic (docs.claude.com/en/api/overview): sk-ant-api03-, sk-ant-admin01-;
    # OpenRouter (openrouter.ai/docs/api-reference/authentication): sk-or-v1- and 64 of hex;
    # DeepSeek (api-docs.deepseek.com): sk- and 32 of hex.
    _form("OpenAI, Anthropic, OpenRouter or DeepSeek", "sk-", rf"{_URL64}{{20,300}}"),
    _form("Groq", "gsk_", rf"{_ALNUM}{{32,80}}"),  # console.groq.com/docs/quickstart
    _form("xAI", "xai-", rf"{_ALNUM}{{60,100}}"),  # docs.x.ai/docs/overview
    # cloud.google.com/docs/authentication/api-keys: 39 characters
    _form("Google", "AIza", rf"{_URL64}{{35}}"),
    _form("Google OAuth", "ya29.", rf"{_URL64}{{30,2000}}"),  # cloud.google.com/docs/authentication
    # huggingface.co/docs/hub/security-tokens
    _form("Hugging Face", "hf_", r"[A-Za-z0-9]{30,40}", lambda key: len(set(key)) >= _FEWEST),
    _form("Perplexity", "pplx-", rf"{_ALNUM}{{40,64}}"),  # docs.perplexity.ai
    _form("NVIDIA", "nvapi-", rf"{_URL64}{{60,80}}"),  # docs.nvidia.com/nim
    # docs.aws.amazon.com/IAM/latest/UserGuide/reference_identifiers.html, "unique ID prefixes"
    *(
        _form("AWS access key", mark, r"[A-Z2-7]{16}(?![A-Za-z0-9])", lambda key: len(set(key)) > 7)
        for mark in ("AKIA", "ASIA")
    ),
    # github.blog/2021-04-05-behind-githubs-new-authentication-token-formats
    *(
        _form("GitHub", mark, rf"{_ALNUM}{{36,255}}", checksum=has_crc32)
        for mark in ("ghp_", "gho_", "ghu_", "ghs_", "ghr_")
    ),
    _form("GitHub", "github_pat_", r"[A-Za-z0-9]{22}_[A-Za-z0-9]{59}"),
    _form("GitLab", "glpat-", r"[\w.-]{20,320}"),  # docs.gitlab.com/security/tokens
    # github.blog/changelog/2021-09-23-npm-has-a-new-access-token-format
    _form("npm", "npm_", rf"{_ALNUM}{{36}}", checksum=has_crc32),
    _form("PyPI", "pypi-", r"AgE[A-Za-z0-9_-]{50,500}"),  # pypi.org/help/#apitoken: a macaroon
    # docs.slack.dev/authentication/tokens
    KeyForm(
        "Slack",
        ("xox", "xapp-"),
        re.compile(r"(?:xox[abeoprs]|xapp)(?<![A-Za-z0-9]xox.)-[A-Za-z0-9-]{20,300}"),
    ),
    # docs.stripe.com/keys, docs.stripe.com/webhooks
    KeyForm(
        "Stripe",
        ("_live_", "_test_"),
        re.compile(r"[sr]k_(?:live|test)_(?<![A-Za-z0-9]...live_)[A-Za-z0-9]{16,250}"),
    ),
    _form("Stripe webhook", "whsec_", r"[A-Za-z0-9+/]{24,64}"),
    # developer.hashicorp.com/vault/docs/concepts/tokens
    _form("Vault", "hvs.", rf"{_URL64}{{24,300}}"),
    _form("Doppler", "dp.", r"(?:st|pt|ct|sa|scim|audit)\.[\w.-]{40,90}"),  # docs.doppler.com
    _form("1Password", "ops_", rf"eyJ{_URL64}{{100,2000}}"),  # developer.1password.com
    _form("llmctl serve", "lk-", rf"{_URL64}{{43}}(?!{_URL64})"),  # storage/virtual_keys.py
    KeyForm(  # RFC 7519
        "JSON web token",
        ("eyJ",),
        re.compile(
            rf"(?<!{_URL64})eyJ{_URL64}{{8,4000}}\.{_URL64}{{8,16000}}\.{_URL64}{{16,4000}}"
        ),
        is_jwt,
    ),
    KeyForm(  # RFC 7468, with the headers of RFC 1421; the end may be missing
        "private key",
        ("PRIVATE KEY-----",),
        re.compile(
            r"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY-----"
            r"(?:[A-Za-z0-9+/=\s\\:,]|-(?!--)){16,16000}"
            r"(?:-----END [A-Z0-9 ]{0,40}PRIVATE KEY-----)?"
        ),
        lambda _: True,
    ),
    # The password of an address (RFC 3986, 3.2.1), such as a database's.
    KeyForm(
        "password in an address",
        ("://",),
        re.compile(r"://[^\s:@/\"'<>]{0,64}:([^\s:@/\"'<>$\[{(*]{3,128})@"),
        lambda word: len(set(word)) > 1,
    ),
    # Keys of Mistral, Cohere and Azure, and AWS's secret ones, have no prefix: the name beside
    # them says so.
    KeyForm(
        "named key",
        ("key", "KEY", "Key", "oken", "OKEN", "ecret", "ECRET", "earer"),
        re.compile(
            r"(?i:(?:api|access|auth|account|secret|signing|encryption)[_ -]?key|"
            r"(?:access|auth|api|bot|refresh|session)[_ -]?token|secret|bearer)"
            r"(?:[\"']?[ \t]{0,4}(?:[:=]|=>|\bis\b)[ \t]{0,4}[\"']?|[ \t])"
            r"([A-Za-z0-9+/][A-Za-z0-9_+/~.-]{17,250}[A-Za-z0-9_+/-]={0,2})"
        ),
        lambda key: is_random(key) and len(set(key)) > 11,
    ),
)


def find_keys(text: str) -> Iterator[Finding]:
    """The keys in a text."""
    for form in FORMS:
        for mark in form.marks:  # no generator: nearly all of the time of a text without keys
            if mark in text:
                break
        else:
            continue
        for match in form.pattern.finditer(text):
            key = match[match.lastindex or 0]
            if form.check(key):
                sure = form.checksum is not None and form.checksum(key)
                start, end = match.span(match.lastindex or 0)
                yield Finding("secret", start, end, 1.0 if sure else 0.9)
