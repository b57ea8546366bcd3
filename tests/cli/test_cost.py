"""`llmctl cost`: reports in every format, checks by exit code, and where prices come from."""

from __future__ import annotations

import asyncio
import csv
import io
import json
import re
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len as cells

from llmctl.cli.cost_formats import escaped
from llmctl.storage.ledger import open_ledger
from tests.conformance.calls import a_hold, a_request
from tests.conftest import Run
from tests.ledgers import a_call, a_failure, a_hit, a_ledger, lost
from tests.price_lists import encoded, published

DAY = 86_400_000


@pytest.fixture
def state(home: Path) -> Path:
    """Where the program keeps its ledger."""
    folder = home / ".local/state/llmctl"
    folder.mkdir(parents=True, mode=0o700)
    return folder


def now() -> int:
    """A second ago."""
    return round(time.time() * 1000) - 1000


@pytest.fixture
def spent(state: Path) -> Path:
    """A ledger: five dollars charged, half of one in doubt, one saved, one call unpriced."""
    return a_ledger(
        state / "ledger.db",
        a_call(started_ms=now(), cost_pico=10**12, latency_ms=100),
        a_call(started_ms=now(), cost_pico=4 * 10**12, model="gpt-5", latency_ms=300),
        a_hit(started_ms=now()),
        a_failure(started_ms=now()),
        lost(started_ms=now(), cost_pico=5 * 10**11),
        a_call(started_ms=now(), cost_pico=None, model="new", profile="mine"),
    )


def report(run: Run, *arguments: str) -> Any:
    """The JSON report, amounts exact."""
    done = run("cost", "report", "--json", *arguments)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout, parse_float=Decimal)


@pytest.mark.usefixtures("spent")
def test_the_json_report(run: Run) -> None:
    """It has the fields that the help names, amounts are exact, unknown is null."""
    said = report(run)
    assert list(said) == [
        "from", "to", "timezone", "by", "total", "groups", "days", "month_to_date", "budgets",
        "targets", "token_trend", "error_types", "masked", "unpriced", "unknown",
    ]  # fmt: skip
    assert list(said["total"]) == [
        "calls", "errors", "error_rate", "refused_calls", "retries", "rate_limit_hits",
        "estimated_calls", "cached_calls", "cache_hit_rate", "input_tokens", "output_tokens",
        "cached_input_tokens", "cache_write_tokens", "reasoning_tokens", "cost_usd", "share",
        "mean_cost_usd", "saved_usd", "batch_saved_usd", "routed_saved_usd",
        "provider_cache_saved_usd", "unpriced_calls", "uncertain_attempts",
        "may_have_been_billed_usd", "latency_ms", "first_token_ms",
    ]  # fmt: skip
    assert (said["total"]["cost_usd"], said["total"]["saved_usd"]) == (5, 1)
    assert said["total"]["may_have_been_billed_usd"] == Decimal("0.5")
    assert [(g["key"]["model"], g["cost_usd"], g["share"]) for g in said["groups"]] == [
        ("gpt-5", 4, Decimal("0.8")),
        ("gpt-5-mini", 1, Decimal("0.2")),
        ("new", None, None),
    ]
    assert said["groups"][0]["latency_ms"] == {"p50": 300, "p95": 300, "p99": 300}
    assert said["unpriced"] == [
        {"profile": "mine", "provider": "openai", "model": "new", "calls": 1}
    ]
    assert said["month_to_date"]["cost_usd"] == 5
    assert said["month_to_date"]["projected_usd"] >= 5
    assert len(said["days"]) == 31


def test_what_a_budget_refused_is_no_error(run: Run, state: Path) -> None:
    """Case 47, A55, A113, A115, A117: 22 calls that were refused here, by a budget, a limit of the
    day or the breaker, were not sent, and are not 100% errors; retries, rate-limit hits, kinds of
    errors, estimates and what a call costs on average are there."""
    refused = {"status": "error", "attempts": 0, "cost_pico": 0, "cache": None, "latency_ms": None}
    kinds = ("budget",) * 20 + ("quota", "connection")
    a_ledger(
        state / "ledger.db",
        *(a_call(started_ms=now(), error_type=kind, **refused) for kind in kinds),
        a_call(started_ms=now(), attempts=4, rate_limits=2, cost_pico=10**12),
        a_call(started_ms=now(), attempts=1, cost_pico=2 * 10**12, estimated=1),
        a_call(
            started_ms=now(), status="error", error_type="server", cost_pico=0, cache=None,
            latency_ms=None, attempts=1,
        ),
    )  # fmt: skip
    total = report(run)["total"]
    assert (total["calls"], total["errors"], total["refused_calls"]) == (25, 1, 22)
    assert (total["retries"], total["rate_limit_hits"], total["estimated_calls"]) == (3, 2, 1)
    assert (total["mean_cost_usd"], report(run)["error_types"]) == (1, {"server": 1})
    shown = " ".join(run("cost", "report").stdout.split())
    assert "33.3% errors" in shown
    assert "Errors: server 1. 22 calls were refused here, unsent:" in shown
    assert "a rule of `data` or `privacy`, or a provider that was down." in shown
    assert "Of 1 call the provider reported no tokens, or not all: they are estimates (~)" in shown


