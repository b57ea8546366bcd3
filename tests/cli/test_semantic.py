"""The semantic cache, run as processes."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest

from tests.cli.jsonl import read, write
from tests.conftest import KEY, Run, configure
from tests.ledgers import calls_of
from tests.simulator.call import Call
from tests.simulator.server import Simulator

ONE, SAME = "How do I reset my password?", "how can I reset a password"
NEAR = "What are the steps to change the password?"
JUDGE = "    cache: {semantic: {mode: judge, judge: cheap, audit: AUDIT}}"


@pytest.fixture
def started(run: Run, environ: dict[str, str]) -> Run:
    """Run `llmctl`, not configured yet: see `set_up`."""
    return partial(run, env={**environ, "SIM_KEY": KEY})


def set_up(home: Path, sim: Simulator, cache: str) -> None:
    """A profile `sim` with this cache, and one `cheap` that judges."""
    judge = (
        f"  cheap: {{provider: openai, base_url: {sim.base_url}, model: gpt-5-nano, "
        "key: {env: SIM_KEY}, price: {input: 1, output: 2}}"
    )
    configure(home, sim.base_url, "{env: SIM_KEY}", f"{cache}\n{judge}")


def reply(call: Call, verdict: str) -> str:
    """What the judge says, and what the other model does."""
    assert call.ask is not None
    return verdict if call.ask.model == "gpt-5-nano" else f"answer to {call.ask.last}"


def test_strict(started: Run, home: Path, sim: Simulator) -> None:
    """A question of the same words gets the answer for nothing; the row, the line and `cache stats`
    say so."""
    set_up(home, sim, "    cache: {semantic: strict}")
    first = json.loads(started("ask", ONE, "--json").stdout)
    done = started("ask", SAME, "--json", "-u")
    again = json.loads(done.stdout)
    assert (first["cache"], again["cache"], again["text"]) == ("miss", "semantic", first["text"])
    assert (again["cache_score"], again["cache_source"]) == (1.0, first["call_id"])
    assert (again["cost_usd"], again["attempts"]) == (0, 0)
    assert "cache_score" not in first
    assert len(sim.calls) == 1
    paid, hit = calls_of(home)
    assert (hit["cache"], hit["cost_pico"]) == ("semantic", 0)
    assert hit["saved_pico"] == paid["cost_pico"] > 0
    stats = json.loads(started("cache", "stats", "--json").stdout)
    assert (stats["entries"], stats["hits"], stats["misses"]) == (1, 1, 1)
    assert stats["semantic"] == {
        "hits": 1, "judged": 0, "refused": 0, "audited": 0, "wrong": 0, "wrong_bound": None,
    }  # fmt: skip
    assert "wrong answers: not measured" in started("cache", "stats").stderr
    assert json.loads(started("cost", "report", "--json").stdout)["total"]["cached_calls"] == 1
    # Another user's command line says `semantic`, too.
    assert started("ask", SAME, "-u").stderr.splitlines()[-1].endswith("· semantic")


def test_a_judge(started: Run, home: Path, sim: Simulator) -> None:
    """Its verdict is a call of its own, which is paid for once; an audit measures what it is
    worth."""
    set_up(home, sim, JUDGE.replace("AUDIT", "0"))
    sim.reply = partial(reply, verdict="Yes.")
    started("ask", ONE)
    for _ in range(2):
        row = json.loads(started("ask", NEAR, "--json").stdout)
        assert (row["cache"], row["text"]) == ("semantic", f"answer to {ONE}")
        assert 0.3 < row["cache_score"] < 1
    found = sorted(
        (call["profile"], call["cache"], call["cost_pico"] > 0) for call in calls_of(home)
    )
    assert found == [
        ("cheap", "hit", False), ("cheap", "miss", True), ("sim", "miss", True),
        ("sim", "semantic", False), ("sim", "semantic", False),
    ]  # fmt: skip
    config = home / ".config/llmctl/config.yaml"
    said = config.read_text(encoding="utf-8")
    config.write_text(said.replace("audit: 0", "audit: 1"), encoding="utf-8")
    row = json.loads(started("ask", NEAR, "--json").stdout)
    assert (row["cache"], row["text"]) == ("miss", f"answer to {NEAR}")
    stats = json.loads(started("cache", "stats", "--json").stdout)["semantic"]
    assert (stats["hits"], stats["judged"], stats["audited"], stats["wrong"]) == (2, 3, 1, 0)
    assert stats["wrong_bound"] == pytest.approx(0.95)
    assert "at most 95.0% (95%; 0 of 1 audited)" in started("cache", "stats").stderr


@pytest.mark.parametrize("mode", ["strict", "{mode: judge, judge: cheap}"])
def test_rows_of_a_template_differ_by_their_fields(
    started: Run, home: Path, sim: Simulator, tmp_path: Path, mode: str
) -> None:
    """However alike they are: none gets another one's answer, for a judge that says no; one whose
    field says the same does."""
    set_up(home, sim, f"    cache: {{semantic: {mode}}}\n    limits: {{concurrency: 1}}")
    sim.reply = partial(reply, verdict="no")
    rows = [{"id": f"r{n}", "text": f"Where is the parcel {n} now?"} for n in range(40)]
    rows += [{"id": "same", "text": "where is parcel 7 now"}]
    source = write(tmp_path / "in.jsonl", rows)
    template = "What does the customer of our shop want of us here? {{ text }}"
    done = started("batch", str(source), "--template", template, "-o", str(tmp_path / "out.jsonl"))
    assert done.returncode == 0, done.stderr
    found = {row["id"]: row["cache"] for row in read(tmp_path / "out.jsonl")}
    assert [name for name, state in found.items() if state == "semantic"] == ["same"]
    assert len(found) == 41


def test_a_batch_without_known_fields_is_told(
    started: Run, home: Path, sim: Simulator, tmp_path: Path
) -> None:
    """Whole prompts may be of a template that nobody knows: no judge is asked of them."""
    set_up(home, sim, JUDGE.replace("AUDIT", "0") + "\n    limits: {concurrency: 1}")
    rows = [{"id": f"r{n}", "prompt": text} for n, text in enumerate((ONE, NEAR, SAME))]
    done = started(
        "batch", str(write(tmp_path / "in.jsonl", rows)), "-o", str(tmp_path / "out.jsonl")
    )
    assert [row["cache"] for row in read(tmp_path / "out.jsonl")] == ["miss", "miss", "semantic"]
    assert done.stderr.count("--template") == 1
    assert {call.ask.model for call in sim.calls if call.ask} == {"gpt-5-mini"}


def test_a_template_without_known_fields_is_refused(
    started: Run, home: Path, sim: Simulator, tmp_path: Path
) -> None:
    """Rows that differ in words which say nothing elsewhere are not sent, nor planned; the ways out
    that are told are ways out, and give no row another one's answer."""
    set_up(home, sim, "    cache: {semantic: strict}")
    sim.reply = partial(reply, verdict="")
    task = "You read letters to our shop; say in one word what is the part of speech of this word"
    words = ("it", "is", "the", "a", "have", "can")
    whole = [{"id": word, "prompt": f"{task}: {word}"} for word in words]
    source = write(tmp_path / "in.jsonl", whole)
    for flags in ([], ["--dry-run"]):
        done = started("batch", str(source), "-o", str(tmp_path / "out.jsonl"), *flags)
        assert (done.returncode, sim.calls) == (2, []), done.stderr
        assert "6 rows share the words" in done.stderr
        assert "--template" in done.stderr
    assert not (tmp_path / "out.jsonl").exists()

    fields = write(tmp_path / "fields.jsonl", [{"id": word, "word": word} for word in words])
    config = home / ".config/llmctl/config.yaml"
    for file, more in ((source, "--no-cache"), (fields, f"--template={task}: {{{{ word }}}}")):
        output = tmp_path / f"{file.stem}.out.jsonl"
        done = started("batch", str(file), "-o", str(output), more)
        assert done.returncode == 0, done.stderr
        assert {row["id"]: row["text"] for row in read(output)} == {
            word: f"answer to {task}: {word}" for word in words
        }
    assert started("batch", str(source), "--dry-run", "--template={{ prompt }}").returncode == 0
    config.write_text(config.read_text().replace("strict", "off"))
    done = started("batch", str(source), "-o", str(tmp_path / "off.jsonl"))
    assert done.returncode == 0, done.stderr
    assert {row["cache"] for row in read(tmp_path / "off.jsonl")} == {"hit"}


