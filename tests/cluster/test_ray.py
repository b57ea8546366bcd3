"""`batch --engine ray`: the installed command, two real Ray nodes, a provider on loopback."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from tests.cli.jsonl import prompts, read, write
from tests.cluster.two_nodes import TwoNodes
from tests.conftest import KEY, Run, ledger
from tests.simulator.call import Call
from tests.simulator.errors import rate_limited
from tests.simulator.fault import Fault
from tests.simulator.reply import Reply, Usage
from tests.simulator.server import Simulator
from tests.torture.judge import Arena, arena, kill

_IN_FLIGHT = 20  # calls on each node

EMAIL = "ann.canary@example.org"


def on(nodes: TwoNodes, world: Arena, *more: str) -> list[str]:
    """The command of an arena, on the nodes."""
    return [*world.batch, "--engine", "ray", "--address", nodes.address, *more]


def until(holds: Callable[[], bool], seconds: float = 30.0) -> None:
    """Return when it holds; AssertionError after the deadline."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_two_nodes_answer_one_file(
    batch: Run, nodes: TwoNodes, sim: Simulator, tmp_path: Path, home: Path
) -> None:
    """Both nodes answer rows with the key that only they have, the driver writes them, and the
    ledger has what the provider billed. A hundred identical rows are billed once. Neither the key
    nor what was masked is in a file of Ray's."""
    config = home / ".config/llmctl/config.yaml"
    config.write_text(config.read_text() + "    privacy: {mask: [email]}\n")
    sim.latency = 0.5  # so that the nodes meet the identical rows at the same time
    same = [{"id": f"s{n}", "prompt": "the same"} for n in range(100)]
    other = [{"id": f"m{n}", "prompt": f"write {n} to {EMAIL}"} for n in range(10)]
    write(tmp_path / "in.jsonl", [*same, *prompts(90), *other])
    done = batch("--json")
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert (summary["ok"], summary["requests"], len(summary["nodes"])) == (200, 101, 2)
    assert min(summary["nodes"].values()) > 20
    assert "2 nodes" in done.stderr
    texts = {row["id"]: row["text"] for row in read(tmp_path / "in.out.jsonl")}
    assert len(texts) == 200
    assert texts["m3"] == f"echo: write 3 to {EMAIL}"
    billed = Counter(call.ask.last for call in sim.calls if call.ask)
    assert max(billed.values()) == 1, billed.most_common(3)
    assert {call.headers["authorization"] for call in sim.calls} == {f"Bearer {KEY}"}
    assert not any(EMAIL.encode() in call.raw for call in sim.calls)
    assert len([row for row in ledger(home) if row["cost_pico"]]) == len(sim.calls) == 101
    for file in nodes.logs.parent.rglob("*"):
        data = file.read_bytes() if file.is_file() else b""
        assert KEY.encode() not in data, file
        assert EMAIL.encode() not in data, file


def test_a_budget_is_one_for_all_nodes(nodes: TwoNodes) -> None:
    """Two nodes with a hundred calls in flight each bill no more than the budget, and use it up to
    less than a call may cost."""
    with arena(400, concurrency=100, latency=0.05) as world:

        def all_that_is_allowed(call: Call) -> Reply:
            return Reply(f"echo: {call.ask.last if call.ask else ''}", usage=Usage(5, 100))

        world.sim.reply = all_that_is_allowed
        done = world.run(on(nodes, world, "--budget", "0.04"))
        assert done.returncode == 3, done.stderr
        verdict = world.judge()
        spent = verdict.billed * 205e-6
        assert 0.04 - 0.0003 < spent <= 0.04, verdict


def test_nothing_is_lost_with_a_node_or_the_governor(nodes: TwoNodes) -> None:
    """The governor is killed, then a node: all rows are answered, at most what was in flight on
    the node is billed again, and the ledger covers every bill. While there is no governor nothing
    is sent, and it goes on soon."""
    with arena(400, concurrency=_IN_FLIGHT, latency=0.2) as world:
        process = world.start(on(nodes, world, "--budget", "1"))
        world.sim.wait_for_calls(60, timeout=30)
        assert nodes.ask("governor") == 1
        killed = time.monotonic()
        world.sim.wait_for_calls(60 + 4 * _IN_FLIGHT, timeout=30)
        quiet = max(
            later.received - earlier.received
            for earlier, later in zip(world.sim.calls, world.sim.calls[1:], strict=False)
            if later.received > killed
        )
        nodes.ask("kill")
        _, said = process.communicate(timeout=60)
        nodes.ask("add")
        assert process.returncode == 0, said
        assert b"is lost" in said
        verdict = world.judge()
        print(f"without a governor: {quiet:.2f} s; {verdict}")
        assert verdict.answered == 400
        assert verdict.rebilled <= _IN_FLIGHT
        assert quiet < 15
        with closing(sqlite3.connect(world.state / "ledger.db")) as db:
            spent = db.execute("SELECT sum(cost_pico) FROM calls").fetchone()
            assert db.execute("SELECT spent_pico, held_pico FROM windows").fetchall() == [
                (*spent, 0)
            ]


