"""Budgets that machines share by a coordinator, as `llmctl cost` reads and corrects them."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import TYPE_CHECKING

from msgspec.structs import replace

from llmctl.storage.ledger_rows import to_pico

if TYPE_CHECKING:
    from llmctl.cli.context import Context
    from llmctl.config.settings import RedisSettings, Settings
    from llmctl.reports.report import BudgetCheck
    from llmctl.storage.ledger import Ledger
    from llmctl.storage.ledger_queries import UnknownCall


def checked(
    settings: Settings, context: Context, checks: Sequence[BudgetCheck]
) -> Sequence[BudgetCheck]:
    """The same, with what all machines have used of those budgets that they share. Raises as
    `open_coordinator`."""
    place = settings.coordinator
    return checks if place is None else asyncio.run(_checked(place, context, checks))


async def _checked(
    place: RedisSettings, context: Context, checks: Sequence[BudgetCheck]
) -> list[BudgetCheck]:
    from llmctl.coordination.redis import open_coordinator

    found = []
    async with open_coordinator(place, context.environ, "", "") as coordinator:
        for one in checks:
            window = one.state.window
            usage = None if window is None else await coordinator.usage_if_begun(window)
            found.append(replace(one, state=replace(one.state, everywhere=usage)))
    return found


def release(
    settings: Settings,
    context: Context,
    ledger: Ledger,
    billed: Decimal | Mapping[str, Decimal],
    *,
    ids: Sequence[str] = (),
    run_id: str | None = None,
) -> list[UnknownCall]:
    """As `Ledger.release`, also in the budgets that machines share. Raises as that and as
    `open_coordinator`, and nothing has changed."""
    place = settings.coordinator
    if place is None:
        return ledger.release(billed, ids=ids, run_id=run_id)
    return asyncio.run(_release(place, context, ledger, billed, ids, run_id))


async def _release(
    place: RedisSettings,
    context: Context,
    ledger: Ledger,
    billed: Decimal | Mapping[str, Decimal],
    ids: Sequence[str],
    run_id: str | None,
) -> list[UnknownCall]:
    from llmctl.coordination.redis import open_coordinator

    async with open_coordinator(place, context.environ, "", "") as coordinator:
        released = ledger.release(billed, ids=ids, run_id=run_id)
        rows = {row.call_id: row for row in ledger.calls_of([one.call_id for one in released])}
        for one in released:
            row = rows[one.call_id]
            amount = billed if isinstance(billed, Decimal) else billed[one.call_id]
            doubt = (one.pico or 0) - (to_pico(amount) or 0)
            await coordinator.correct(row, max(0, row.spent_pico + doubt))
    return released
