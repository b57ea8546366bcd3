"""What reports add up, once: as the columns of the ledger's slots, the triggers that keep them,
and the same sums over calls."""

from __future__ import annotations

from collections.abc import Sequence

from llmctl.storage.migrations import Migration

SLOT = 60 * 60 * 1000
"""Milliseconds of a slot. A day is made of whole slots in most time zones; where it is not, the
calls at its edges are added up one by one."""

KIND = ("profile", "provider", "model", "user", "tags")
"""What tells the calls of one slot apart."""

_KEPT = "{r}cache IN ('hit', 'shared')"
_UNKNOWN = "{r}status = 'unknown'"
# A kept answer used no tokens this time; of a call that ended nobody knows how, only the worst
# case is known.
_USED = f"({{r}}cache IS NULL OR NOT {_KEPT}) AND NOT {_UNKNOWN}"

SUMS: dict[str, str] = {
    "calls": "1",
    "errors": "{r}status IN ('error', 'interrupted', 'unknown')",
    "kept": f"coalesce({_KEPT}, 0)",
    **{
        name: f"iif({_USED}, {{r}}{name}, 0)"
        for name in (
            "input_tokens",
            "output_tokens",
            "cached_tokens",
            "cache_write_tokens",
            "reasoning_tokens",
        )
    },
    "cost_pico": f"iif({_UNKNOWN}, 0, coalesce({{r}}cost_pico, 0))",
    "unpriced": f"({{r}}cost_pico IS NULL AND NOT {_UNKNOWN})",
    "saved_pico": "coalesce({r}saved_pico, 0)",
    "unsaved": f"(coalesce({_KEPT}, 0) AND {{r}}saved_pico IS NULL)",
    "doubtful": f"{{r}}uncertain + ({_UNKNOWN})",
    "doubtful_pico": f"coalesce({{r}}uncertain_pico, 0)"
    f" + iif({_UNKNOWN}, coalesce({{r}}cost_pico, 0), 0)",
    "doubtful_unpriced": "({r}uncertain > 0 AND {r}uncertain_pico IS NULL)"
    f" + ({_UNKNOWN} AND {{r}}cost_pico IS NULL)",
}
"""A column of a slot → what a call adds to it; `{r}` is where the call's columns are.

`kept` counts answers out of the cache or of an identical call, `unpriced` calls at an unknown
price, `unsaved` kept answers whose worth is unknown; `doubtful` attempts that may have been
billed although nobody saw the bill, and what they cost at the most."""

ANSWERED = "status = 'ok' AND cache IN ('miss', 'bypass')"
"""The calls whose latency says something of the provider."""

_COUNTS = frozenset({"calls", "errors", "kept", "unpriced", "unsaved"})
"""The sums that count calls which have something in common."""

_MICRO = 1_000_000


def totals(source: str = "") -> list[str]:
    """SQL that adds up all sums over many rows: of `calls` by their expressions, of slots by
    their columns (`source` "slots").

    Money comes in two columns, whole microdollars and the rest: picodollars of one slot fit
    64 bits, those of a month need not.
    """
    columns: list[str] = []
    for name, expression in SUMS.items():
        value = name if source == "slots" else expression.format(r="")
        if name.endswith("_pico"):
            columns += [f"sum(({value}) / {_MICRO})", f"sum(({value}) % {_MICRO})"]
        else:
            columns.append(f"sum({value})")
    return columns


def from_totals(row: tuple[int, ...]) -> list[int]:
    """The sums, in their order, out of the columns of `totals`."""
    values = iter(row)
    return [
        next(values) * _MICRO + next(values) if name.endswith("_pico") else next(values)
        for name in SUMS
    ]


def _upsert(row: str, sums: Sequence[str]) -> str:
    added = ", ".join(f"{name} = {name} + excluded.{name}" for name in SUMS)
    kind = ", ".join(f"{row}{name}" for name in KIND)
    # To the letter as it stands in the ledgers that there are.
    return (
        f"\n        INSERT INTO slots SELECT {row}started_ms / {SLOT}, {kind}, {', '.join(sums)} \n"
        f"        ON CONFLICT DO UPDATE SET {added};\n    "
    )


def on_slots(row: str) -> str:
    """SQL that adds a call to its slot; `row` is where its columns are."""
    return _upsert(row, [expression.format(r=row) for expression in SUMS.values()])


ADD_ALIKE = _upsert(
    ":",
    [
        f"({sql.format(r=':')}) * :number" if name in _COUNTS else sql.format(r=":")
        for name, sql in SUMS.items()
    ],
)
"""SQL that adds `:number` calls to their slot, which differ in their amounts at the most: each of
those (`:cost_pico`) is their sum, all else as it is in every one of them. None is uncertain."""


def _take_away() -> str:
    less = ", ".join(f"{name} = {name} - ({sql.format(r='OLD.')})" for name, sql in SUMS.items())
    same = " AND ".join(f"{name} = OLD.{name}" for name in KIND)
    return f"UPDATE slots SET {less} WHERE slot = OLD.started_ms / {SLOT} AND {same};"  # noqa: S608


def slots_migration() -> Migration:
    """The step that adds the slots, filled from the calls there are, and the index for
    latencies."""
    columns = ", ".join(f"{name} TEXT NOT NULL" for name in KIND)
    sums = ", ".join(f"{name} INTEGER NOT NULL" for name in SUMS)
    key = ", ".join(KIND)
    filled = ", ".join(f"sum({expression.format(r='')})" for expression in SUMS.values())
    return Migration(
        "ledger-002-slots",
        (
            # Sums of an hour: a report over a million calls reads some ten thousand rows.
            # Triggers keep them: whoever writes a call, however, they agree with it.
            f"""
            CREATE TABLE slots (
                slot INTEGER NOT NULL, {columns}, {sums}, PRIMARY KEY (slot, {key})
            ) WITHOUT ROWID
            """,
            f"""
            INSERT INTO slots SELECT started_ms / {SLOT}, {key}, {filled} FROM calls
            GROUP BY 1, {key}
            """,  # noqa: S608
            f"CREATE TRIGGER calls_add_up AFTER INSERT ON calls BEGIN {on_slots('NEW.')} END",
            f"""
            CREATE TRIGGER calls_become_known AFTER UPDATE ON calls
            BEGIN {_take_away()} {on_slots("NEW.")} END
            """,
            # Percentiles need every latency: this has them side by side, and all that decides
            # about them, so that the table is not touched.
            """
            CREATE INDEX calls_latency ON calls (
                profile, provider, model, user, started_ms, latency_ms, status, cache, tags
            )
            """,
        ),
    )
