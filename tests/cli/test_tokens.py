"""`llmctl tokens`, run as a process."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.cli.terminal import on_a_terminal
from tests.conftest import Run

SECRET = re.compile(r"lk-[A-Za-z0-9_-]{43}")


def listed(run: Run) -> list[dict[str, Any]]:
    """What `tokens list --json` says."""
    done = run("tokens", "list", "--json")
    assert done.returncode == 0, done.stderr
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


def test_a_token_is_made_and_listed(llmctl: Run, home: Path) -> None:
    """The secret alone is on stdout, and never seen again; everything else is listed."""
    done = llmctl(
        "tokens", "create", "ann", "--user", "ann@example.com", "--team", "backend",
        "--organisation", "acme", "--profiles", "sim,openai", "--rpm", "60", "--tpm", "100000",
        "--requests", "10_000/day", "--tokens", "5_000_000/month", "--budget", "$5/day",
        "--budget", "100.50/month", "--expires", "30d", "--priority", "3", "--admin",
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert SECRET.fullmatch(done.stdout.removesuffix("\n"))
    (row,) = listed(llmctl)
    days = [row.pop(name)[:10] for name in ("created", "expires")]
    assert days == sorted(set(days))
    assert row == {
        "name": "ann", "user": "ann@example.com", "team": "backend", "organisation": "acme",
        "profiles": ["sim", "openai"], "priority": 3, "admin": True, "state": "active",
        "last_used": None,
        "caps": {
            "requests": ["60/minute", "10000/day"],
            "tokens": ["100000/minute", "5000000/month"],
            "budget": ["5/day", "100.50/month"],
        },
    }  # fmt: skip
    table = llmctl("tokens", "list").stdout.splitlines()
    assert table[0].startswith("NAME  USER")
    assert "60/minute requests" in table[1]
    assert "$5/day" in table[1]
    assert (home / ".local/state/llmctl/tokens.db").stat().st_mode & 0o777 == 0o600


def test_looking_leaves_no_trace(llmctl: Run, home: Path) -> None:
    """A list without tokens says how to make one, and creates no file."""
    done = llmctl("tokens", "list")
    assert (done.returncode, done.stdout) == (0, "")
    assert "llmctl tokens create NAME" in done.stderr
    assert not list(home.rglob("tokens.db"))


def test_at_a_terminal_it_says_that_it_is_shown_once(
    configured: dict[str, str], tmp_path: Path
) -> None:
    """A person is told; a script gets the secret alone."""
    code, shown, _ = on_a_terminal(configured, tmp_path, "tokens", "create", "ann")
    assert code == 0
    assert SECRET.search(shown.decode())
    assert b"not shown again" in shown


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--profiles", "sim,opnai"], '--profiles: there is no profile "opnai"; did you mean'),
        (["--profiles", ""], '--profiles: there is no profile ""'),
        (["--budget", "5"], "--budget wants US dollars and a period"),
        (["--requests", "5.5/day"], "--requests wants a number and a period"),
        (["--tokens", "5/fortnight"], "--tokens wants a number and a period"),
        (["--expires", "30"], "--expires wants a time from now"),
        (["--expires", "2020-01-01"], "a day to come"),
        (["--expires", "2027-02-30"], "--expires wants a time from now"),
        (["--priority", "101"], "--priority"),
        (["--rpm", "0"], "--rpm"),
        (["--user", " "], "--user wants text"),
        (["--team", "a\nb"], "--team wants text"),
    ],
)
def test_a_wrong_value_names_its_flag(llmctl: Run, words: list[str], said: str) -> None:
    """Exit 2, and there is no token."""
    done = llmctl("tokens", "create", "ann", *words)
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr
    assert listed(llmctl) == []


@pytest.mark.parametrize("name", ["", "a b", "../x", "-", "a" * 65])
def test_what_is_no_name(llmctl: Run, name: str) -> None:
    """Names can stand in tables and on command lines."""
    assert llmctl("tokens", "create", "--", name).returncode == 2


def test_a_name_again(llmctl: Run) -> None:
    """One in force is refused, with the way on; a revoked one is free."""
    assert llmctl("tokens", "create", "ann").returncode == 0
    done = llmctl("tokens", "create", "ann")
    assert (done.returncode, "tokens rotate ann" in done.stderr) == (2, True)
    done = llmctl("tokens", "revoke", "ann", "--json")
    assert json.loads(done.stdout) == {"revoked": ["ann"]}
    assert listed(llmctl)[0]["state"] == "revoked"
    assert llmctl("tokens", "rotate", "ann").returncode == 2
    assert llmctl("tokens", "create", "ann").returncode == 0
    assert [row["state"] for row in listed(llmctl)] == ["active"]


def test_revoking_what_is_not_there_revokes_nothing(llmctl: Run) -> None:
    """A typo in one name of several is exit 2 with the nearest name, before anything is done; a
    secret in the place of a name is not repeated."""
    secret = json.loads(llmctl("tokens", "create", "ann", "--json").stdout)["secret"]
    done = llmctl("tokens", "revoke", "ann", "anne")
    assert (done.returncode, 'did you mean "ann"?' in done.stderr) == (2, True)
    assert secret[3:] not in llmctl("tokens", "revoke", secret).stderr
    assert listed(llmctl)[0]["state"] == "active"
    assert llmctl("tokens", "revoke", "ann").stdout == "revoked ann\n"


def test_a_rotation_gives_another_secret(llmctl: Run) -> None:
    """With the caps it had; a grace that is no time is exit 2."""
    first = llmctl("tokens", "create", "ann", "--rpm", "5").stdout
    second = json.loads(llmctl("tokens", "rotate", "ann", "--grace", "1h", "--json").stdout)
    assert SECRET.fullmatch(second["secret"])
    assert second["secret"] != first.strip()
    assert second["caps"]["requests"] == ["5/minute"]
    done = llmctl("tokens", "rotate", "ann", "--grace", "soon")
    assert (done.returncode, "--grace wants" in done.stderr) == (2, True)


WORKER = """
import sys, time
from pathlib import Path
from llmctl.clock import SystemClock
from llmctl.storage.virtual_keys import TokenStore

clock = SystemClock()
store = TokenStore(Path(sys.argv[1]), clock)
states = [store.find(sys.argv[2]).state(clock.wall())]
print(states[0], flush=True)
while states[-1] == "active":
    time.sleep(0.01)
    states.append(store.find(sys.argv[2]).state(clock.wall()))
print(states[-1], time.time(), flush=True)
"""


def test_a_revoked_token_is_refused_within_a_second_everywhere(llmctl: Run, home: Path) -> None:
    """Two processes that are asked all the time refuse it within a second of the command's
    end."""
    secret = llmctl("tokens", "create", "ann").stdout.strip()
    path = home / ".local/state/llmctl/tokens.db"
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, path, secret], stdout=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    for worker in workers:
        assert worker.stdout is not None
        assert worker.stdout.readline() == "active\n"
    assert llmctl("tokens", "revoke", "ann").returncode == 0
    end = time.time()
    for worker in workers:
        state, at = worker.communicate(timeout=60)[0].split()
        assert (state, float(at) - end < 1.0) == ("revoked", True)
