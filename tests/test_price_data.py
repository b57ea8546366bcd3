"""Price data: the better one is used, and fetched data only when it is fit."""

from __future__ import annotations

import json
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from llmctl import pricing
from llmctl.pricing import (
    FILE,
    Origin,
    Prices,
    UnfitError,
    bundled,
    catalogue,
    check_fit,
    encode_stored,
    library_catalogue,
    parse,
)
from llmctl.types import Target, Usage
from tests.price_lists import encoded, published

OPENAI = Target("p", "openai", "openai", "https://api.openai.com/v1", "brand-new")


def put(state: Path, listed: Any, library: str | None = None) -> None:
    """Store data as an update would."""
    release = library_catalogue().origin.library if library is None else library
    origin = Origin("https://prices.example", release, 1_795_000_000.0)
    (state / FILE).write_bytes(encode_stored(encoded(listed), origin))


def never(message: str) -> None:
    """A warning that must not come."""
    raise AssertionError(message)


def test_without_a_file_the_librarys_prices_are_used(tmp_path: Path) -> None:
    """Nothing is stored, nothing is said."""
    assert catalogue(tmp_path, never).origin.fetched is None
    assert pricing.load(tmp_path, never) is bundled()


def test_stored_data_is_used_offline(tmp_path: Path) -> None:
    """A model that only the stored list knows has its price, exactly."""
    put(tmp_path, published(**{"brand-new": (0.1, 0.3)}))
    prices = Prices(lambda: pricing.load(tmp_path, never))
    usage = Usage(input=1_000_000, output=1_000_000)
    assert prices.price(OPENAI, None, usage, 1.8e9) == Decimal("0.4")
    assert Prices().price(OPENAI, None, usage, 1.8e9) is None
    used = catalogue(tmp_path, never)
    assert (used.origin.source, used.origin.fetched) == ("https://prices.example", 1_795_000_000.0)
    assert used.models == library_catalogue().models + 1


def test_a_later_library_brings_its_own_prices(tmp_path: Path) -> None:
    """Data fetched for another release of the library gives way, unless it is newer by its own
    dates."""
    put(tmp_path, published(**{"brand-new": (1, 2)}), library="0.0.1")
    assert catalogue(tmp_path, never).origin.fetched is None
    listed = published(**{"brand-new": (1, 2)})
    dated = {"constraint": {"start_date": "2190-01-01"}, "prices": {"input_mtok": 1}}
    listed[0]["models"].append(
        {"id": "x", "match": {"equals": "x"}, "prices": [{"prices": {"input_mtok": 2}}, dated]}
    )
    put(tmp_path, listed, library="0.0.1")
    assert catalogue(tmp_path, never).newest == date(2190, 1, 1)


def test_older_stored_data_gives_way(tmp_path: Path) -> None:
    """What is older than the library's own is passed over without a word."""
    put(tmp_path, dateless(published()))
    assert catalogue(tmp_path, never).origin.fetched is None


@pytest.mark.parametrize("damage", ["", "{}", "cut", "flipped", "\xff"])
def test_a_damaged_file_is_named_and_passed_over(tmp_path: Path, damage: str) -> None:
    """The library's prices serve, with one warning that names the file."""
    put(tmp_path, published())
    whole = (tmp_path / FILE).read_bytes()
    broken = {"cut": whole[:-10], "flipped": whole[:-20] + b"9" + whole[-19:]}
    (tmp_path / FILE).write_bytes(broken.get(damage, damage.encode("latin-1")))
    said: list[str] = []
    assert pricing.load(tmp_path, said.append) is bundled()
    assert len(said) == 1
    assert FILE in said[0]
    assert "cost prices --update" in said[0]


@pytest.mark.parametrize(
    ("payload", "why"),
    [
        (b"", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"{}", "no list"),
        (b'[{"id": 5}]', "not in the format"),
        (b"[1]", "not in the format"),
    ],
)
def test_what_is_no_price_list_is_refused(payload: bytes, why: str) -> None:
    """Bytes that are something else do not get far."""
    with pytest.raises(UnfitError, match=why):
        parse(payload)


def dateless(listed: Any) -> Any:
    """The list as it was before any dated price."""
    text = json.dumps(listed)
    return json.loads(text, object_hook=lambda d: {k: v for k, v in d.items() if k != "constraint"})


def negative(listed: Any) -> Any:
    """The list with a price that pays the user."""
    listed[0]["models"][0]["prices"] = {"input_mtok": -1, "output_mtok": 2}
    return listed


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda listed: [p for p in listed if p["id"] != "anthropic"], "no prices of anthropic"),
        (
            lambda listed: [{**p, "models": p["models"][::2]} for p in listed],
            r"only 1,\d+ of the 2,\d+ models",
        ),
        (dateless, "older than the data in use"),
        (negative, "makes no sense|not in the format"),
    ],
)
def test_poorer_data_is_refused(change: Any, why: str) -> None:
    """Fewer providers or models, older prices or senseless ones do not replace what is used; the
    list of today is as good as that of today."""
    used = library_catalogue().data
    check_fit(parse(encoded(published())), used)
    with pytest.raises(UnfitError, match=why):
        check_fit(parse(encoded(change(published()))), used)
