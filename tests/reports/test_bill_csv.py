"""A bill in a CSV file: the usual exports, columns by name, and files that are none."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date
from decimal import Decimal
from pathlib import Path

import pytest

from llmctl.errors import InputError
from llmctl.providers.bills import BillLine
from llmctl.reports.bill_csv import read_bill
from llmctl.types import Usage

DAY = date(2026, 11, 20)
Write = Callable[[str | bytes], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes the file."""

    def put(text: str | bytes) -> Path:
        path = tmp_path / "bill.csv"
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return path

    return put


EXPORTS = {
    "openai": (
        (
            "start_time,end_time,start_time_iso,end_time_iso,amount_value,amount_currency,line_item,"
            "project_id\n"
            '1795132800,1795219200,2026-11-20T00:00:00+00:00,,0.25,usd,"gpt-5-mini, input",p\n'
            '1795132800,1795219200,2026-11-20T00:00:00+00:00,,0.5,usd,"gpt-5-mini, output",p\n'
            "1795219200,1795305600,2026-11-21T00:00:00+00:00,,,,,\n"
        ),
        BillLine(DAY, "gpt-5-mini", cost=Decimal("0.75")),
    ),
    "anthropic": (
        (
            "usage_date_utc,model,workspace,api_key,usage_type,context_window,token_type,cost_usd\n"
            "2026-11-20,claude-x,w,k,batch,0-200k,output_tokens,1.25\n"
        ),
        BillLine(DAY, "claude-x", batch=True, cost=Decimal("1.25")),
    ),
    "openrouter": (
        (
            "generation_id,created_at,cost_total,tokens_prompt,tokens_completion,model_permaslug\n"
            "gen-1,2026-11-20 23:59:59.5,0.001,10,5,openai/gpt-5-mini\n"
            "gen-2,2026-11-20 00:00:00,0.002,20,6,openai/gpt-5-mini\n"
        ),
        BillLine(DAY, "openai/gpt-5-mini", usage=Usage(30, 11), cost=Decimal("0.003")),
    ),
}


@pytest.mark.parametrize("name", EXPORTS)
def test_exports_of_the_providers_pages(write: Write, name: str) -> None:
    """Are read by the names of their columns, and added up by day, model and batch; OpenAI's days
    without use are none."""
    text, wanted = EXPORTS[name]
    assert read_bill(write(text), {}) == [wanted]


def test_columns_by_name(write: Write) -> None:
    """In any order, with any delimiter, a byte order mark, CRLF, and blank lines."""
    path = write("\ufeffWhat;Total ($);When\r\n=1+1;$12.50;2026-11-20\r\n\r\n")
    columns = {"day": "When", "model": "What", "cost": "Total ($)"}
    assert read_bill(path, columns) == [BillLine(DAY, "=1+1", cost=Decimal("12.50"))]


def test_credits_and_times_with_an_offset(write: Write) -> None:
    """Amounts may be below 0; a time counts on its UTC day."""
    path = write("date,model,cost\n2026-11-21T00:30:00+01:00,m,-1e-3\n1795132800,m,1\n")
    assert read_bill(path, {}) == [BillLine(DAY, "m", cost=Decimal("0.999"))]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a,b\n1,2\n", "which column is the day and the model and the cost? say it with --columns"),
        ("date,model,cost\n", "has no line of a bill"),
        ("", "which column is the day"),
        ("date,model,cost\n2026-11-20,m\n", ":2: there are 2 cells, and 3 columns"),
        ("date,model,cost\n20.11.2026,m,1\n", ":2: the day '20.11.2026' is no date"),
        ('date,model,cost\n2026-11-20,m,"1,50"\n', ":2: the cost '1,50' is no amount"),
        ("date,model,cost\n2026-11-20,m,1e999999\n", "is no amount"),
        ("date,model,cost\n2026-11-20,m,NaN\n", "is no amount"),
        ("date,model,cost,currency\n2026-11-20,m,1,EUR\n", "the currency 'EUR' is no usd"),
        ("date,model,cost,requests\n2026-11-20,m,1,1.5\n", "the requests '1.5' is no whole number"),
        (b"date,model,cost\n2026-11-20,\xff,1\n", "is not UTF-8"),
        ("date,model,cost\n" + "x" * 3_000_000, "is not CSV"),
        ('date,model,cost\n2026-11-20,"' + "x\n" * 200_000, "is not CSV"),
    ],
)
def test_what_is_no_bill(write: Write, text: str | bytes, said: str) -> None:
    """One sentence, with the line, and what would mend it."""
    with pytest.raises(InputError) as caught:
        read_bill(write(text), {})
    assert said in caught.value.message
    assert len(caught.value.message) < 500


def test_a_column_that_is_not_there(write: Write) -> None:
    """The columns that there are are listed."""
    with pytest.raises(InputError, match="has no column 'When'; it has: date, model, cost"):
        read_bill(write("date,model,cost\n2026-11-20,m,1\n"), {"day": "When"})


def test_a_long_file_keeps_only_sums(write: Write) -> None:
    """A line a call, of one model: one line of a bill."""
    rows = "2026-11-20,m,0.001\n" * 50_000
    assert read_bill(write(f"date,model,cost\n{rows}"), {}) == [
        BillLine(DAY, "m", cost=Decimal("50.000"))
    ]
