"""The judge of every run: a home with a batch in it, a provider that counts what it bills, and
what must hold of both afterwards, whatever was done in between."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.conftest import LLMCTL
from tests.simulator.call import Call
from tests.simulator.reply import Reply, Usage
from tests.simulator.server import Simulator

READ, WROTE = 1, 2
"""US dollars per million tokens in and out; so a token costs a million picodollars of these."""

MOST = 100
"""Tokens that an answer may have at most, and so what is held for one."""

_PICO = 10**6
_IN_DOUBT = {"unknown", "interrupted", "cancelled"}


class UnableError(Exception):
    """The run cannot be made on this machine; says why."""


@dataclass(frozen=True, slots=True)
class Size:
    """How much of a run is made: all that TORTURE asks for, or what CI affords."""

    full: bool = False
    seed: int = 1

    def of(self, small: int, full: int) -> int:
        """The number for this size."""
        return full if self.full else small


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of a batch. `rebilled`: bills beyond the first for one question; `doubtful`:
    how many bills the ledger says may exist without having seen them."""

    answered: int
    failed: int
    requests: int
    rebilled: int
    billed: int
    settled: int
    doubtful: int

    def __str__(self) -> str:
        """The figures that every line ends with."""
        return (
            f"billed {self.billed:,} = settled {self.settled:,} + "
            f"{self.billed - self.settled:,} of {self.doubtful:,} in doubt"
        )


class Arena:
    """A home of its own with a profile that points at `sim`, and `count` rows in `in.jsonl`.

    `knobs` are further YAML lines of the profile. State, cache and output may be moved by
    assigning `state`, `cache` and `output` before anything runs.
    """

    def __init__(
        self, folder: Path, sim: Simulator, count: int, *, concurrency: int = 8, knobs: str = ""
    ) -> None:
        self.folder = folder
        self.sim = sim
        self.concurrency = concurrency
        self.home = folder / "home"
        self.state = self.home / ".local/state/llmctl"
        self.cache = self.home / ".cache/llmctl"
        self.input = folder / "in.jsonl"
        self.output = folder / "in.out.jsonl"
        self.prompts = {f"r{n}": f"say {n}" for n in range(count)}
        rows = [{"id": name, "prompt": text} for name, text in self.prompts.items()]
        self.input.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        self.configure(knobs)

    def configure(self, knobs: str = "", base_url: str | None = None) -> None:
        """Write the configuration anew."""
        lines = {
            "provider": "openai",
            "base_url": base_url or self.sim.base_url,
            "model": "m",
            "key": "{env: SIM_KEY}",
            "price": f"{{input: {READ}, output: {WROTE}}}",
            "params": f"{{max_tokens: {MOST}}}",
            "limits": f"{{concurrency: {self.concurrency}}}",
            "retry": "{max_wait: 0.01}",
        }
        for line in filter(None, map(str.strip, knobs.splitlines())):
            name, _, value = line.partition(": ")
            lines[name] = value
        path = self.home / ".config/llmctl/config.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        profile = "".join(f"    {name}: {value}\n" for name, value in lines.items())
        path.write_text(f"default: sim\nprofiles:\n  sim:\n{profile}", encoding="utf-8")

    @property
    def environ(self) -> dict[str, str]:
        """A fresh login's, with the key."""
        names = ("PATH", "LANG", "TMPDIR", "PYTHONPATH")
        kept = {name: os.environ[name] for name in names if name in os.environ}
        return {
            **kept,
            "HOME": str(self.home),
            "SIM_KEY": "sk-torture",
            "LLMCTL_STATE_DIR": str(self.state),
            "LLMCTL_CACHE_DIR": str(self.cache),
            "PYTHONWARNINGS": "error",
        }

    @property
    def errors(self) -> Path:
        """The file of the rows that failed."""
        return self.output.with_suffix(".errors.jsonl")

    @property
    def batch(self) -> list[str]:
        """The command."""
        return [str(LLMCTL), "batch", str(self.input), "-o", str(self.output), "-q"]

    def start(self, command: Sequence[str], **changes: Any) -> subprocess.Popen[bytes]:
        """The command in a process group of its own."""
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        given: dict[str, Any] = {"env": self.environ, "cwd": self.folder, **pipes, **changes}
        return subprocess.Popen(command, start_new_session=True, **given)

    def run(
        self, command: Sequence[str] | None = None, *, timeout: float = 900.0, **changes: Any
    ) -> subprocess.CompletedProcess[str]:
        """The command (the batch) to its end; ended with all its children after `timeout` s."""
        process = self.start(command or self.batch, **changes)
        try:
            out, err = process.communicate(timeout=timeout)
        except BaseException:
            kill(process)
            raise
        return subprocess.CompletedProcess(
            process.args, process.returncode, (out or b"").decode(), (err or b"").decode()
        )

    def settle_down(self, timeout: float = 30.0) -> None:
        """Return when the provider has nothing in flight: it bills those who left, too."""
        self.sim.wait_until(lambda: self.sim.record.in_flight == 0, timeout)

    def answered(self) -> list[dict[str, Any]]:
        """The records of the output; a half line at its end, of a process that died, is none."""
        return _records(self.output, torn=True)

    def missing(self) -> set[str]:
        """The prompts that were billed and have no answer in the output: they will be billed
        again."""
        billed = {call.ask.last for call in self.sim.calls if call.billed and call.ask}
        return billed - {self.prompts[record["id"]] for record in self.answered()}

    def judge(self, *, ended: bool = True) -> Verdict:
        """Look at everything; AssertionError says what does not hold.

        `ended`: the last command ended on its own, so that every row has its record.
        """
        self.settle_down()
        wanted = Counter(list(self.prompts))
        answers, failures = _records(self.output), _records(self.errors)
        keys = Counter(record["id"] for record in (*answers, *failures))
        double = [key for key, times in keys.items() if times > 1]
        assert not double, f"{len(double)} keys twice: {double[:5]}"
        assert not keys - wanted, f"rows nobody asked for: {sorted(keys - wanted)[:5]}"
        lost = wanted - keys
        assert not (ended and lost), f"{len(lost)} rows lost: {sorted(lost)[:5]}"
        for record in answers:
            said = f"echo: {self.prompts[record['id']]}"
            assert record["text"] == said, f"{record['id']}: {record['text']!r}, not {said!r}"
        sound(self.state / "ledger.db")
        if (self.cache / "cache.db").exists():
            sound(self.cache / "cache.db")
        verdict = Verdict(
            len(answers),
            len(failures),
            self.sim.record.requests,
            self.sim.billed.repeated,
            *reconcile(self.state / "ledger.db", self.sim.calls),
        )
        assert verdict.billed == self.sim.billed.requests
        return verdict