def test_the_kinds_of_errors_are_all_errors(run: Run, state: Path) -> None:
    """A113: the kinds add up to the errors: calls of killed processes are among them, cancelled
    ones are not. A115: nothing was asked, so a call cost nothing on average, not an unknown sum."""
    a_ledger(
        state / "ledger.db",
        *(a_failure(started_ms=now(), error_type="server") for _ in range(2)),
        a_failure(started_ms=now(), status="cancelled", error_type="cancelled"),
        a_failure(started_ms=now(), error_type="budget", attempts=0, model="refused"),
        lost(started_ms=now()),
    )
    said = report(run)
    assert said["error_types"] == {"server": 2, "unknown": 1}
    assert said["total"]["errors"] == 3
    assert "refused $0 - 1 -" in " ".join(run("cost", "report").stdout.split())


def test_the_help_names_every_field(run: Run) -> None:
    """What the help documents is what the report prints."""
    text = " ".join(run("cost", "report", "--help").stdout.split())
    said = report(run)
    for name in (*said, *said["total"], *said["month_to_date"]):
        assert name in text, name


def test_before_the_first_call(run: Run, home: Path) -> None:
    """An empty report, and no file is made."""
    assert report(run)["groups"] == []
    assert "no calls in this span" in run("cost", "report").stdout
    assert run("cost", "report", "--format", "csv").stdout.startswith("model,calls,")
    assert not (home / ".local").exists()


@pytest.mark.usefixtures("spent")
def test_the_table_in_a_pipe_is_plain(run: Run) -> None:
    """No colours, no line beyond 80 columns, and what nobody knows is $?."""
    done = run("cost", "report")
    assert "\x1b" not in done.stdout
    assert max(map(cells, done.stdout.splitlines())) <= 80
    shown = " ".join(done.stdout.split())
    assert "5.00 + ? USD for 6 calls" in shown
    assert "without an answer: 0.50 USD at the most" in shown
    assert "price is unknown are not in the figures: mine/new (1)" in shown
    assert "Month to date 5.00 + ? USD" in shown


def test_colours_follow_the_environment(run: Run, spent: Path, environ: dict[str, str]) -> None:
    """`CLICOLOR_FORCE` colours a pipe, `NO_COLOR` wins over it."""
    assert spent.exists()
    forced = {**environ, "CLICOLOR_FORCE": "1"}
    assert "\x1b[" in run("cost", "report", env=forced).stdout
    assert "\x1b[" not in run("cost", "report", env={**forced, "NO_COLOR": "1"}).stdout


def test_csv_cells_are_no_formulas(run: Run, state: Path) -> None:
    """Names that a spreadsheet would run get an apostrophe; everything else is as it is."""
    names = ["=1+1", "+1", "-1", "@SUM(A1)", "\tx", "\rx", 'a "b", c', "plain"]
    a_ledger(state / "ledger.db", *(a_call(started_ms=now(), model=name) for name in names))
    text = run("cost", "report", "--format", "csv").stdout
    rows = list(csv.DictReader(io.StringIO(text, newline="")))
    wanted = [f"'{name}" for name in names[:6]] + names[6:]
    assert sorted(row["model"] for row in rows) == sorted(wanted)
    assert {row["cost_usd"] for row in rows} == {"1"}
    assert {row["latency_p95_ms"] for row in rows} == {"100"}


@pytest.mark.usefixtures("spent")
def test_csv_leaves_the_unknown_empty(run: Run) -> None:
    """Never 0."""
    text = run("cost", "report", "--format", "csv", "--by", "model,tag:team").stdout
    rows = {row["model"]: row for row in csv.DictReader(io.StringIO(text))}
    assert rows["new"]["cost_usd"] == ""
    assert rows["new"]["tag:team"] == ""
    assert rows["gpt-5"]["cost_usd"] == "4"


def test_markdown_is_text(run: Run, state: Path) -> None:
    """Names cannot end a cell, make a link, a picture, HTML, a mention or mathematics."""
    evil = "a|b <img src=x> [x](http://e.example) ![p](q) `c` *d* @all $e$ www.e.example\nnew"
    a_ledger(state / "ledger.db", a_call(started_ms=now(), model=evil), a_call(started_ms=now()))
    text = run("cost", "report", "--format", "markdown").stdout
    row = next(line for line in text.splitlines() if "img" in line)
    assert len(re.findall(r"(?<!\\)\|", row)) == 16
    for forbidden in ("<img", r"(?<!\\)\]\(", "http://", " @all", r"www\.e", r" \$e"):
        assert not re.search(forbidden, row)
    assert "| **total** |" in text


