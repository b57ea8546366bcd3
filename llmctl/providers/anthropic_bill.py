"""Anthropic's bill: usage and cost by model, service tier, key and workspace.

Reference: platform.claude.com/docs/en/api/beta/organization/analytics (a beta of 2026-08-24; every
group comes, page by page; organizations with HIPAA readiness are refused with 400). Amounts are
decimal texts in cents.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from datetime import date, timedelta
from typing import Any

from msgspec.structs import replace

from llmctl.providers import replies
from llmctl.providers.admin_pages import ANTHROPIC, Question, after_last
from llmctl.providers.bills import (
    BillApi,
    BillLine,
    KeyHint,
    amount,
    day_of,
    dollars_only,
    text_or_none,
    tokens,
    windows,
)
from llmctl.types import Usage

_HEADERS = {**ANTHROPIC, "anthropic-beta": "analytics-usage-cost-2026-08-24"}
_DAYS = 31  # that one question may span
_LONGEST_AGO = timedelta(days=364)
_GROUPS = ("model", "service_tier", "api_key_id", "workspace_id")
_BATCH = "batch"  # the service tier of what was in a batch


class AnthropicBill(BillApi):
    """See `BillApi`."""

    def known(self, first: date, last: date, today: date) -> tuple[date, date]:
        """The last 365 days."""
        return max(first, today - _LONGEST_AGO), min(last, today)

    def questions(
        self,
        first: date,
        last: date,
        keys: Collection[str],  # noqa: ARG002 - every line names its key
    ) -> Iterator[Question[BillLine]]:
        """Usage, then cost."""
        for name, read in (("usage", _usage), ("cost", _costs)):
            for start, end in windows(first, last, _DAYS):
                query = (
                    ("starting_at", f"{start:%Y-%m-%dT%H:%M:%SZ}"),
                    ("ending_at", f"{end:%Y-%m-%dT%H:%M:%SZ}"),
                    ("time_bucket_width", "1d"),
                    ("order_by", "time"),
                    ("limit", "1000"),
                    *(("group_by[]", group) for group in _GROUPS),
                )
                yield Question(f"/organizations/analytics/{name}", _each(read), query, _HEADERS)

    def keys(self, project: str | None) -> Question[KeyHint]:  # noqa: ARG002 - of all workspaces
        """The keys of the organization, those that are inactive by now, too."""
        query = (("limit", "1000"),)
        following = after_last("after_id")
        return Question("/organizations/api_keys", _hints, query, ANTHROPIC, following)


_Read = Callable[[BillLine, Mapping[str, Any]], BillLine]


def _each(read: _Read) -> Callable[[Mapping[str, Any]], list[BillLine]]:
    """Reads all rows of a page."""
    return lambda page: [read(_group(row), row) for row in replies.objects(page, "data")]


def _group(row: Mapping[str, Any]) -> BillLine:
    group = replies.object_or_empty(row.get("group"))
    return BillLine(
        day_of(row.get("starting_at"), "starting_at"),
        text_or_none(group.get("model")) or "",
        group.get("service_tier") == _BATCH,
        text_or_none(group.get("api_key_id")),
        text_or_none(group.get("workspace_id")),
    )


def _usage(line: BillLine, row: Mapping[str, Any]) -> BillLine:
    used = replies.object_or_empty(row.get("usage"))
    made = replies.object_or_empty(used.get("cache_creation"))
    hour = tokens(made, "ephemeral_1h_input_tokens")
    written = hour + tokens(made, "ephemeral_5m_input_tokens")
    read = tokens(used, "cache_read_input_tokens")
    whole = tokens(used, "uncached_input_tokens") + read + written
    usage = Usage(whole, tokens(used, "output_tokens"), read, written, cache_write_1h=hour)
    requests = None if used.get("requests") is None else tokens(used, "requests")
    return replace(line, usage=usage, requests=requests)


def _costs(line: BillLine, row: Mapping[str, Any]) -> BillLine:
    charged = replies.object_or_empty(row.get("cost"))
    dollars_only(charged.get("currency"))
    cost = amount(charged.get("amount"), "amount", places=2)
    listed = charged.get("list_amount")
    return replace(
        line,
        cost=cost,
        list_cost=None if listed is None else amount(listed, "list_amount", places=2),
    )


def _hints(page: Mapping[str, Any]) -> list[KeyHint]:
    rows = replies.objects(page, "data")
    return [KeyHint(str(row.get("id")), str(row.get("partial_key_hint") or "")) for row in rows]
