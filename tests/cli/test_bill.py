"""`llmctl cost reconcile`, run as a process: causes, exit codes, settling, and where keys go."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.cli.terminal import on_a_terminal
from tests.conftest import KEY, Run
from tests.ledgers import a_call, a_ledger, calls_of, lost
from tests.simulator.bills import PROJECT, Bills, Charge, hash_of
from tests.simulator.errors import rate_limited, status
from tests.simulator.server import Simulator

ADMIN = "sk-admin-canary-7777"
OURS = "key_ours"
PATHS = {"openai": "/v1", "anthropic": "/anthropic/v1", "openrouter": "/openrouter/api/v1"}
ALL = tuple(PATHS)


def day(ago: int) -> date:
    """A UTC day."""
    return datetime.now(UTC).date() - timedelta(days=ago)


def at(ago: int) -> int:
    """Noon of that day, in milliseconds since the epoch."""
    when = day(ago)
    noon = datetime(when.year, when.month, when.day, 12, tzinfo=UTC)
    return round(noon.timestamp() * 1000)


def call(ago: int, **changes: Any) -> dict[str, Any]:
    """A call of a dollar."""
    return a_call(**{"started_ms": at(ago), "profile": "sim", **changes})


def charge(ago: int, **changes: Any) -> Charge:
    """The same on the bill."""
    usual: dict[str, Any] = {"usd": "1", "input": 100, "output": 10, "key": OURS}
    return Charge(day=day(ago), **{**usual, **changes})


class Place:
    """A home with a profile `sim` of a provider, its ledger, and its bill."""

    def __init__(self, sim: Simulator, run: Run, home: Path, environ: dict[str, str]) -> None:
        self.sim, self.home = sim, home
        self.environ = {**environ, "SIM_KEY": KEY, "SIM_ADMIN": ADMIN}
        self.run = partial(run, "cost", "reconcile", env=self.environ)
        self.bills = sim.bills = Bills(key=ADMIN)

    def configure(self, provider: str) -> None:
        """Write the configuration; the provider lists the key."""
        folder = self.home / ".config/llmctl"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.yaml").write_text(
            f"default: sim\nprofiles:\n  sim:\n    provider: {provider}\n"
            f"    base_url: {self.sim.origin}{PATHS[provider]}\n    model: gpt-5-mini\n"
            "    key: {env: SIM_KEY}\n    admin_key: {env: SIM_ADMIN}\n"
            f"    headers: {{openai-project: {PROJECT}}}\n"
        )
        self.key = hash_of(KEY) if provider == "openrouter" else OURS
        self.bills.shown.update({"key_other": "sk-...0815", self.key: f"{KEY[:10]}...{KEY[-4:]}"})

    def charge(self, *charges: Charge) -> None:
        """Put lines on the bill, of our key unless of another."""
        for one in charges:
            self.bills.charges.append(replace(one, key=self.key) if one.key == OURS else one)

    def ledger(self, *calls: dict[str, Any]) -> None:
        """Put calls into the ledger."""
        folder = self.home / ".local/state/llmctl"
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        a_ledger(folder / "ledger.db", *calls)

    def json(self, *words: str, code: int = 0) -> dict[str, Any]:
        """What the command says as JSON."""
        done = self.run(*words, "--json")
        assert done.returncode == code, done.stderr + done.stdout
        found: dict[str, Any] = json.loads(done.stdout, parse_float=Decimal)
        assert found["exit_code"] == code
        return found


@pytest.fixture
def place(sim: Simulator, run: Run, home: Path, environ: dict[str, str]) -> Place:
    """A home to compare in."""
    return Place(sim, run, home, environ)


def causes(found: Mapping[str, Any]) -> dict[str, list[str]]:
    """The causes by model, of rows that differ or have any."""
    rows = [row for row in found["rows"] if row["causes"]]
    return {row["model"]: [cause["cause"] for cause in row["causes"]] for row in rows}


@pytest.mark.parametrize("provider", ALL)
def test_equal_bills_agree(place: Place, provider: str) -> None:
    """Pages, rate limits, rounding to a tenth of a cent, other keys' lines and dated models: the
    difference is 0, exit 0."""
    place.configure(provider)
    place.bills = place.sim.bills = replace(place.bills, places=3)
    place.bills.refusals.extend([rate_limited(0.01), rate_limited(0.01)])
    cost, days = 1_000_400_000_000, range(2, 7)
    place.ledger(*(call(ago, model=m, cost_pico=cost) for ago in days for m in ("a", "b")))
    dated = ("a-2026-05-01", "b")
    place.charge(*(charge(ago, model=m, usd="1.0004") for ago in days for m in dated))
    place.charge(charge(3, model="a", usd="40", key="key_other"))
    found = place.json("--since", "7d")
    assert (found["share"], found["scope"]) == (0, "key")
    assert (found["bill_usd"], found["difference_usd"]) == (10, Decimal("-0.004"))
    assert (len(found["rows"]), causes(found)) == (10, {})


def test_every_planted_cause_is_named(place: Place) -> None:
    """On one bill of Anthropic's, in JSON and for a person at 80 columns; exit 3."""
    place.configure("anthropic")
    place.ledger(
        call(3, model="unknown"),
        lost(started_ms=at(3), profile="sim", model="unknown"),
        call(3, model="others"),
        call(3, model="price"),
        call(3, model="off"),
        call(3, model="tier"),
        call(3, model="rate"),
        call(4, model="late"),
        call(3, model="gone"),
        call(0, model="today"),
    )
    place.charge(
        charge(3, model="unknown", usd="1.5", input=150),
        charge(3, model="others", usd="2", input=300),
        charge(3, model="price", usd="1.1"),
        charge(3, model="off", usd="0.85", list_usd="1"),
        charge(3, model="tier", usd="0.7", cached=60),
        charge(3, model="rate", usd="0.5", batch=True),
        charge(3, model="late"),
    )
    found = place.json("--since", "5d", code=3)
    assert causes(found) == {
        "unknown": ["unknown_calls"],
        "others": ["other_users"],
        "price": ["price"],
        "off": ["discount"],
        "tier": ["cache_tier"],
        "rate": ["batch_rate"],
        "late": ["late"],
        "gone": ["missing"],
        "today": ["incomplete_day"],
    }
    done = place.run("--since", "5d")
    assert done.returncode == 3
    assert "more than the tolerance of 2.0%" in done.stderr
    for words in ("-$0.15  discount: 15.0% off the list price", "+$1.00  other users: 200 tokens"):
        assert words in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert place.run("--since", "5d", "--tolerance", "100%").returncode == 0


