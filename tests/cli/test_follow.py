"""`llmctl batch --follow`: rows that are appended to INPUT while it runs, and their priority."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.jsonl import prompts, read, write
from tests.cli.members import Members, ended, members, wait_until
from tests.cli.terminal import on_a_terminal
from tests.conftest import Run
from tests.simulator.server import Simulator

FOLLOW = ("batch", "in.jsonl", "--follow", "--json", "--concurrency", "2")


@pytest.fixture
def group(tmp_path: Path, configured: dict[str, str]) -> Iterator[Members]:
    """Processes in the folder of the input."""
    with members(tmp_path, configured) as made:
        yield made


def append(path: Path, text: str) -> None:
    """Put the text at the end of the file."""
    with path.open("a", encoding="utf-8") as file:
        file.write(text)


def lines(*rows: object) -> str:
    """The rows as JSON Lines."""
    return "".join(json.dumps(row) + "\n" for row in rows)


def test_appended_rows_are_answered(
    group: Members, llmctl: Run, tmp_path: Path, sim: Simulator
) -> None:
    """Rows are answered when their lines are whole. Interrupted with all of them answered it exits
    0; the same command goes on with what was appended since, and never asks twice."""
    path, out = write(tmp_path / "in.jsonl", []), tmp_path / "in.out.jsonl"
    process = group.start(*FOLLOW)
    wait_until(out.exists)
    rows = prompts(6)
    append(path, lines(*rows[:2]))
    wait_until(lambda: len(read(out)) == 2)
    append(path, lines(*rows[2:4]) + lines(rows[4])[:9])
    wait_until(lambda: len(read(out)) == 4)
    append(path, lines(rows[4])[9:])
    wait_until(lambda: len(read(out)) == 5)
    process.send_signal(signal.SIGTERM)
    code, text, err = ended(process)
    assert code == 0, err
    summary = json.loads(text)
    assert (summary["rows"], summary["ok"], summary["exit_code"]) == (5, 5, 0)
    append(path, lines(rows[5]))
    done = llmctl(*FOLLOW, "--max-time", "2s")
    assert (done.returncode, json.loads(done.stdout)["skipped"]) == (0, 5), done.stderr
    assert [row["index"] for row in read(out)] == [0, 1, 2, 3, 4, 5]
    assert len(sim.calls) == 6


def test_an_interrupt_before_all_is_answered(
    group: Members, tmp_path: Path, sim: Simulator
) -> None:
    """What is in flight is answered; rows that were not sent make it 130."""
    write(tmp_path / "in.jsonl", prompts(5))
    sim.hold()
    process = group.start(*FOLLOW)
    sim.wait_for_calls(2, timeout=60)
    process.send_signal(signal.SIGINT)
    sim.release()
    code, text, _ = ended(process)
    assert (code, json.loads(text)["ok"]) == (130, 2)


def test_a_higher_priority_goes_first(group: Members, tmp_path: Path, sim: Simulator) -> None:
    """Of the rows not yet sent those of the highest priority are next: also one that is appended
    while others wait, when the lot is done that was begun."""
    rows = [{"id": f"r{n}", "prompt": f"say {n}", "priority": n % 3 - 1} for n in range(90)]
    path = write(tmp_path / "in.jsonl", rows)
    sim.latency = 0.02
    process = group.start("batch", "in.jsonl", "--follow", "--concurrency", "1")
    sim.wait_for_calls(20, timeout=60)
    append(path, lines({"id": "now", "prompt": "say now", "priority": 100}))
    sim.wait_for_calls(91, timeout=60)
    process.send_signal(signal.SIGINT)
    assert ended(process)[0] == 0
    sent = [call.prompt for call in sim.calls]
    at = sent.index("say now")
    assert 20 <= at < 75
    sent.remove("say now")
    wanted = sorted(rows, key=lambda row: -int(str(row["priority"])))
    assert sent == [row["prompt"] for row in wanted]


def test_rows_of_a_pipe_are_answered_as_they_come(group: Members, sim: Simulator) -> None:
    """With INPUT `-` a program may wait for the answer of a row before it writes the next one; the
    end of the pipe ends the run, its last line whole without a line feed."""
    process = group.start("batch", "-", "--follow", "-q")
    assert process.stdin is not None
    assert process.stdout is not None
    for row in prompts(2):
        process.stdin.write(lines(row).encode())
        process.stdin.flush()
        assert json.loads(process.stdout.readline())["id"] == row["id"]
    process.stdin.write(lines({"id": "last", "prompt": "p"}).encode().rstrip())
    process.stdin.close()
    assert json.loads(process.stdout.readline())["id"] == "last"
    assert process.wait(timeout=60) == 0
    assert len(sim.calls) == 3


def test_a_line_that_is_no_row_ends_it(group: Members, tmp_path: Path) -> None:
    """Exit 2, and the line is named; what was answered stays, and is in the summary."""
    path, out = write(tmp_path / "in.jsonl", prompts(2)), tmp_path / "in.out.jsonl"
    process = group.start(*FOLLOW)
    wait_until(lambda: len(read(out)) == 2)
    append(path, lines({"id": "r0", "prompt": "x"}) + "no row\n")
    code, text, err = ended(process)
    assert code == 2
    assert f"2 problems, line 3 and on: stopped; what came before stands in {out}" in err
    assert "2 rows: 2 answered" in err
    assert "nothing was sent" not in err
    summary = json.loads(text)
    assert (summary["ok"], summary["requests"], summary["exit_code"]) == (2, 2, 2)
    assert "line 3" in summary["stopped_because"]
    assert 'in.jsonl:3: the id "r0" is that of line 1' in err
    assert "in.jsonl:4: not valid JSON" in err
    assert len(read(out)) == 2


@pytest.mark.parametrize("what", ["removed", "replaced"])
def test_an_input_that_is_gone_ends_it(group: Members, tmp_path: Path, what: str) -> None:
    """Exit 2, also while nothing is appended; what was answered is in the summary."""
    path, out = write(tmp_path / "in.jsonl", prompts(2)), tmp_path / "in.out.jsonl"
    process = group.start(*FOLLOW)
    wait_until(lambda: len(read(out)) == 2)
    if what == "removed":
        path.unlink()
    else:
        write(tmp_path / "new.jsonl", prompts(2)).replace(path)
    code, text, err = ended(process)
    assert (code, json.loads(text)["ok"]) == (2, 2)
    assert "in.jsonl was changed while it was being read: run it again" in err


def test_a_terminal_says_that_it_waits(configured: dict[str, str], tmp_path: Path) -> None:
    """With all rows answered it does not look finished, but for rows to come."""
    write(tmp_path / "in.jsonl", prompts(1))
    code, shown, _ = on_a_terminal(
        configured, tmp_path, "batch", "in.jsonl", "--follow",
        typed=b"\x03", after=b"waiting for rows",
    )  # fmt: skip
    assert code == 0
    assert b"1/1  100%  waiting for rows" in shown


def test_two_share_what_is_appended(group: Members, tmp_path: Path, sim: Simulator) -> None:
    """With `--join` each appended row is sent by one of them."""
    path, out = write(tmp_path / "in.jsonl", prompts(60)), tmp_path / "in.out.jsonl"
    sim.hold()
    both = [group.start(*FOLLOW, "--join") for _ in range(2)]
    sim.wait_for_calls(4, timeout=60)
    sim.release()
    for upto in (120, 180):
        append(path, lines(*prompts(upto)[upto - 60 :]))
        wait_until(lambda upto=upto: len(read(out)) == upto)  # type: ignore[misc]
    for process in both:
        process.send_signal(signal.SIGINT)
    assert [ended(process)[0] for process in both] == [0, 0]
    assert sorted(row["index"] for row in read(out)) == list(range(180))
    assert len(sim.calls) == 180