@given(st.text())
def test_escaped_text_has_no_markup(text: str) -> None:
    """Whatever a model is called."""
    safe = escaped(text)
    assert "\n" not in safe
    assert not re.search(r"(?<!\\)(\\\\)*[|`*_\[\]~$]", safe.replace("\\\\", ""))
    assert "<" not in safe


@pytest.mark.parametrize(("budget", "code"), [("$5.5", 0), ("5.49", 3), ("0", 3)])
@pytest.mark.usefixtures("spent")
def test_a_check_counts_what_may_have_been_billed(run: Run, budget: str, code: int) -> None:
    """The figure is charged plus doubtful; a budget spent to the cent is not exceeded."""
    for period in ("day", "week", "month", "run:run-1", "run:last"):
        done = run("cost", "check", "--budget", budget, "--period", period)
        assert done.returncode == code, (period, done.stdout)
        assert "$5.50" in done.stdout
        assert ("is exceeded" in done.stderr) == (code == 3)


@pytest.mark.usefixtures("spent")
def test_strict_does_not_pass_unknown_prices(run: Run) -> None:
    """They are named either way."""
    done = run("cost", "check", "--budget", "100")
    assert done.returncode == 0
    assert "price unknown, $?: mine/new (1)" in done.stdout
    strict = run("cost", "check", "--budget", "100", "--strict")
    assert strict.returncode == 3
    assert "unknown price" in strict.stderr
    assert "{as: openai/gpt-4o}" in strict.stderr


@pytest.mark.usefixtures("spent")
def test_a_check_by_group(run: Run) -> None:
    """`--by` shows the parts of the sum."""
    done = run("cost", "check", "--budget", "4.2", "--by", "model", "--json")
    said = json.loads(done.stdout, parse_float=Decimal)
    assert (done.returncode, said["exit_code"]) == (3, 3)
    assert [g["key"]["model"] for g in said["budgets"][0]["groups"]] == [
        "gpt-5",
        "gpt-5-mini",
        "new",
    ]


def test_configured_budgets(run: Run, spent: Path, home: Path, environ: dict[str, str]) -> None:
    """Without `--budget` those of the configuration are checked, each in its period."""
    assert spent.exists()
    config = home / ".config/llmctl/config.yaml"
    config.parent.mkdir(parents=True)
    config.write_text(
        "budgets:\n"
        "  - {name: all, limit_usd: 6, period: month, warn_at: [0.5, 80%]}\n"
        "  - {name: mine, limit_usd: 1, period: day, match: {profile: mine}}\n"
    )
    done = run("cost", "check", env=environ)
    assert done.returncode == 0
    assert re.search(r"^warning +all .*\$5\.50\+\? of \$6\.00 \(92%\)", done.stdout, re.MULTILINE)
    assert re.search(r"^within +mine ", done.stdout, re.MULTILINE)
    config.write_text(config.read_text().replace("limit_usd: 6", "limit_usd: 5"))
    assert run("cost", "check").returncode == 3
    states = {b["name"]: b["state"] for b in report(run)["budgets"]}
    assert states == {"all": "exceeded", "mine": "within"}
    assert "EXCEEDED" in run("cost", "report").stdout
    assert "❌ exceeded" in run("cost", "report", "--format", "markdown").stdout


def test_calls_under_way_count_at_their_worst_case(run: Run, state: Path) -> None:
    """A check in the middle of a run holds what the calls in flight can come to."""
    with closing(open_ledger(state / "ledger.db", "run-9", "ann")) as ledger:
        asyncio.run(ledger.hold(a_hold(a_request())))
        with closing(sqlite3.connect(state / "ledger.db")) as connection, connection:
            connection.execute("UPDATE holds SET at_ms = ?", (now(),))
        done = run("cost", "check", "--budget", "0.0122")
    assert done.returncode == 3
    assert "for 1 call under way" in done.stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ("check",),
        ("check", "--budget", "x"),
        ("check", "--budget", "1", "--period", "year"),
        ("check", "--period", "month"),
        ("check", "--budget", "1", "--period", "run:nobody"),
        ("check", "--budget", "1", "--warn-at", "180%"),
        ("check", "--budget", "1", "--period", "run:run-1", "--by", "day"),
        ("report", "--since", "7d", "--from", "2026-01-01"),
        ("report", "--timezone", "Mars/Base"),
        ("report", "--format", "xml"),
    ],
)
@pytest.mark.usefixtures("spent")
def test_usage_errors(run: Run, arguments: tuple[str, ...]) -> None:
    """They exit 2 with one sentence, and print no figure."""
    done = run("cost", *arguments)
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    assert "Traceback" not in done.stderr


