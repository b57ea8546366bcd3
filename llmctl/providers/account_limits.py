"""An account's own rate limits, as its provider's administration lists them; pure.

References: developers.openai.com/api/reference, Admin → Project rate limits;
platform.claude.com/docs/en/api/admin/rate_limits.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from msgspec import Struct

from llmctl.config.settings import ModelLimits
from llmctl.providers import replies
from llmctl.providers.admin_pages import ANTHROPIC, Question, after_last

_TOKENS = ("input_tokens_per_minute_cache_aware", "input_tokens_per_minute", "tokens_per_minute")
"""Anthropic's limiters of tokens, the one that counts first. Output has a limit of its own."""
_OUTPUT = "output_tokens_per_minute"


class AccountLimit(Struct, frozen=True):
    """What all calls of some `models` may use together; `output` tokens a minute, where they have a
    limit of their own."""

    models: tuple[str, ...]
    limits: ModelLimits
    output: int | None = None


def account_limits(provider: str, project: str | None) -> Question[AccountLimit] | None:
    """The list of limits: of OpenAI's project, or of Anthropic's organization; None for another
    provider, and for OpenAI where the project is not known."""
    if provider == "anthropic":
        query = (("group_type", "model_group"),)
        return Question("/organizations/rate_limits", _anthropic, query, ANTHROPIC)
    if provider == "openai" and project is not None:
        path = f"/organization/projects/{quote(project, safe='')}/rate_limits"
        return Question(path, _openai, (("limit", "100"),), following=after_last("after"))
    return None


def _positive(value: object) -> int | None:
    """A limit; None where none is said, or nothing may be used."""
    return value if type(value) is int and 0 < value <= 1_000_000_000 else None


def _openai(page: Mapping[str, Any]) -> list[AccountLimit]:
    return [
        AccountLimit(
            (str(row.get("model")),),
            ModelLimits(
                _positive(row.get("max_requests_per_1_minute")),
                _positive(row.get("max_tokens_per_1_minute")),
                _positive(row.get("max_requests_per_1_day")),
            ),
        )
        for row in replies.objects(page, "data")
    ]


def _anthropic(page: Mapping[str, Any]) -> list[AccountLimit]:
    found = []
    for row in replies.objects(page, "data"):
        said = {one.get("type"): one.get("value") for one in replies.objects(row, "limits")}
        models = row.get("models")
        names = tuple(map(str, models)) if isinstance(models, list) else ()
        read = next((said[name] for name in _TOKENS if name in said), None)
        limits = ModelLimits(_positive(said.get("requests_per_minute")), _positive(read))
        found.append(AccountLimit(names, limits, _positive(said.get(_OUTPUT))))
    return found
