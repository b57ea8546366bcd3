"""OpenAI's bill: usage by model, batch, key and project, and costs by line item.

Reference: developers.openai.com/api/reference, Admin → Usage. Costs come by whole days alone, and
do not say what was in batches, but where a line item's name does.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from datetime import date
from typing import Any
from urllib.parse import quote

from llmctl.providers import replies
from llmctl.providers.admin_pages import Question, after_last
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

_USAGE_DAYS, _COST_DAYS = 31, 180  # buckets of a day that one page may have
_COUNTED = ("completions", "embeddings")  # by the interfaces that llmctl calls


class OpenAIBill(BillApi):
    """See `BillApi`."""

    def questions(
        self,
        first: date,
        last: date,
        keys: Collection[str],  # noqa: ARG002 - every line names its key
    ) -> Iterator[Question[BillLine]]:
        """Usage of each kind, then costs."""
        for kind in _COUNTED:
            groups = ("project_id", "api_key_id", "model", *(["batch"] * (kind == _COUNTED[0])))
            for start, end in windows(first, last, _USAGE_DAYS):
                query = _query(start.timestamp(), end.timestamp(), _USAGE_DAYS, groups)
                yield Question(f"/organization/usage/{kind}", _usage, query)
        for start, end in windows(first, last, _COST_DAYS):
            groups = ("project_id", "api_key_id", "line_item")
            query = _query(start.timestamp(), end.timestamp(), _COST_DAYS, groups)
            yield Question("/organization/costs", _costs, query)

    def keys(self, project: str | None) -> Question[KeyHint] | None:
        """The keys of the project, whoever owns them."""
        if project is None:
            return None
        path = f"/organization/projects/{quote(project, safe='')}/api_keys"
        query = (("limit", "100"), ("owner_project_access", "any"))
        return Question(path, _hints, query, following=after_last("after"))


def _query(
    start: float, end: float, buckets: int, groups: tuple[str, ...]
) -> tuple[tuple[str, str], ...]:
    return (
        ("start_time", str(int(start))),
        ("end_time", str(int(end))),
        ("bucket_width", "1d"),
        ("limit", str(buckets)),
        *(("group_by[]", group) for group in groups),
    )


def _rows(page: Mapping[str, Any]) -> Iterator[tuple[date, Mapping[str, Any]]]:
    """The results of all buckets of a page, with their day."""
    for bucket in replies.objects(page, "data"):
        day = day_of(bucket.get("start_time"), "start_time")
        for row in replies.objects(bucket, "results"):
            yield day, row


def _usage(page: Mapping[str, Any]) -> list[BillLine]:
    return [
        BillLine(
            day,
            text_or_none(row.get("model")) or "",
            row["batch"] if isinstance(row.get("batch"), bool) else None,
            text_or_none(row.get("api_key_id")),
            text_or_none(row.get("project_id")),
            Usage(
                tokens(row, "input_tokens"),
                tokens(row, "output_tokens"),
                tokens(row, "input_cached_tokens"),
                tokens(row, "input_cache_write_tokens"),
            ),
            tokens(row, "num_model_requests"),
        )
        for day, row in _rows(page)
    ]


def _costs(page: Mapping[str, Any]) -> list[BillLine]:
    found = []
    for day, row in _rows(page):
        charged = replies.object_or_empty(row.get("amount"))
        dollars_only(charged.get("currency"))
        model, batch = model_of(text_or_none(row.get("line_item")) or "")
        key, project = text_or_none(row.get("api_key_id")), text_or_none(row.get("project_id"))
        cost = amount(charged.get("value"), "amount")
        found.append(BillLine(day, model, batch, key, project, cost=cost))
    return found


def model_of(line_item: str) -> tuple[str, bool | None]:
    """The model of a line item such as `gpt-6-astra, input_tokens`, and whether it is of batches;
    an item without a comma is no model's, and stands for itself."""
    model, _, kind = line_item.partition(", ")
    return model.strip(), True if "batch" in kind.lower() else None


def _hints(page: Mapping[str, Any]) -> list[KeyHint]:
    rows = replies.objects(page, "data")
    return [KeyHint(str(row.get("id")), str(row.get("redacted_value") or "")) for row in rows]