def test_calls_in_doubt_are_settled_once(place: Place) -> None:
    """Where the bill decides: at nothing, or at what was billed beyond the known calls. Run again
    there is nothing more to settle, and the ledger agrees with the bill."""
    place.configure("openai")
    doubt = [lost(started_ms=at(ago), profile="sim", call_id=f"lost{ago}") for ago in (3, 4, 5)]
    place.ledger(*(call(ago) for ago in (3, 4, 5)), *doubt)
    place.charge(charge(3), charge(4, usd="1.4", input=160), charge(5, usd="9", input=900))
    words = ("--from", str(day(5)), "--to", str(day(3)), "--settle")
    refused = place.run(*words)
    assert (refused.returncode, "add --yes" in refused.stderr, refused.stdout) == (2, True, "")
    assert place.sim.calls == []
    found = place.json(*words, "--yes", code=3)
    assert [(one["call_id"], one["billed_usd"], one["settled"]) for one in found["in_doubt"]] == [
        ("lost5", None, False),
        ("lost4", Decimal("0.4"), True),
        ("lost3", 0, True),
    ]
    rows = {row["call_id"]: (row["status"], row["cost_pico"]) for row in calls_of(place.home)}
    assert {name: rows[name] for name in ("lost3", "lost4", "lost5")} == {
        "lost3": ("error", 0),
        "lost4": ("error", 4 * 10**11),
        "lost5": ("unknown", 10**12),
    }
    again = place.json(*words, "--yes", code=3)
    assert [one["call_id"] for one in again["in_doubt"]] == ["lost5"]
    assert {row["day"]: row["agrees"] for row in again["rows"]} == {
        str(day(5)): False,
        str(day(4)): True,
        str(day(3)): True,
    }
    assert rows == {r["call_id"]: (r["status"], r["cost_pico"]) for r in calls_of(place.home)}


@pytest.mark.parametrize(("answer", "state"), [("y", "error"), ("n", "unknown")])
def test_a_person_is_asked(place: Place, answer: str, state: str) -> None:
    """What is settled is shown first; anything but yes settles nothing."""
    place.configure("openai")
    place.ledger(call(3), lost(started_ms=at(3), profile="sim", call_id="lost"))
    place.charge(charge(3))
    words = ("cost", "reconcile", "--settle")
    typed, after = f"{answer}\n".encode(), b"[y/N]"
    _, raw, _ = on_a_terminal(place.environ, place.home, *words, typed=typed, after=after)
    shown = raw.decode()
    assert shown.index("→ $0") < shown.index("Settle 1 call in the ledger so? [y/N]")
    assert [row["status"] for row in calls_of(place.home) if row["call_id"] == "lost"] == [state]


def test_the_admin_key_goes_to_the_administration_alone(place: Place, run: Run) -> None:
    """And no other key there; neither is printed or kept anywhere."""
    place.configure("openai")
    place.charge(charge(3))
    said = place.run("-vv").stdout + place.run("--json").stderr
    run("ask", "hello", env=place.environ)
    run("limits", "pull", env=place.environ)
    for one in place.sim.calls:
        theirs = one.path.startswith("/v1/organization/")
        assert one.api_key == (ADMIN if theirs else KEY)
    assert {one.api_key for one in place.sim.calls} == {ADMIN, KEY}
    assert ADMIN not in said
    assert KEY not in said
    kept = [path for path in place.home.rglob("*") if path.is_file()]
    assert not [path for path in kept if ADMIN.encode() in path.read_bytes()]


