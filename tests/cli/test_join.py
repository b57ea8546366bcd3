"""`llmctl batch --join`: processes that share the rows of one INPUT and write one OUTPUT."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llmctl.cli.batch import BatchOptions
from llmctl.cli.batch_shared import check_options
from llmctl.errors import UsageError
from tests.cli.jsonl import prompts, read, write
from tests.cli.members import Members, ended, members
from tests.conftest import KEY, Run
from tests.simulator.server import Simulator

JOIN = ("batch", "in.jsonl", "--join", "--json", "--no-cache", "--concurrency", "4")


@pytest.fixture
def group(tmp_path: Path, configured: dict[str, str]) -> Iterator[Members]:
    """Processes in the folder of the input."""
    with members(tmp_path, configured) as made:
        yield made


@pytest.fixture
def rows(tmp_path: Path) -> list[str]:
    """The ids of an input of 120 rows."""
    write(tmp_path / "in.jsonl", prompts(120))
    return [f"r{n}" for n in range(120)]


def test_each_row_is_sent_by_one_member(
    group: Members, llmctl: Run, rows: list[str], tmp_path: Path, sim: Simulator
) -> None:
    """Three processes send each row once between them and write one output, which the last one
    sorts; each tells its own rows and the others'. One without `--join` exits 75 meanwhile. The
    same command again finds nothing to send."""
    sim.hold()
    three = [group.start(*JOIN, "--ordered") for _ in range(3)]
    sim.wait_for_calls(12, timeout=60)
    assert llmctl("batch", "in.jsonl").returncode == 75
    sim.release()
    summaries = []
    for process in three:
        code, out, err = ended(process)
        assert code == 0, err
        summaries.append(json.loads(out))
    assert sorted(call.prompt for call in sim.calls) == sorted(f"say {n}" for n in range(120))
    assert [row["id"] for row in read(tmp_path / "in.out.jsonl")] == rows
    assert sum(each["ok"] for each in summaries) == 120
    assert all(each["ok"] + each["others"]["ok"] == 120 for each in summaries)
    assert all(each["ok"] for each in summaries)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["home", "in.jsonl", "in.out.jsonl"]
    done = llmctl(*JOIN)
    assert (done.returncode, json.loads(done.stdout)["skipped"]) == (0, 120)
    assert len(sim.calls) == 120


def test_what_others_leave_is_taken_over(
    group: Members, rows: list[str], tmp_path: Path, sim: Simulator
) -> None:
    """One member is killed (`kill -9`), one interrupted: it answers what it has in flight and exits
    130. The third answers all the rest; what was in flight in the first is billed again, and the
    half line that it left is repaired."""
    sim.hold()
    killed, interrupted, left = (group.start(*JOIN) for _ in range(3))
    sim.wait_for_calls(12, timeout=60)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.communicate()
    with (tmp_path / "in.out.jsonl").open("ab") as output:
        output.write(b'{"id":"r7","te')
    interrupted.send_signal(signal.SIGINT)
    sim.release()
    assert ended(interrupted)[0] == 130
    code, _, err = ended(left)
    assert code == 0, err
    assert sorted(row["id"] for row in read(tmp_path / "in.out.jsonl")) == sorted(rows)
    assert len(sim.calls) == 124


def test_what_fails_in_one_member(
    group: Members, llmctl: Run, rows: list[str], tmp_path: Path, sim: Simulator
) -> None:
    """A member whose key is refused exits 4 and gives up nothing of the others' rows. These do not
    try again what has failed, also one that joins later, and exit 1; the next run does."""
    sim.accept_keys([KEY])
    sim.latency = 0.05
    failed = tmp_path / "in.out.errors.jsonl"
    sim.hold()
    refused, other = group.start(*JOIN, SIM_KEY="sk-another"), group.start(*JOIN)
    sim.wait_for_calls(8, timeout=60)
    later = group.start(*JOIN)
    sim.wait_for_calls(12, timeout=60)
    sim.release()
    assert [ended(process)[0] for process in (refused, other, later)] == [4, 1, 1]
    assert [row["error"]["type"] for row in read(failed)] == ["auth"] * 4
    assert len(read(tmp_path / "in.out.jsonl")) == len(rows) - 4
    assert len(sim.calls) == 120
    assert llmctl(*JOIN).returncode == 0
    assert len(sim.calls) == 124
    assert len(read(tmp_path / "in.out.jsonl")) == len(rows)
    assert not failed.exists()


def test_other_rows_or_claims_are_refused(
    group: Members, llmctl: Run, rows: list[str], configured: dict[str, str], run: Run,
    tmp_path: Path, sim: Simulator,
) -> None:  # fmt: skip
    """Who would answer another input or model into the same output, or could not see what the
    others claim, exits 2 and disturbs nobody."""
    sim.hold()
    one = group.start(*JOIN)
    sim.wait_for_calls(4, timeout=60)
    write(tmp_path / "fewer.jsonl", prompts(119))
    out = ("-o", "in.out.jsonl")
    for arguments in (("fewer.jsonl", *out), ("in.jsonl", "-m", "other")):
        done = llmctl("batch", *arguments, "--join")
        assert (done.returncode, "answer other rows" in done.stderr) == (2, True), done.stderr
    state = {**configured, "LLMCTL_STATE_DIR": str(tmp_path / "state")}
    done = run(*JOIN, env=state)
    assert (done.returncode, "one state folder" in done.stderr) == (2, True), done.stderr
    sim.release()
    assert ended(one)[0] == 0
    assert len(sim.calls) == len(read(tmp_path / "in.out.jsonl")) == len(rows)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"join": True, "restart": True}, "--restart throws away"),
        ({"join": True, "output": "-"}, "--join wants files"),
        ({"join": True, "engine": "provider"}, "leave --engine provider out"),
        ({"follow": True, "engine": "provider"}, "leave --engine provider out"),
        ({"follow": True, "limit": 3}, "--limit takes the first rows"),
    ],
)
def test_what_does_not_go_together(options: dict[str, Any], said: str) -> None:
    """Exit 2, before anything is read."""
    with pytest.raises(UsageError, match=said):
        check_options(BatchOptions(input="in.jsonl", **options))
