"""SQL for many values at once."""

from __future__ import annotations

import sqlite3
from contextlib import closing

import pytest

from llmctl.storage.sqlite import lists, parts, rows


@pytest.mark.parametrize("number", [0, 1, 8, 9, 512, 513, 1100])
def test_a_list_finds_what_is_in_it(number: int) -> None:
    """Each value once, in as few statements as can be, whose texts are few; never more than 999
    values in one, which is all that older SQLites take."""
    with closing(sqlite3.connect(":memory:")) as db:
        db.execute("CREATE TABLE numbers (n INTEGER)")
        db.executemany("INSERT INTO numbers VALUES (?)", [(n,) for n in range(2000)])
        found: list[int] = []
        statements = []
        for some, those in lists(range(number)):
            statements.append(f"SELECT n FROM numbers WHERE n IN {some}")
            assert len(those) <= 900
            found += [n for (n,) in db.execute(statements[-1], those)]
    assert found == [*range(number)]
    assert len(statements) == -(-number // 512)
    assert {text.count("?") for text in statements} <= {8, 32, 128, 512}


@pytest.mark.parametrize("columns", [1, 6, 8, 9, 27])
def test_a_part_fits_in_one_statement(columns: int) -> None:
    """All rows are in one of the parts, in their order, and no part has more than 999 values."""
    lots = [*parts(range(200), columns)]
    assert [n for lot in lots for n in lot] == [*range(200)]
    assert all(rows(len(lot), columns).count("?") <= 900 for lot in lots)