def test_whose_calls_are_compared(place: Place) -> None:
    """Without a key that can be told from others those of the project; then of everybody."""
    place.configure("openai")
    place.bills.shown.clear()
    place.charge(charge(3, key="a"), charge(3, key="b", usd="7", project="proj_other"))
    found = place.json(code=3)
    assert (found["scope"], found["bill_usd"]) == ("project", 1)
    config = place.home / ".config/llmctl/config.yaml"
    config.write_text(config.read_text().replace("openai-project", "x-project"))
    found = place.json(code=3)
    assert (found["scope"], found["bill_usd"]) == ("organization", 8)
    assert "does not tell whose they are" in place.run().stdout


def test_calls_of_other_keys_and_addresses_are_not_ours(place: Place) -> None:
    """The ledger's side are the profiles with the same address and key."""
    place.configure("openai")
    config = place.home / ".config/llmctl/config.yaml"
    url = f"provider: openai, base_url: '{place.sim.base_url}', model: m"
    config.write_text(
        config.read_text() + f"  twin: {{{url}, key: {{env: SIM_KEY}}}}\n"
        f"  other: {{{url}, key: {{env: OTHER}}}}\n"
    )
    place.ledger(call(3), call(3, profile="twin"), call(3, profile="other"))
    assert place.json(code=3)["ledger_usd"] == 2


@pytest.mark.parametrize(
    ("code", "exit_code", "said"),
    [
        (401, 4, "the admin key of $SIM_ADMIN is refused"),
        (403, 4, "the admin key of $SIM_ADMIN is refused"),
        (404, 1, "status 404"),
    ],
)
def test_refusals(place: Place, code: int, exit_code: int, said: str) -> None:
    """One sentence, no traceback, nothing on stdout."""
    place.configure("openai")
    place.bills.refusals.extend([status(code), status(code)])
    done = place.run()
    assert (done.returncode, done.stdout) == (exit_code, "")
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_keys_that_cannot_be_listed_leave_the_bill(place: Place) -> None:
    """An admin key that may see costs alone: the project is compared, and why is said."""
    place.configure("openai")
    place.bills.refusals.append(status(403))
    place.charge(charge(3))
    done = place.run()
    assert done.returncode == 3
    assert "the keys cannot be listed" in done.stderr
    assert "all calls in this profile's project" in done.stdout


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("-p", "gemini"), 2, "give the export of its page by --csv FILE"),
        (("-p", "local"), 2, "bills nothing: choose another one with -p"),
        (("-p", "anthropic"), 4, "set $ANTHROPIC_ADMIN_KEY to one"),
        (("-p", "nobody"), 2, "there is no profile"),
        (("--since", "7d", "--from", "2026-01-01"), 2, "exclude each other"),
        (("--to", "2026-01-01"), 2, "--to needs --from"),
        (("--since", "999d"), 2, "compare a year at a time"),
        (("--tolerance", "much"), 2, "--tolerance wants a share"),
        (("--columns", "day=a"), 2, "the columns of --csv FILE"),
        (("--csv", "x.csv", "--columns", "dya=a"), 2, 'did you mean "day"?'),
        (("--csv", "missing.csv"), 2, "cannot read missing.csv"),
    ],
)
def test_what_makes_no_sense(place: Place, words: tuple[str, ...], code: int, said: str) -> None:
    """Is said before anything is asked."""
    place.configure("openai")
    done = place.run(*words)
    assert (done.returncode, done.stdout) == (code, "")
    assert said in done.stderr
    assert place.sim.calls == []


def test_a_csv_needs_no_network_and_no_key(place: Place, tmp_path: Path) -> None:
    """Of any provider; its model's name is shown without what a terminal would obey."""
    place.configure("openai")
    place.ledger(call(3), call(4))
    path = tmp_path / "bill.csv"
    path.write_text(
        f"When,What,Total\n{day(3)},gpt-5-mini,1.00\n{day(4)},gpt-5-mini,1.00\n"
        f"{day(4)},\x1b[31m=cmd(),3.00\n"
    )
    config = place.home / ".config/llmctl/config.yaml"
    config.write_text(config.read_text().replace("    admin_key: {env: SIM_ADMIN}\n", ""))
    columns = ("--csv", str(path), "--columns", "day=When,model=What", "--columns", "cost=Total")
    done = place.run(*columns)
    assert (done.returncode, place.sim.calls) == (3, [])
    assert "=cmd()" in done.stdout
    assert "\x1b" not in done.stdout
    assert "other users" in done.stdout
    late = place.run(*columns, "--since", "1d")
    assert (late.returncode, f"add --from {day(4)} --to {day(3)}" in late.stderr) == (2, True)


def test_no_ledger_yet(place: Place) -> None:
    """Everything billed is somebody else's; no ledger is made."""
    place.configure("openai")
    place.charge(charge(3))
    found = place.json(code=3)
    assert causes(found) == {"gpt-5-mini": ["other_users"]}
    assert not (place.home / ".local/state/llmctl/ledger.db").exists()
