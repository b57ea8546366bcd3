"""What providers say of the data they are sent: where it is processed, kept, and used. Pure.

Read on the vendors' own pages; `NOT_STATED` is what was not found there, never a guess. A profile
that leads elsewhere than to the provider's own address is another company's, or the user's own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from llmctl.providers.registry import LOCAL, PRESETS
from llmctl.types import JSON, Request, origin_of

NOT_STATED = "not stated"


class DataStatement(Struct, frozen=True):
    """A provider's words, shortened.

    Attributes:
        region: where prompts are processed.
        retention: how long prompts and answers are kept.
        training: whether models are trained on them.
        agreement: what it signs for health data.
        switch: the part of a call that forbids storing.
        suffices: with the switch sent nothing is kept, whatever was agreed.
        urls, date: the pages, and the day on which their text was read.

    """

    region: str = NOT_STATED
    retention: str = NOT_STATED
    training: str = NOT_STATED
    agreement: str = NOT_STATED
    switch: str = "none"
    suffices: bool = False
    urls: tuple[str, ...] = ()
    date: str = "2026-11-29"


_GOOGLE_CLOUD = (
    "https://docs.cloud.google.com/gemini-enterprise-agent-platform/resources/zero-data-retention"
)

STATEMENTS: Mapping[str, DataStatement] = {
    "openai": DataStatement(
        retention="up to 30 days (abuse); zero if approved",
        training="no",
        agreement="BAA on request",
        switch="store: false",
        urls=(
            "https://developers.openai.com/api/docs/guides/your-data",
            "https://help.openai.com/en/articles/8660679",
        ),
    ),
    "anthropic": DataStatement(
        region="any (inference_geo: us)",
        retention="30 days; zero by agreement",
        training="no",
        agreement="BAA on request",
        urls=(
            "https://platform.claude.com/docs/en/manage-claude/api-and-data-retention",
            "https://platform.claude.com/docs/en/manage-claude/data-residency",
            "https://privacy.claude.com/en/articles/7996866",
        ),
    ),
    "gemini": DataStatement(
        retention="a limited time (abuse); zero if approved",
        training="no, when paid",
        switch="store: false",
        urls=("https://ai.google.dev/gemini-api/docs/zdr",),
    ),
    "cohere": DataStatement(
        retention="30 days",
        training="unless opted out",
        urls=("https://cohere.com/data-usage-policy",),
    ),
    "mistral": DataStatement(
        region="any (api.eu. and api.us.mistral.ai)",
        retention="zero on request",
        urls=(
            "https://docs.mistral.ai/admin/monitor-comply/zero-data-retention",
            "https://docs.mistral.ai/studio/regional-inference",
        ),
    ),
    "openrouter": DataStatement(
        region="any (eu. and us.openrouter.ai)",
        retention="as the provider behind it",
        training="as the provider behind it",
        switch="provider: {zdr: true}",
        suffices=True,
        urls=(
            "https://openrouter.ai/docs/guides/privacy/zdr",
            "https://openrouter.ai/docs/guides/features/in-region-routing",
        ),
    ),
    "groq": DataStatement(
        retention="30 days of faults and abuse; zero if set so",
        agreement="BAA",
        urls=(
            "https://console.groq.com/docs/your-data",
            "https://console.groq.com/docs/legal/customer-business-associate-addendum",
        ),
    ),
    "vertex": DataStatement(
        region="the profile's",
        retention="cache, and logs for abuse; zero if set so",
        training="no",
        urls=(_GOOGLE_CLOUD,),
    ),
    "vertex-claude": DataStatement(
        region="the profile's",
        retention="cache; zero if set so",
        training="no",
        urls=(_GOOGLE_CLOUD,),
    ),
    "bedrock": DataStatement(
        region="the profile's, or the model's area",
        retention="by model; zero if set so",
        urls=(
            "https://docs.aws.amazon.com/bedrock/latest/userguide/data-retention.html",
            "https://docs.aws.amazon.com/bedrock/latest/userguide/inference-profiles-support.html",
        ),
    ),
    LOCAL: DataStatement(
        region="this machine",
        retention="none",
        training="no",
        agreement="none needed",
        date="",
        suffices=True,
    ),
}


def statement(provider: str, base_url: str) -> DataStatement | None:
    """What the provider says of its own address; None for any other."""
    home = PRESETS[provider].base_url
    if home and provider != LOCAL and origin_of(base_url) != origin_of(home):
        return None
    return STATEMENTS.get(provider)


def storage_is_off(provider: str, base_url: str) -> bool:
    """Whether the provider keeps nothing of a call that `without_storage` has changed, by its own
    words alone."""
    found = statement(provider, base_url)
    return found is not None and found.suffices


def _without_store(body: JSON) -> JSON:
    return {**body, "store": False}


def _without_retaining_providers(body: JSON) -> JSON:
    wishes = body.get("provider")
    return {**body, "provider": {**(wishes if isinstance(wishes, Mapping) else {}), "zdr": True}}


_SWITCHES: Mapping[str, tuple[Callable[[JSON], JSON], tuple[str, ...]]] = {
    "openai": (_without_store, ("/chat/completions", "/responses")),
    "gemini": (_without_store, ()),
    "openrouter": (_without_retaining_providers, ("/chat/completions", "/responses")),
}
"""How a body says that nothing is to be stored, and which paths know that word."""


def without_storage(request: Request) -> Request:
    """The request with its provider's switch against storing, over what the question says of it;
    the same where there is none."""
    change, paths = _SWITCHES.get(request.target.provider, (None, ()))
    if change is None:
        return request
    options: Any = change(request.options)
    raw = request.raw
    if raw is not None and raw.path in paths:
        raw = replace(raw, body=change(raw.body))
    return replace(request, options=options, raw=raw)
