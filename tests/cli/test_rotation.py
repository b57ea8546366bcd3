"""`llmctl keys rotate`, run as a process: killed at every step, and in the middle of a batch."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.stored_keys import StoredKeys
from tests.conftest import LLMCTL, Run
from tests.simulator import errors
from tests.simulator.call import Call
from tests.simulator.server import Simulator

OLD, NEW, THIRD = "sk-test-old-key-0001", "sk-test-new-key-0002", "sk-test-third-key-0003"
ROOT = Path(__file__).parents[2]
ROWS = 10_000 if os.environ.get("LLMCTL_TEST_FULL") else 300


def listed(run: Run, env: dict[str, str]) -> dict[str, str]:
    """The last four characters of each role, as `keys list` says them."""
    rows = json.loads(run("keys", "list", "--json", "-p", "sim", env=env).stdout)
    return {row["role"]: row["last4"] for row in rows}


def test_a_rotation(run: Run, keyed: dict[str, str], sim: Simulator, stored: StoredKeys) -> None:
    """Checked, then primary; the previous is kept until --finish, which deletes it."""
    sim.accept_keys({OLD, NEW})
    run("keys", "set", "sim", env=keyed, stdin=OLD)
    done = run("keys", "rotate", "sim", env=keyed, stdin=NEW)
    assert done.returncode == 0
    assert "the primary is …0002, the previous key …0001 is kept" in done.stdout
    assert f"revoke the previous key at {sim.base_url}" in done.stderr
    assert [call.api_key for call in sim.calls] == [NEW]
    assert sim.billed.requests == 0
    assert listed(run, keyed) == {"primary": "0002", "previous": "0001"}
    assert run("ask", "hi", env=keyed).returncode == 0
    assert sim.calls[-1].api_key == NEW
    done = run("keys", "rotate", "sim", "--finish", env=keyed)
    assert (done.returncode, "…0001, is deleted" in done.stdout) == (0, True)
    assert sim.calls[-1].api_key == NEW
    assert stored.standing == {"primary": "0002"}
    again = run("keys", "rotate", "sim", "--finish", env=keyed)
    assert (again.returncode, "nothing to finish" in again.stderr) == (0, True)


def test_rollback(run: Run, keyed: dict[str, str], stored: StoredKeys) -> None:
    """--rollback makes the previous key the primary again, and says so; with no rotation under
    way it is exit 2."""
    stored.put(NEW, OLD)
    done = run("keys", "rotate", "sim", "--rollback", env=keyed)
    assert (done.returncode, "the primary is …0001 again" in done.stdout) == (0, True)
    assert stored.standing == {"primary": "0001", "previous": "0002"}
    run("keys", "rotate", "sim", "--finish", env=keyed)
    assert run("keys", "rotate", "sim", "--rollback", env=keyed).returncode == 2
    assert run("keys", "rotate", "sim", "--rollback", "--finish", env=keyed).returncode == 2


def test_a_refused_new_key(
    run: Run, keyed: dict[str, str], sim: Simulator, stored: StoredKeys
) -> None:
    """A new key that the provider refuses changes nothing and is exit 4."""
    sim.accept_keys({OLD})
    stored.put(OLD)
    done = run("keys", "rotate", "sim", env=keyed, stdin=NEW)
    assert done.returncode == 4
    assert "the old key stays the primary" in done.stderr
    assert stored.standing == {"primary": "0001"}


def test_a_key_that_cannot_be_checked(
    run: Run, keyed: dict[str, str], sim: Simulator, stored: StoredKeys
) -> None:
    """When the provider is down the new key waits; the same command, even without the key, goes
    on; the key of the finished command is not asked for again."""
    stored.put(OLD)
    sim.fault = errors.unavailable()
    done = run("keys", "rotate", "sim", env=keyed, stdin=NEW)
    assert done.returncode == 5
    assert stored.standing == {"primary": "0001", "new": "0002"}
    assert run("keys", "rotate", "sim", "--finish", env=keyed).returncode == 2
    sim.fault = None
    done = run("keys", "rotate", "sim", env=keyed)
    assert done.returncode == 0
    assert "going on with the new key …0002" in done.stderr
    assert stored.standing == {"primary": "0002", "previous": "0001"}
    assert run("keys", "rotate", "sim", env=keyed).returncode == 0
    refused = run("keys", "rotate", "sim", env=keyed, stdin=THIRD)
    assert (refused.returncode, "--finish or --rollback" in refused.stderr) == (2, True)


def test_finish_checks_first(
    run: Run, keyed: dict[str, str], sim: Simulator, stored: StoredKeys
) -> None:
    """--finish keeps both keys when the provider refuses the primary."""
    stored.put(NEW, OLD)
    sim.accept_keys({OLD})
    assert run("keys", "rotate", "sim", "--finish", env=keyed).returncode == 4
    assert stored.standing == {"primary": "0002", "previous": "0001"}


@pytest.mark.parametrize(
    ("command", "at", "then"),
    [
        (("rotate", "sim"), "after:1", {"primary": "0002", "previous": "0001"}),
        (("rotate", "sim"), "after:2", {"primary": "0002", "previous": "0001"}),
        (("rotate", "sim", "--finish"), "after:1", {"primary": "0002"}),
        (("rotate", "sim", "--rollback"), "before:1", None),
        (("rotate", "sim", "--rollback"), "after:1", None),
        (("set", "sim"), "after:1", {"primary": "0002"}),
        (("set", "sim"), "after:2", {"primary": "0002"}),
    ],
)
def test_killed_between_any_two_steps(
    run: Run, keyed: dict[str, str], sim: Simulator, stored: StoredKeys,
    command: tuple[str, ...], at: str, then: dict[str, str] | None,
) -> None:  # fmt: skip
    """SIGKILL after each change leaves a key that works, and the same command ends what it began
    (before the next change all is as after the last). A rollback is one change: killed before it
    nothing has happened, after it all."""
    flags = command[2:]
    stored.put(*((NEW, OLD) if flags else (OLD,)))
    deadly = {
        **keyed,
        "PYTHON_KEYRING_BACKEND": "tests.keys.killing_backend.Killing",
        "PYTHONPATH": str(ROOT),
        "KILL_AT": at,
    }
    assert run("keys", *command, env=deadly, stdin=NEW).returncode == -signal.SIGKILL
    # Nobody has revoked anything yet: with nothing mended in between a call must work.
    sim.accept_keys({OLD, NEW})
    assert run("ask", "--no-cache", "hi", env=keyed).returncode == 0
    if then is None:
        assert stored.standing["primary"] == ("0002" if at == "before:1" else "0001")
        return
    done = run("keys", *command, env=keyed, stdin="" if flags else NEW)
    assert done.returncode == 0, done.stderr
    assert stored.standing == then


def test_the_previous_key_is_the_second_chance(
    llmctl_keyed: Run, sim: Simulator, stored: StoredKeys
) -> None:
    """In the window a refused primary falls to the previous key, which stderr says."""
    stored.put(NEW, OLD)
    sim.accept_keys({OLD})
    done = llmctl_keyed("ask", "hi")
    assert (done.returncode, done.stdout) == (0, "echo: hi")
    assert "refused the key …0002; going on with the previous one, …0001" in done.stderr
    assert [call.api_key for call in sim.calls[-2:]] == [NEW, OLD]
    sim.accept_keys(set())
    assert llmctl_keyed("ask", "ho").returncode == 4


def held_after(sim: Simulator, count: int) -> Callable[[Call], None]:
    """A script that answers so many questions and holds later ones; nothing else is held."""
    asked = 0

    def script(call: Call) -> None:
        nonlocal asked
        question = call.path.endswith("/chat/completions")
        asked += question
        sim.gate.held = "received" if question and asked > count else None

    return script


def test_a_batch_survives_a_rotation(
    run: Run, keyed: dict[str, str], sim: Simulator, stored: StoredKeys, tmp_path: Path
) -> None:
    """A batch goes on through a rotation in its middle, the old key revoked while its rows are
    in flight: no row fails, and none is asked or billed twice."""
    config = tmp_path / "home/.config/llmctl/config.yaml"
    config.write_text(config.read_text() + "    limits: {concurrency: 50}\n", encoding="utf-8")
    sim.accept_keys({OLD, NEW})
    stored.put(OLD)
    source = tmp_path / "in.jsonl"
    source.write_text("".join(f'{{"id": "{n}", "prompt": "say {n}"}}\n' for n in range(ROWS)))
    sim.fault = held_after(sim, ROWS // 4)
    with subprocess.Popen(
        [LLMCTL, "batch", source, "--json"],
        env=keyed,
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as batch:
        sim.wait_for_calls(ROWS // 4 + 50, timeout=60)
        assert run("keys", "rotate", "sim", env=keyed, stdin=NEW).returncode == 0
        assert sim.billed.requests == ROWS // 4
        sim.accept_keys({NEW})
        sim.fault = None
        sim.release()
        out, err = batch.communicate(timeout=300)
    summary = json.loads(out)
    assert (batch.returncode, summary["ok"], summary["failed"]) == (0, ROWS, 0)
    rows = [json.loads(line) for line in (tmp_path / "in.out.jsonl").read_text().splitlines()]
    assert sorted(int(row["id"]) for row in rows) == list(range(ROWS))
    assert sim.billed.requests == ROWS
    assert 1 <= sim.record.statuses[401] <= 50
    assert err.count("refused the key …0001; going on with the one it was replaced by") == 1
    assert stored.standing == {"primary": "0002", "previous": "0001"}


def test_two_at_once(run: Run, keyed: dict[str, str], sim: Simulator, stored: StoredKeys) -> None:
    """While one command changes stored keys another one is exit 75 and changes nothing."""
    stored.put(OLD)
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
    assert stored.standing == {"primary": "0002", "previous": "0001"}