def test_a_damaged_ledger_is_one_sentence(run: Run, state: Path) -> None:
    """Exit 74 names the file and the way out."""
    (state / "ledger.db").write_bytes(b"no database at all" * 500)
    for command in ("report", "check"):
        done = run("cost", command, *(("--budget", "1") if command == "check" else ()))
        assert done.returncode == 74
        assert "is damaged" in done.stderr
        assert "Traceback" not in done.stderr


def test_model_names_cannot_paint_the_terminal(run: Run, state: Path) -> None:
    """Escape sequences in what a provider calls its model do not reach the screen."""
    a_ledger(state / "ledger.db", a_call(started_ms=now(), model="\x1b[31mred\x07", cost_pico=None))
    text = run("cost", "report").stdout + run("cost", "check", "--budget", "1").stdout
    assert "\x1b" not in text
    assert "\x07" not in text
    assert "red" in text


# --- prices ---


@contextmanager
def serving(body: bytes, status: int = 200) -> Iterator[tuple[str, list[str]]]:
    """A web server on loopback with one page; its address, and who asked."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(status)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/data.json", asked
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_prices_alone_ask_nobody(run: Run, environ: dict[str, str], home: Path) -> None:
    """They show the library's data, offline, and write nothing."""
    with serving(b"[]") as (url, asked):
        done = run("cost", "prices", "--json", env={**environ, "LLMCTL_PRICES_URL": url})
    said = json.loads(done.stdout)
    assert said["source"].startswith("genai-prices ")
    assert said["models"] > 2000
    assert (said["fetched"], said["age_s"], asked) == (None, None, [])
    assert list(home.iterdir()) == []


def test_updated_prices_are_used_from_then_on(
    run: Run, environ: dict[str, str], tmp_path: Path
) -> None:
    """A model that only the fetched list knows has its price in the next plan, offline."""
    path = tmp_path / "in.jsonl"
    path.write_text('{"id":"a","prompt":"x","max_tokens":1000000}\n')
    plan = ("batch", str(path), "-p", "openai", "-m", "brand-new", "--dry-run", "--json")
    assert json.loads(run(*plan).stdout)["worst_case_usd"] is None
    with serving(encoded(published(**{"brand-new": (1, 7)}))) as (url, asked):
        done = run("cost", "prices", "--update", env={**environ, "LLMCTL_PRICES_URL": url})
    assert done.returncode == 0, done.stderr
    assert asked == ["/data.json"]
    assert url in done.stdout
    found = json.loads(run(*plan).stdout, parse_float=Decimal)["worst_case_usd"]
    assert 7 < found < Decimal("7.001")
    state = Path(environ["HOME"]) / ".local/state/llmctl"
    assert (state / "prices.json").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("body", "status", "code"), [(b"<html>login</html>", 200, 1), (b"", 302, 5), (b"oops", 500, 5)]
)
def test_a_failed_update_changes_nothing(
    run: Run, environ: dict[str, str], body: bytes, status: int, code: int
) -> None:
    """What was fetched before stays, byte for byte, and stays in use."""
    with serving(encoded(published(**{"brand-new": (1, 7)}))) as (url, _):
        run("cost", "prices", "--update", env={**environ, "LLMCTL_PRICES_URL": url})
    stored = Path(environ["HOME"]) / ".local/state/llmctl/prices.json"
    before = stored.read_bytes()
    with serving(body, status) as (url, _):
        done = run("cost", "prices", "--update", env={**environ, "LLMCTL_PRICES_URL": url})
    assert done.returncode == code, done.stderr
    assert "stay in use" in done.stderr
    assert stored.read_bytes() == before
    assert json.loads(run("cost", "prices", "--json").stdout)["fetched"] is not None


def test_an_update_without_network_says_so(run: Run, environ: dict[str, str]) -> None:
    """Exit 5 with the network's reason, which dated list stays in use, and what to do next."""
    with serving(encoded(published(**{"brand-new": (1, 7)}))) as (url, _):
        run("cost", "prices", "--update", env={**environ, "LLMCTL_PRICES_URL": url})
    fetched = json.loads(run("cost", "prices", "--json").stdout)["fetched"]
    done = run("cost", "prices", "--update", env={**environ, "LLMCTL_PRICES_URL": url})
    assert done.returncode == 5
    assert "because of the network: no connection to 127.0.0.1" in done.stderr
    assert f"those of {url} ({fetched[:10]}) stay in use; try again later" in done.stderr
    assert "base_url" not in done.stderr