@contextlib.contextmanager
def arena(count: int, *, concurrency: int = 8, knobs: str = "", **sim: Any) -> Iterator[Arena]:
    """An arena in a folder that is removed afterwards; `sim` are the simulator's knobs."""
    with (
        tempfile.TemporaryDirectory(prefix="llmctl-torture-") as folder,
        Simulator(**sim) as simulator,
    ):
        simulator.reply = echo
        yield Arena(Path(folder), simulator, count, concurrency=concurrency, knobs=knobs)


def echo(call: Call) -> Reply:
    """Answer `echo: ` and the question, billed at more than anybody could count of it."""
    return Reply(f"echo: {call.ask.last if call.ask else ''}", usage=Usage(5, MOST - 1))


def reconcile(ledger: Path, calls: Sequence[Call]) -> tuple[int, int, int]:
    """Hold the ledger against the provider's bill, call by call.

    Every settled row names, by the provider's own request id, one bill, of the same tokens, and
    no bill is settled twice. Every other bill is one of those that the ledger has in doubt: an
    `unknown` row, an attempt marked uncertain. Their worst case covers what they cost. No hold is
    left open. Gives how many were billed, settled, in doubt.
    """
    bills = {f"req_{call.index:08d}": call for call in calls if call.billed is not None}
    rows = _rows(ledger, "SELECT * FROM calls")
    settled: set[str] = set()
    doubtful = covered = 0
    for row in rows:
        doubtful += row["uncertain"]
        covered += row["uncertain_pico"] or 0
        if row["status"] in _IN_DOUBT and row["attempts"] != 0:
            doubtful += row["status"] == "unknown"
            covered += row["cost_pico"] or 0
        if row["status"] != "ok" or row["cache"] in {"hit", "shared"}:
            continue
        name = row["provider_request_id"]
        assert name in bills, f"settled, but never billed: {dict(row)}"
        assert name not in settled, f"settled twice: {dict(row)}"
        settled.add(name)
        usage = bills[name].billed
        assert usage is not None
        assert (row["input_tokens"], row["output_tokens"]) == (usage.input, usage.output), name
        assert row["cost_pico"] == _cost(bills[name]), name
    open_holds = _rows(ledger, "SELECT * FROM holds")
    assert not open_holds, f"{len(open_holds)} holds of ended processes are open"
    rest = [call for name, call in bills.items() if name not in settled]
    assert len(rest) <= doubtful, f"{len(rest)} bills the ledger has not seen, {doubtful} in doubt"
    unseen = sum(map(_cost, rest))
    assert unseen <= covered, f"{unseen} picodollars not seen, {covered} said to be in doubt"
    return len(bills), len(settled), doubtful


def overdue(world: Arena, total: float) -> float:
    """The most seconds beyond its deadline (`total` seconds an attempt) that an answer came, a row
    took, or the provider was left at; 0 when none was late."""
    query = "SELECT latency_ms / 1000.0 AS one, elapsed_ms / 1000.0 AS took, attempts FROM calls"
    late = [
        call.ended - call.received - total
        for call in world.sim.calls
        if call.outcome == "abandoned" and call.ended is not None
    ]
    for row in _rows(world.state / "ledger.db", query):
        late.append((row["one"] or 0.0) - total)
        late.append((row["took"] or 0.0) - total * (row["attempts"] or 1))
    return max(0.0, *late)


def sound(database: Path) -> None:
    """Hold the file to `PRAGMA integrity_check`."""
    verdict = _rows(database, "PRAGMA integrity_check")
    assert [tuple(row) for row in verdict] == [("ok",)], [tuple(row) for row in verdict][:5]


def kill(process: subprocess.Popen[bytes]) -> None:
    """`kill -9` the whole process group, and bury it."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=30)


def _records(path: Path, *, torn: bool = False) -> list[dict[str, Any]]:
    records = []
    lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
    for number, line in enumerate(lines, 1):
        if not line.endswith(b"\n"):
            assert torn, f"{path.name}:{number} is half a line: {line[:80]!r}"
            break
        try:
            records.append(json.loads(line))
        except ValueError as error:
            raise AssertionError(f"{path.name}:{number} does not parse: {error}") from error
    return records


def _rows(path: Path, query: str, *values: str) -> list[sqlite3.Row]:
    with contextlib.closing(sqlite3.connect(path, timeout=30)) as connection:
        connection.row_factory = sqlite3.Row
        return connection.execute(query, values).fetchall()


def _cost(call: Call) -> int:
    assert call.billed is not None
    return (call.billed.input * READ + call.billed.output * WROTE) * _PICO
