"""Amounts in words, as every report shows them: dollars, shares, counts; pure."""

from __future__ import annotations

from decimal import Decimal

_MICRO = Decimal("0.000001")


def money(amount: Decimal | None, unknown: int = 0, *, exact: bool = False) -> str:
    """US dollars: `$0.00021`, `$12.50`, `$?` when unknown, `$3.10+?` with `unknown` calls more.
    Nothing and `unknown` calls more is unknown: it is never called $0.

    Two significant digits, at least cents; with `exact` all digits up to the microdollar.
    """
    if amount is None or (unknown and not amount):
        return "$?"
    if exact:
        amount = amount.quantize(_MICRO).normalize()
        digits = max(2, -int(amount.as_tuple().exponent))
    else:
        digits = max(2, 1 - amount.adjusted())
    shown = f"${amount:,.{digits}f}" if amount or exact else "$0"
    return shown + ("+?" if unknown else "")


def percent(share: float | None) -> str:
    """`1.2%`; a dash for none."""
    return "-" if share is None else f"{share:.1%}"


def plural(count: int, noun: str) -> str:
    """`1 call`, `1,200 calls`."""
    return f"{count:,} {noun}{'s' * (count != 1)}"
