"""`llmctl cache`, and the cache of `ask` and `batch`, run as processes."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.cli.jsonl import write
from tests.conftest import Run
from tests.ledgers import calls_of
from tests.simulator.server import Simulator

ROWS = 30


@pytest.fixture
def cache(home: Path) -> Path:
    """Where the cache lies."""
    return home / ".cache/llmctl/cache.db"


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """An input of thirty rows."""
    return write(tmp_path / "in.jsonl", canaries())


def canaries(count: int = ROWS) -> list[dict[str, str]]:
    """Rows that hold a canary."""
    return [{"id": f"r{n}", "prompt": f"canary say {n}"} for n in range(count)]


def set_up(home: Path, find: str, put: str) -> None:
    """Change the configuration."""
    path = home / ".config/llmctl/config.yaml"
    said = path.read_text(encoding="utf-8")
    assert find in said
    path.write_text(said.replace(find, put), encoding="utf-8")


def test_a_hit_costs_nothing_and_says_what_it_saved(
    llmctl: Run, home: Path, sim: Simulator
) -> None:
    """The second time a question is not sent, streams all the same, costs 0, and the ledger has
    what the first time cost as saved."""
    first = llmctl("ask", "canary hello")
    again = llmctl("ask", "canary hello", "--stream", "-u")
    assert (again.stdout, again.returncode) == (first.stdout, 0)
    assert again.stderr.splitlines()[-1].endswith("· hit")
    assert "$0 " in again.stderr
    assert len(sim.calls) == 1
    paid, hit = calls_of(home)
    assert (hit["cache"], hit["cost_pico"]) == ("hit", 0)
    assert hit["saved_pico"] == paid["cost_pico"] > 0


def test_no_cache_and_refresh(llmctl: Run, home: Path, sim: Simulator) -> None:
    """`--no-cache` neither reads nor writes; `--refresh` calls, and the next one gets that."""
    said = iter("abcd")
    sim.reply = lambda _: next(said)

    def ask(*flags: str) -> str:
        return llmctl("ask", "x", "--no-stream", *flags).stdout.strip()

    assert [ask("--no-cache"), ask(), ask("--refresh"), ask(), ask("--no-cache")] == list("abccd")
    assert [call["cache"] for call in calls_of(home)] == ["bypass", "miss", "miss", "hit", "bypass"]


def test_stats(llmctl: Run, rows: Path, sim: Simulator) -> None:
    """Entries, hits, misses and dollars by model: what a second run did not have to pay."""
    llmctl("batch", str(rows))
    done = llmctl("batch", str(rows), "--restart", "--json")
    assert json.loads(done.stdout)["cached"] == ROWS
    assert len(sim.calls) == ROWS
    shown = json.loads(llmctl("cache", "stats", "--json").stdout)
    (model,) = shown.pop("models")
    assert model.pop("model") == "gpt-5-mini"
    assert {
        key: value
        for key, value in shown.items()
        if key not in ("path", "file_bytes", "encrypted", "semantic")
    } == model
    assert (model["entries"], model["hits"], model["misses"]) == (ROWS, ROWS, ROWS)
    assert (model["hit_rate"], model["unpriced_hits"]) == (0.5, 0)
    spent = sum(c.billed.input + 2 * c.billed.output for c in sim.calls if c.billed) / 1e6
    assert model["saved_usd"] == pytest.approx(spent)
    assert shown["file_bytes"] > model["bytes"] > 0
    table = llmctl("cache", "stats")
    assert table.stdout.splitlines()[0].split() == [
        "MODEL", "ENTRIES", "SIZE", "HITS", "MISSES", "HIT", "RATE", "SAVED",
    ]  # fmt: skip
    assert "50.0%" in table.stdout.splitlines()[-1]


def test_stats_and_prune_of_nothing(run: Run, home: Path) -> None:
    """Without a cache both say so, exit 0, and make no file."""
    stats = json.loads(run("cache", "stats", "--json").stdout)
    assert (stats["entries"], stats["hit_rate"], stats["models"]) == (0, None, [])
    done = run("cache", "prune", "--all")
    assert (done.returncode, done.stdout) == (0, "removed 0 answers, 0 bytes freed\n")
    assert [path for path in home.rglob("*") if path.is_file()] == []


def test_unknown_prices_are_no_savings_of_nothing(llmctl: Run, home: Path) -> None:
    """Where nobody knows the price of what was hit, the saving is unknown and not 0."""
    set_up(home, "    price: {input: 1, output: 2}\n", "")
    for _ in range(2):
        llmctl("ask", "x")
    stats = json.loads(llmctl("cache", "stats", "--json").stdout)
    assert (stats["hits"], stats["saved_usd"], stats["unpriced_hits"]) == (1, None, 1)
    assert "$?" in llmctl("cache", "stats").stdout


@pytest.mark.parametrize(
    ("flags", "left"),
    [
        (("--all",), 0),
        (("--older-than", "1h"), ROWS),
        (("--model", "gpt-5-mini"), 0),
        (("--model", "gpt-5"), ROWS),
        (("--max-size", "1"), 0),
    ],
)
def test_prune(
    llmctl: Run, rows: Path, cache: Path, sim: Simulator,
    flags: tuple[str, ...], left: int
) -> None:  # fmt: skip
    """What goes is said beforehand by `--dry-run`; then it is gone, from every byte, and the
    file shrinks; what stays still answers."""
    sim.reply = lambda call: f"canary {call.prompt} " + "x" * 100
    llmctl("batch", str(rows))
    with closing(sqlite3.connect(cache)) as db, db:
        db.execute("UPDATE answers SET model = 'gpt-5-mini-2026-05-01'")
    full = cache.stat().st_size
    plan = json.loads(llmctl("cache", "prune", *flags, "--dry-run", "--json").stdout)
    assert b"canary" in cache.read_bytes()
    done = llmctl("cache", "prune", *flags, "--json")
    assert done.returncode == 0, done.stderr
    freed = json.loads(done.stdout)
    assert (freed["entries"], plan["entries"]) == (ROWS - left, ROWS - left)
    assert (plan["dry_run"], freed["dry_run"], freed["wal_emptied"]) == (True, False, True)
    assert freed["bytes"] == full - cache.stat().st_size
    assert (freed["bytes"] > 0) == (left == 0)
    found = b"".join(p.read_bytes() for p in cache.parent.iterdir() if p.is_file())
    assert (b"canary" in found) == (left > 0)
    llmctl("batch", str(rows), "--restart")
    assert len(sim.calls) == 2 * ROWS - left


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ((), "--older-than 7d, --max-size 500MB, --model MODEL or --all"),
        (("--dry-run",), "say what to remove"),
        (("--all", "--model", "m"), "--all removes everything"),
        (("--older-than", "soon"), "--older-than wants a time such as 90m, 24h or 7d"),
        (("--max-size", "5 elephants"), "--max-size wants a size such as 500MB"),
    ],
)
def test_prune_wants_to_be_told_what(run: Run, flags: tuple[str, ...], says: str) -> None:
    """Without a choice, or with one that means nothing: exit 2 and a sentence."""
    done = run("cache", "prune", *flags)
    assert (done.returncode, done.stdout) == (2, "")
    assert says in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_damaged_cache_is_set_aside_and_pruned(llmctl: Run, cache: Path, sim: Simulator) -> None:
    """The run goes on with a warning; statistics say what is wrong; `--all` leaves no file that
    holds an answer."""
    llmctl("ask", "x")
    cache.write_bytes(b"rubbish" * 1000)
    stats = llmctl("cache", "stats")
    assert stats.returncode == 74
    assert "is damaged" in stats.stderr
    done = llmctl("ask", "x")
    assert (done.returncode, len(sim.calls)) == (0, 2)
    assert "set aside" in done.stderr
    assert list(cache.parent.glob("cache.db.damaged-*"))
    llmctl("cache", "prune", "--all")
    assert not list(cache.parent.glob("cache.db.damaged-*"))
    cache.write_bytes(b"rubbish" * 1000)
    assert llmctl("cache", "prune", "--all").returncode == 0
    assert llmctl("cache", "stats").returncode == 0
    assert not list(cache.parent.glob("cache.db.damaged-*"))


@pytest.mark.parametrize("way", ["ask", "batch", "stdin"])
def test_a_disabled_cache_leaves_no_prompt_on_the_disk(
    run: Run, configured: dict[str, str], tmp_path: Path, rows: Path, home: Path, way: str
) -> None:
    """`cache: {enabled: false}`: neither question nor answer is in any file but input and
    output; conversations are not kept either, unless the profile asks for that."""
    set_up(home, "    retry:", "    cache: {enabled: false}\n    retry:")
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    env = {**configured, "TMPDIR": str(scratch)}
    if way == "ask":
        run("ask", "canary hello", env=env)
    elif way == "batch":
        run("batch", str(rows), env=env)
    else:
        run("batch", "-", "-o", "-", env=env, stdin=rows.read_bytes())
    assert list(holding(tmp_path, b"canary")) == [
        path for path in (tmp_path / "in.jsonl", tmp_path / "in.out.jsonl") if path.exists()
    ]
    set_up(home, "    retry:", "    history: true\n    retry:")
    run("ask", "canary hello", env=env)
    assert home / ".local/state/llmctl/history.db" in holding(tmp_path, b"canary")


def holding(folder: Path, word: bytes) -> Iterator[Path]:
    """The files in which the word is."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return (path for path in files if word in path.read_bytes())


def test_the_configured_size_is_kept(
    llmctl: Run, home: Path, cache: Path, rows: Path, sim: Simulator
) -> None:
    """`cache: {max_size: …}` of the configuration: after a run the file is no larger, and the
    answers used last are there."""
    sim.reply = lambda call: f"{call.prompt} " * 200
    set_up(home, "default: sim", "cache: {max_size: 100kB}\ndefault: sim")
    many = write(rows, canaries(400))
    assert llmctl("batch", str(many)).returncode == 0
    assert cache.stat().st_size <= 100_000
    with closing(sqlite3.connect(cache)) as db:
        assert 0 < db.execute("SELECT count(*) FROM answers").fetchone()[0] < 400
