"""`llmctl keys rotate`, run as a process: killed at every step, and in the middle of a batch."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
from pathlib import Path

import pytest

from tests.conftest import LLMCTL, Run
from tests.simulator.server import Simulator

OLD, NEW, THIRD = "sk-test-old-key-0001", "sk-test-new-key-0002", "sk-test-third-key-0003"
ROOT = Path(__file__).parents[2]
ROWS = 10_000 if os.environ.get("LLMCTL_TEST_FULL") else 2_000


def standing(run: Run, env: dict[str, str]) -> dict[str, str]:
    """The last four characters of each role."""
    rows = json.loads(run("keys", "list", "--json", "-p", "sim", env=env).stdout)
    return {row["role"]: row["last4"] for row in rows}


def test_a_rotation(run: Run, keyed: dict[str, str], sim: Simulator) -> None:
    """Checked, then primary; the previous is kept until --finish, which deletes it."""
    sim.accept_keys({OLD, NEW})
    run("keys", "set", "sim", env=keyed, stdin=OLD)
    done = run("keys", "rotate", "sim", env=keyed, stdin=NEW)
    assert done.returncode == 0
    assert "the primary is …0002, the previous key …0001 is kept" in done.stdout
    assert f"revoke the previous key at {sim.base_url}" in done.stderr
    assert [call.api_key for call in sim.calls] == [NEW]
    assert sim.billed.requests == 0
    assert standing(run, keyed) == {"primary": "0002", "previous": "0001"}
    assert run("ask", "hi", env=keyed).returncode == 0
    assert sim.calls[-1].api_key == NEW
    done = run("keys", "rotate", "sim", "--finish", env=keyed)
    assert (done.returncode, "…0001, is deleted" in done.stdout) == (0, True)
    assert sim.calls[-1].api_key == NEW
    assert standing(run, keyed) == {"primary": "0002"}
    again = run("keys", "rotate", "sim", "--finish", env=keyed)
    assert (again.returncode, "nothing to finish" in again.stderr) == (0, True)


def test_rollback(run: Run, keyed: dict[str, str]) -> None:
    """--rollback makes the previous key the primary again, and says so; with no rotation under
    way it is exit 2."""
    run("keys", "set", "sim", env=keyed, stdin=OLD)
    run("keys", "rotate", "sim", env=keyed, stdin=NEW)
    done = run("keys", "rotate", "sim", "--rollback", env=keyed)
    assert (done.returncode, "the primary is …0001 again" in done.stdout) == (0, True)
    assert standing(run, keyed) == {"primary": "0001", "previous": "0002"}
    run("keys", "rotate", "sim", "--finish", env=keyed)
    assert run("keys", "rotate", "sim", "--rollback", env=keyed).returncode == 2
    assert run("keys", "rotate", "sim", "--rollback", "--finish", env=keyed).returncode == 2


def test_a_refused_new_key(run: Run, keyed: dict[str, str], sim: Simulator) -> None:
    """A new key that the provider refuses changes nothing and is exit 4."""
    sim.accept_keys({OLD})
    run("keys", "set", "sim", env=keyed, stdin=OLD)
    done = run("keys", "rotate", "sim", env=keyed, stdin=NEW)
    assert done.returncode == 4
    assert "the old key stays the primary" in done.stderr
    assert standing(run, keyed) == {"primary": "0001"}


def test_a_key_that_cannot_be_checked(run: Run, keyed: dict[str, str], sim: Simulator) -> None:
    """When the provider is down the new key waits; the same command, even without the key, goes
    on; the key of the finished command is not asked for again."""
    from tests.simulator import errors

    run("keys", "set", "sim", env=keyed, stdin=OLD)
    sim.fault = errors.unavailable()
    done = run("keys", "rotate", "sim", env=keyed, stdin=NEW)
    assert done.returncode == 5
    assert standing(run, keyed) == {"primary": "0001", "new": "0002"}
    assert run("keys", "rotate", "sim", "--finish", env=keyed).returncode == 2
    sim.fault = None
    done = run("keys", "rotate", "sim", env=keyed)
    assert done.returncode == 0
    assert "going on with the new key …0002" in done.stderr
    assert standing(run, keyed) == {"primary": "0002", "previous": "0001"}
    assert run("keys", "rotate", "sim", env=keyed).returncode == 0
    refused = run("keys", "rotate", "sim", env=keyed, stdin=THIRD)
    assert (refused.returncode, "--finish or --rollback" in refused.stderr) == (2, True)


def test_finish_checks_first(run: Run, keyed: dict[str, str], sim: Simulator) -> None:
    """--finish keeps both keys when the provider refuses the primary."""
    run("keys", "set", "sim", env=keyed, stdin=OLD)
    run("keys", "rotate", "sim", env=keyed, stdin=NEW)
    sim.accept_keys({OLD})
    assert run("keys", "rotate", "sim", "--finish", env=keyed).returncode == 4
    assert standing(run, keyed) == {"primary": "0002", "previous": "0001"}


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize(
    ("command", "changes", "then"),
    [
        (("keys", "rotate", "sim"), 2, {"primary": "0002", "previous": "0001"}),
        (("keys", "rotate", "sim", "--finish"), 1, {"primary": "0002"}),
        (("keys", "rotate", "sim", "--rollback"), 1, None),
        (("keys", "set", "sim"), 2, {"primary": "0002"}),
    ],
)
def test_killed_between_any_two_steps(
    run: Run,
    keyed: dict[str, str],
    sim: Simulator,
    command: tuple[str, ...],
    changes: int,
    then: dict[str, str] | None,
    moment: str,
) -> None:
    """SIGKILL before or after each change leaves a key that works, and the same command ends
    what it began. A rollback is one change: killed before it nothing has happened, after it all."""
    for at in range(1, changes + 1):
        sim.accept_keys(None)
        run("keys", "remove", "sim", env=keyed)
        run("keys", "set", "sim", env=keyed, stdin=OLD)
        if command[3:]:
            run("keys", "rotate", "sim", env=keyed, stdin=NEW)
        deadly = {
            **keyed,
            "PYTHON_KEYRING_BACKEND": "tests.keys.killing_backend.Killing",
            "PYTHONPATH": str(ROOT),
            "KILL_AT": f"{moment}:{at}",
        }
        assert run(*command, env=deadly, stdin=NEW).returncode == -signal.SIGKILL
        # Nobody has revoked anything yet: with nothing mended in between a call must work.
        sim.accept_keys({OLD, NEW})
        assert run("ask", "--no-cache", "hi", env=keyed).returncode == 0
        if then is None:
            assert standing(run, keyed)["primary"] == ("0002" if moment == "before" else "0001")
            continue
        done = run(*command, env=keyed, stdin="" if command[3:] else NEW)
        assert done.returncode == 0, done.stderr
        assert standing(run, keyed) == then
        assert run("ask", "--no-cache", "hi", env=keyed).returncode == 0


def test_the_previous_key_is_the_second_chance(llmctl_keyed: Run, sim: Simulator) -> None:
    """In the window a refused primary falls to the previous key, which stderr says."""
    llmctl_keyed("keys", "set", "sim", stdin=OLD)
    llmctl_keyed("keys", "rotate", "sim", stdin=NEW)
    sim.accept_keys({OLD})
    done = llmctl_keyed("ask", "hi")
    assert (done.returncode, done.stdout) == (0, "echo: hi")
    assert "refused the key …0002; going on with the previous one, …0001" in done.stderr
    assert [call.api_key for call in sim.calls[-2:]] == [NEW, OLD]
    sim.accept_keys(set())
    assert llmctl_keyed("ask", "ho").returncode == 4


def test_a_batch_survives_a_rotation(
    run: Run, keyed: dict[str, str], sim: Simulator, tmp_path: Path
) -> None:
    """A batch goes on through a rotation in its middle, the old key revoked while its rows are
    in flight: no row fails, and none is asked or billed twice."""
    config = tmp_path / "home/.config/llmctl/config.yaml"
    config.write_text(config.read_text() + "    limits: {concurrency: 50}\n", encoding="utf-8")
    sim.accept_keys({OLD, NEW})
    run("keys", "set", "sim", env=keyed, stdin=OLD)
    source = tmp_path / "in.jsonl"
    source.write_text("".join(f'{{"id": "{n}", "prompt": "say {n}"}}\n' for n in range(ROWS)))
    sim.latency = 0.1
    with subprocess.Popen(
        [LLMCTL, "batch", source, "--json"],
        env=keyed,
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as batch:
        sim.wait_for_calls(ROWS // 4, timeout=60)
        assert run("keys", "rotate", "sim", env=keyed, stdin=NEW).returncode == 0
        before = sim.billed.requests
        assert 0 < before < ROWS - 50, "the rotation was not in the middle"
        sim.accept_keys({NEW})
        out, err = batch.communicate(timeout=300)
    summary = json.loads(out)
    assert (batch.returncode, summary["ok"], summary["failed"]) == (0, ROWS, 0)
    rows = [json.loads(line) for line in (tmp_path / "in.out.jsonl").read_text().splitlines()]
    assert sorted(int(row["id"]) for row in rows) == list(range(ROWS))
    assert sim.billed.requests == ROWS
    assert 1 <= sim.record.statuses[401] <= 50
    assert err.count("refused the key …0001; going on with the one it was replaced by") == 1
    run("keys", "rotate", "sim", "--finish", env=keyed)
    assert standing(run, keyed) == {"primary": "0002"}


def test_two_at_once(run: Run, keyed: dict[str, str], sim: Simulator) -> None:
    """While one command changes stored keys another one is exit 75 and changes nothing."""
    run("keys", "set", "sim", env=keyed, stdin=OLD)
    sim.hold()
    codes: list[int] = []
    first = threading.Thread(
        target=lambda: codes.append(run("keys", "rotate", "sim", env=keyed, stdin=NEW).returncode)
    )
    first.start()
    try:
        sim.wait_for_calls(1, timeout=60)
        assert run("keys", "set", "sim", env=keyed, stdin=THIRD).returncode == 75
    finally:
        sim.release()
        first.join()
    assert codes == [0]
    assert standing(run, keyed) == {"primary": "0002", "previous": "0001"}