def test_a_template_is_known_where_another_profile_has_the_cache(
    started: Run, home: Path, sim: Simulator, tmp_path: Path
) -> None:
    """The one that a route leads to compares the fields, too."""
    set_up(home, sim, "    route: {cheap: small, rules: [{when: {matches: word}, to: small}]}")
    config = home / ".config/llmctl/config.yaml"
    small = "\n  small: {extends: cheap, cache: {semantic: strict}, limits: {concurrency: 1}}\n"
    config.write_text(config.read_text() + small)
    rows = write(tmp_path / "in.jsonl", [{"id": word, "word": word} for word in ("it", "is")])
    template = "--template=What is the part of speech of this word: {{ word }}"
    done = started("batch", str(rows), template, "--concurrency", "1")
    assert done.returncode == 0, done.stderr
    found = read(tmp_path / "in.out.jsonl")
    assert [(row["profile"], row["cache"]) for row in found] == [("small", "miss")] * 2


@pytest.mark.parametrize(
    ("cache", "said"),
    [
        ("{semantic: loose}", 'cache.semantic must be strict or judge or off, not "loose"'),
        ("{semantic: judge}", "cache.semantic needs the name of a profile that judges"),
        ("{semantic: {mode: judge, judge: cheep}}", 'did you mean "cheap"'),
        ("{semantic: {mode: strict, audit: 2}}", "a number from 0 to 1"),
        ("{semantic: {mode: strict, scop: all}}", "scope"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(
    started: Run, home: Path, sim: Simulator, cache: str, said: str
) -> None:
    """File, line and key, before anything is sent."""
    set_up(home, sim, f"    cache: {cache}")
    done = started("ask", ONE)
    assert done.returncode == 2
    assert "config.yaml:11" in done.stderr
    assert said in done.stderr
    assert sim.calls == []


def test_a_judge_needs_its_extra(
    started: Run, home: Path, sim: Simulator, tmp_path: Path, environ: dict[str, str]
) -> None:
    """Without the package that makes vectors it is said how to get it, and nothing is sent."""
    set_up(home, sim, JUDGE.replace("AUDIT", "0"))
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    (hidden / "sitecustomize.py").write_text(
        "import importlib.util as u\n"
        "find = u.find_spec\n"
        "u.find_spec = lambda n, p=None: None if n == 'wordllama' else find(n, p)\n",
        encoding="utf-8",
    )
    env = {**environ, "SIM_KEY": KEY, "PYTHONPATH": str(hidden)}
    done = started("ask", ONE, env=env)
    assert done.returncode not in {0, 1}
    assert "wordllama is not installed" in done.stderr
    assert "extra `semantic`" in done.stderr
    assert sim.calls == []


def test_show(started: Run, home: Path, sim: Simulator) -> None:
    """`profiles show` prints what can be put into a file again."""
    set_up(home, sim, "    cache: {semantic: strict}")
    shown = started("profiles", "show", "sim").stdout
    assert "semantic:" in shown
    assert "mode: strict" in shown
    assert "judge" not in shown
