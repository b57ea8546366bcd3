"""The queue of `degrade:`: what an outage keeps, and how it is answered afterwards."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from llmctl.storage.call_queue import CallQueuePeek, QueuedCall
from tests.cli.jsonl import prompts, read, write
from tests.cli.terminal import on_a_terminal
from tests.cli.test_masking import MAIL, STORE_KEY, on_disk
from tests.conftest import KEY, LLMCTL, Run, configure, ledger, sent
from tests.simulator import errors
from tests.simulator.call import Call
from tests.simulator.fault import Fault
from tests.simulator.server import Simulator


@dataclass
class World:
    """A home whose profile `sim` queues calls, and its provider, which is down."""

    home: Path
    sim: Simulator
    run: Run
    environ: Mapping[str, str]
    folder: Path
    lines: dict[str, str] = field(default_factory=dict)

    def configure(self, tail: str = "", **lines: str) -> None:
        """Write the configuration: lines of the profile, and what follows it."""
        file = self.home / ".config/llmctl/config.yaml"
        if not file.exists():
            configure(self.home, self.sim.base_url, "{env: SIM_KEY}")
        own = {"retry": "{attempts: 1}", "price": "{input: 1, output: 2}", "degrade": "[queue]"}
        self.lines = {**own, **self.lines, **lines}
        said = file.read_text().partition("    retry:")[0]
        written = "".join(f"    {name}: {value}\n" for name, value in self.lines.items())
        file.write_text(f"{said}{written}{tail}")

    @property
    def environment(self) -> dict[str, str]:
        """What every command gets."""
        return {**self.environ, "SIM_KEY": KEY, "LLMCTL_STORE_KEY": STORE_KEY}

    def __call__(self, *arguments: str) -> CompletedProcess[str]:
        """Run `llmctl` in the world's folder."""
        return self.run(*arguments, env=self.environment, cwd=self.folder)

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        """Start `llmctl` there."""
        return subprocess.Popen(
            [str(LLMCTL), *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=self.environment,
            cwd=self.folder,
        )

    def rows(self, number: int) -> None:
        """Queue the rows of a new batch."""
        write(self.folder / "in.jsonl", prompts(number))
        done = self("batch", "in.jsonl", "--json")
        assert done.returncode == 6, done.stderr
        assert json.loads(done.stdout)["queued"] == number

    @property
    def queue(self) -> list[QueuedCall]:
        """What is queued."""
        with CallQueuePeek(self.home / ".local/state/llmctl/queue.db") as queue:
            return queue.calls()

    @property
    def answered(self) -> list[str]:
        """The ids of the output's rows, sorted."""
        return sorted(row["id"] for row in read(self.folder / "in.out.jsonl"))


@pytest.fixture
def world(home: Path, sim: Simulator, run: Run, environ: dict[str, str], tmp_path: Path) -> World:
    """A world whose provider is down."""
    made = World(home, sim, run, environ, tmp_path)
    made.configure()
    sim.fault = errors.server_error()
    return made


def names(number: int) -> list[str]:
    """The ids of so many rows, sorted."""
    return sorted(row["id"] for row in prompts(number))


def test_a_question_is_kept_and_answered_later(world: World) -> None:
    """`ask` ends with 6, the call's id and the static text; a run in the outage asks once and
    leaves it, with 6; a later one prints the answer, and `ask -c` goes on from it."""
    world.configure(degrade="[{static: come back later}, queue]")
    done = world("ask", "what is it?")
    assert (done.returncode, done.stdout) == (6, "come back later")
    before = world.sim.record.requests
    still = world("queue", "run")
    assert (still.returncode, still.stdout) == (6, "")
    assert world.sim.record.requests == before + 1
    (kept,) = json.loads(world("queue", "list", "--json").stdout)
    assert kept["id"] in done.stderr
    said = [kept[name] for name in ("command", "profile", "state", "attempts", "error")]
    assert said == ["ask", "sim", "waiting", 1, "server"]
    world.sim.fault = None
    done = world("queue", "run")
    assert (done.returncode, done.stdout) == (0, "echo: what is it?\n"), done.stderr
    assert "1 answered, 0 failed, 0 queued" in done.stderr
    assert world("ask", "-c", "and now?").returncode == 0
    turns = [turn["content"] for turn in sent(world.sim, -1)["messages"]]
    assert turns == ["what is it?", "echo: what is it?", "and now?"]


def test_the_same_batch_asks_no_queued_row_twice(world: World) -> None:
    """In the outage its rows stay queued, once each, and have no error lines; when the provider is
    back the command answers them itself, and the queue is empty."""
    world.rows(20)
    assert not (world.folder / "in.out.errors.jsonl").exists()
    done = world("batch", "in.jsonl")
    assert done.returncode == 6
    assert "20 queued" in done.stderr
    assert len(world.queue) == 20
    world.sim.fault = None
    assert world("batch", "in.jsonl", "-q").returncode == 0
    assert (world.answered, world.sim.billed.requests) == (names(20), 20)
    assert world.queue == []


def test_a_killed_run_is_gone_on_with_and_no_herd_meets_the_provider(world: World) -> None:
    """100 rows are queued, and `queue run` is killed with ten in hand: the next one answers each
    row once, ten are billed twice at most, and after one call that finds out there are never more
    than the profile's ten at a time. The batch has nothing left to send."""
    world.configure(limits="{concurrency: 10}", cache="{enabled: false}", history="true")
    world.rows(100)
    world.sim.fault = None
    world.sim.record.max_in_flight = 0

    def reply(call: Call) -> str:
        if world.sim.billed.requests == 30:
            world.sim.hold("billed")
        return f"echo: {call.ask.last if call.ask else ''}"

    world.sim.reply = reply
    process = world.start("queue", "run")
    world.sim.wait_until(lambda: world.sim.record.in_flight == 10, timeout=60)
    assert sum(call.in_hand for call in world.queue) == 10
    process.kill()
    process.communicate()
    world.sim.release()
    world.sim.wait_until(lambda: world.sim.record.in_flight == 0)
    first, number = len(world.sim.calls), world.sim.billed.requests
    world.sim.latency = 0.02
    done = world("queue", "run", "--json")
    assert done.returncode == 0, done.stderr
    assert world.answered == names(100)
    assert world.sim.billed.requests <= 110
    summary = json.loads(done.stderr.splitlines()[-1])
    assert summary["answered"] == world.sim.billed.requests - number
    probe, second = world.sim.calls[first], world.sim.calls[first + 1]
    assert probe.ended is not None
    assert probe.ended <= second.received
    assert world.sim.record.max_in_flight <= 10
    assert world("batch", "in.jsonl").returncode == 0
    assert (world.answered, world.queue) == (names(100), [])
    settled = [call for call in ledger(world.home) if call["status"] == "ok"]
    doubtful = [call for call in ledger(world.home) if call["status"] == "unknown"]
    assert len(settled) + len(doubtful) >= world.sim.billed.requests


def test_what_is_refused_later_stays_or_fails(world: World) -> None:
    """Above a budget calls are not sent (exit 3), and with a key that is refused no other is tried
    (4): both wait on, but for one that was removed. `--watch` asks again when the breaker's time is
    over, and ends when nothing is queued: a row that the provider refuses has its error line (1).
    """
    world.configure(breaker="{open_for: 1}")
    world.rows(4)
    (removed,) = (call for call in world.queue if call.row == "r3")
    assert world("queue", "remove", removed.id).stdout == "removed 1 call\n"
    world.sim.fault = None
    over = world("queue", "run", "--budget", "0.000001")
    assert (over.returncode, world.sim.billed.requests) == (3, 0)
    world.sim.accept_keys(["another"])
    before = world.sim.record.requests
    refused = world("queue", "run")
    assert (refused.returncode, world.sim.record.requests) == (4, before + 1)
    world.sim.accept_keys(None)
    world.sim.fault = errors.server_error()
    process = world.start("queue", "run", "--watch")
    world.sim.wait_for_calls(before + 3, timeout=60)

    def refuse(call: Call) -> Fault | None:
        return errors.status(400) if call.ask and call.ask.last == "say 1" else None

    world.sim.fault = refuse
    _, said = process.communicate(timeout=60)
    assert process.returncode == 1, said
    assert world.answered == ["r0", "r2"]
    failed = read(world.folder / "in.out.errors.jsonl")
    assert [(row["id"], row["error"]["type"]) for row in failed] == [("r1", "invalid_request")]
    assert world.queue == []
    assert b"asking again every 1 s" in said
    (files,) = re.findall("2 answered, 1 failed, 0 queued → (.*) ·", said.decode())
    assert sorted(files.split(", ")) == ["in.out.errors.jsonl", "in.out.jsonl"]


def test_the_list_is_one_line_a_call(world: World) -> None:
    """At 80 columns, in the order of INPUT, with an ID that `queue remove` takes; of a profile of
    which nothing waits, or that is not there, that is said."""
    world.folder = world.folder / "a-folder-with-a-name" / "and-another-one-inside-it"
    world.folder.mkdir(parents=True)
    world.configure(limits="{concurrency: 1}")
    world.rows(9)
    above, environ = world.folder.parent, {**world.environment, "TERM": "xterm", "NO_COLOR": "1"}
    code, shown, _ = on_a_terminal(environ, above, "queue", "list", streams=["stdout"])
    head, *lines = shown.decode().replace("\r", "").splitlines()
    assert (code, head.split()[0], len(lines)) == (0, "ID", 9)
    assert max(map(len, lines)) <= 80
    assert re.findall(r"row (\w+)", shown.decode()) == [f"r{number}" for number in range(9)]
    assert all("…" in line for line in lines)
    assert world("queue", "remove", lines[4].split()[0]).stdout == "removed 1 call\n"
    assert "r4" not in [call.row for call in world.queue]
    for command in ("run", "list"):
        unknown = world("queue", command, "-p", "simm")
        assert (unknown.returncode, 'did you mean "sim"?' in unknown.stderr) == (2, True)
        other = world("queue", command, "-p", "openai")
        assert (other.returncode, other.stderr) == (0, "nothing of openai is queued (8 of sim)\n")
    both = world("queue", "remove", "--older-than", "1w", "--all")
    assert (both.returncode, "choose one of them: " in both.stderr) == (2, True)


def test_what_is_private_is_queued_encrypted_or_not_at_all(world: World) -> None:
    """Without encryption the outage stays one (5), with the reason; with it no word of a question
    with masked identifiers is on the disk, and its answer comes back with them."""
    world.configure(history="false", privacy="{mask: [email]}")
    done = world("ask", f"canary {MAIL}")
    assert done.returncode == 5
    assert "it is not queued: " in done.stderr
    world.configure(tail="store: {encrypt: true}\n")
    assert world("ask", f"canary {MAIL}").returncode == 6
    held = on_disk(world.home)
    assert (b"canary" in held, MAIL.encode() in held) == (False, False)
    world.sim.fault = None
    done = world("queue", "run", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["text"] == f"echo: canary {MAIL}"
    assert MAIL.encode() not in world.sim.calls[-1].raw
