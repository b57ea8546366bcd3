"""OpenRouter's bill: its activity of the last 30 completed UTC days, by model and endpoint.

Reference: openrouter.ai/docs/api/api-reference/analytics, with a management key. Amounts are
credits, which are US dollars; what the upstream bills for one's own keys there is not in them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from datetime import date, timedelta
from typing import Any

from llmctl.providers import replies
from llmctl.providers.admin_pages import Question, by_offset
from llmctl.providers.bills import (
    BillApi,
    BillLine,
    KeyHint,
    amount,
    day_of,
    text_or_none,
    tokens,
)
from llmctl.types import Usage

_DAYS = 30


class OpenRouterBill(BillApi):
    """See `BillApi`."""

    def known(self, first: date, last: date, today: date) -> tuple[date, date]:
        """The last 30 days that have ended."""
        return max(first, today - timedelta(days=_DAYS)), min(last, today - timedelta(days=1))

    def questions(
        self, first: date, last: date, keys: Collection[str]
    ) -> Iterator[Question[BillLine]]:
        """All days at once, of each of the keys."""
        for key in (*keys,) or (None,):
            query = (("api_key_hash", key),) if key else ()

            def read(page: Mapping[str, Any], key: str | None = key) -> list[BillLine]:
                lines = [_line(row, key) for row in replies.objects(page, "data")]
                return [line for line in lines if first <= line.day <= last]

            yield Question("/activity", read, query)

    def keys(self, project: str | None) -> Question[KeyHint]:  # noqa: ARG002 - it has none
        """The keys of the account."""
        query = (("include_disabled", "true"),)
        return Question("/keys", _hints, query, following=by_offset)


def _line(row: Mapping[str, Any], key: str | None) -> BillLine:
    # Completions include reasoning, as OpenRouter's answers have it.
    usage = Usage(tokens(row, "prompt_tokens"), tokens(row, "completion_tokens"))
    return BillLine(
        day_of(row.get("date"), "date"),
        text_or_none(row.get("model_permaslug")) or text_or_none(row.get("model")) or "",
        None,
        key,
        None,
        usage,
        tokens(row, "requests"),
        amount(row.get("usage"), "usage"),
    )


def _hints(page: Mapping[str, Any]) -> list[KeyHint]:
    rows = replies.objects(page, "data")
    return [KeyHint(str(row.get("hash")), str(row.get("label") or "")) for row in rows]