def test_the_same_command_goes_on(nodes: TwoNodes) -> None:
    """Ctrl-C lets what is in flight end; a driver that is killed leaves no actor behind. The same
    command goes on, under its own limits, and bills at most again what was in flight."""
    with arena(300, concurrency=_IN_FLIGHT, latency=0.1) as world:
        process = world.start(on(nodes, world, "--rpm", "600"))
        world.sim.wait_for_calls(30, timeout=30)
        process.send_signal(2)
        _, said = process.communicate(timeout=40)
        assert process.returncode == 130, said
        world.settle_down()
        assert len(world.answered()) == len(world.sim.calls) < 200
        process = world.start(on(nodes, world, "--rpm", "600"))
        world.sim.wait_for_calls(len(world.sim.calls) + 30, timeout=30)
        kill(process)
        until(lambda: nodes.ask("actors") == 0)
        before = len(world.sim.calls)
        done = world.run(on(nodes, world))
        assert done.returncode == 0, done.stderr
        verdict = world.judge()
        assert verdict.answered == 300
        assert verdict.rebilled <= 2 * _IN_FLIGHT
        rest = [call.received for call in world.sim.calls[before:]]
        assert len(rest) / (rest[-1] - rest[0]) > 600 / 60 * 2


def test_one_refusal_pauses_all_nodes(nodes: TwoNodes) -> None:
    """A 429 that one node gets holds back the other one, too, for as long as it says."""
    refused: list[float] = []

    def once(call: Call) -> Fault | None:
        if call.index != 60:
            return None
        refused.append(time.monotonic())
        return rate_limited(2)

    with arena(200, concurrency=_IN_FLIGHT, latency=0.1, fault=once) as world:
        done = world.run(on(nodes, world))
        assert done.returncode == 0, done.stderr
        assert world.judge().answered == 200
        after = [call.received - refused[0] for call in world.sim.calls[61:]]
        assert not [seconds for seconds in after if 0.5 < seconds < 1.9]
        assert len([seconds for seconds in after if seconds >= 1.9]) > 80


def test_what_cannot_be_answered_on_nodes_is_refused(
    batch: Run, home: Path, tmp_path: Path
) -> None:
    """A semantic cache, what may be a key in an address, and a cluster that is not there: exit code
    2, with what to do, and nothing was sent."""
    config = home / ".config/llmctl/config.yaml"
    write(tmp_path / "in.jsonl", prompts(1))
    done = batch("--address", "127.0.0.1:9")
    assert (done.returncode, "no Ray cluster can be joined" in done.stderr) == (2, True)
    plain = config.read_text()
    for more, said in (
        ("cache: {semantic: strict}", "has a semantic cache"),
        ("query: {code: 0123456789}", "may be a key (query: code)"),
    ):
        config.write_text(f"{plain}    {more}\n")
        done = batch()
        assert (done.returncode, said in done.stderr) == (2, True), done.stderr


def test_a_node_without_the_key_is_named(batch: Run, home: Path, tmp_path: Path) -> None:
    """A node that lacks the key ends the run with exit code 4, before anything is sent, and is
    named."""
    config = home / ".config/llmctl/config.yaml"
    config.write_text(config.read_text().replace("SIM_KEY", "OTHER_KEY"))
    write(tmp_path / "in.jsonl", prompts(3))
    done = batch()
    assert done.returncode == 4
    assert "error: node 127.0.0.1/" in done.stderr
    assert "$OTHER_KEY is not set" in done.stderr


def test_without_ray(tmp_path: Path, environ: dict[str, str]) -> None:
    """Where ray is not installed the command says how to get it, and ends with exit code 2; options
    of the engine are refused without it."""
    write(tmp_path / "in.jsonl", prompts(1))
    program = "import sys; sys.modules['ray'] = None; from llmctl.cli.app import main; main()"

    def asked(*more: str) -> subprocess.CompletedProcess[str]:
        words = [sys.executable, "-c", program, "batch", "in.jsonl", *more]
        return subprocess.run(
            words, cwd=tmp_path, env=environ, capture_output=True, text=True, check=False
        )

    done = asked("--engine", "ray")
    assert done.returncode == 2
    assert "ray is not installed: `pip install ray`" in done.stderr
    for words, said in (
        (("--nodes", "2"), "--nodes goes with --engine ray"),
        (("--address", "auto"), "--address goes with --engine ray"),
        (("--engine", "ray", "--warm"), "leave one of --warm and --engine ray out"),
    ):
        done = asked(*words)
        assert (done.returncode, said in done.stderr) == (2, True), done.stderr
