"""`llmctl keys rotate --every`, run as a process: due or not, the whole cycle, killed anywhere."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from llmctl.keys.key import StoredKey
from tests.cli.stored_keys import StoredKeys
from tests.cli.test_rotation import held_after
from tests.conftest import LLMCTL, Run
from tests.simulator.call import Call
from tests.simulator.connection import Moment
from tests.simulator.errors import unauthorized
from tests.simulator.key_admin import KeyAdmin, Listed
from tests.simulator.server import Simulator

OLD, NEW, ADMIN = "sk-test-old-key-0001", "sk-test-new-key-0002", "sk-admin-canary-7777"
ROOT = Path(__file__).parents[2]
DAY = 86400.0


@pytest.fixture
def admin(sim: Simulator, home: Path, keyed: dict[str, str]) -> KeyAdmin:
    """The provider makes and revokes keys, and accepts those that there are; `OLD` is one."""
    made = KeyAdmin(key=ADMIN, changed=sim.accept_keys)
    made.keys["id_old"] = Listed(name="by hand", value=OLD)
    sim.key_admin = made
    sim.accept_keys({OLD})
    configure(home, "    admin_key: {env: SIM_ADMIN}\n    headers: {openai-project: proj_sim}\n")
    keyed["SIM_ADMIN"] = ADMIN
    return made


def configure(home: Path, more: str) -> None:
    """Say more in the profile."""
    config = home / ".config/llmctl/config.yaml"
    config.write_text(config.read_text() + more)


def old_key(**more: Any) -> StoredKey:
    """A key that is 100 days old."""
    return StoredKey(OLD, time.time() - 100 * DAY, 0, **more)


def test_not_due(run: Run, keyed: dict[str, str], stored: StoredKeys, sim: Simulator) -> None:
    """A key that is younger is left alone: exit 0 with its age and the day; nothing is asked, and
    what stdin holds is not read."""
    stored.put(StoredKey(OLD, time.time() - 10 * DAY))
    before = len(sim.calls)
    done = run("keys", "rotate", "sim", "--every", "90d", env=keyed, stdin=NEW)
    assert done.returncode == 0, done.stderr
    assert f"sim for {sim.origin}: the key …0001 is 10 d old; due in 80 d, on 20" in done.stdout
    assert stored.standing == {"primary": "0001"}
    assert len(sim.calls) == before


@pytest.mark.parametrize(
    ("key", "words"),
    [(old_key(), "is 100 d old and due"), (StoredKey(OLD), "is of unknown age, as another")],
)
def test_due_by_hand(
    run: Run, keyed: dict[str, str], stored: StoredKeys, sim: Simulator, key: StoredKey, words: str
) -> None:
    """Where nothing can make a key, one that is due, or whose age nobody knows, is exit 7 with the
    page, the command and what would do it; stdin is not read."""
    stored.put(key)
    done = run("keys", "rotate", "sim", "--every", "90d", env=keyed, stdin=NEW)
    assert (done.returncode, done.stdout) == (7, "")
    assert words in done.stderr
    assert f"make a new one at {sim.base_url} and pipe it into" in done.stderr
    assert "with `admin_key:` in the profile set this command makes it itself" in done.stderr
    assert done.stderr.count("\n") == 1
    assert stored.standing == {"primary": "0001"}


def test_what_is_not_set_up_is_named(run: Run, keyed: dict[str, str], home: Path) -> None:
    """Exit 7 names the variable that is missing: the provider's own at its address, and the id of
    OpenAI's project."""
    run("keys", "set", "openai", env=keyed, stdin=OLD)
    done = run("keys", "rotate", "openai", "--every", "1ms", env=keyed)
    assert (done.returncode, "with $OPENAI_ADMIN_KEY set" in done.stderr) == (7, True)
    assert "https://platform.openai.com/api-keys" in done.stderr
    env = {**keyed, "OPENAI_ADMIN_KEY": ADMIN}
    done = run("keys", "rotate", "openai", "--every", "1ms", env=env)
    assert (done.returncode, "with $OPENAI_PROJECT_ID set" in done.stderr) == (7, True)
    assert ADMIN not in done.stderr
    run("keys", "set", "groq", env=keyed, stdin=OLD)
    done = run("keys", "rotate", "groq", "--every", "1ms", env=keyed)
    assert (done.returncode, "makes it itself" in done.stderr) == (7, False)
    for name in ("openai", "groq"):
        run("keys", "remove", name, env=keyed)
    assert home.exists()


def test_ages_that_nobody_knows(run: Run, keyed: dict[str, str], home: Path) -> None:
    """A key in the environment or from a command is exit 2 with the way, and so is an `auth`, of
    which no age is asked; no key anywhere is exit 4."""
    assert run("keys", "rotate", "sim", "--every", "90d", env=keyed).returncode == 4
    configure(
        home,
        "  env: {provider: openai, base_url: 'http://127.0.0.1:9/v1', key: {env: BOX}}\n"
        "  box: {provider: openai, base_url: 'http://127.0.0.1:9/v1', key: {command: cat}}\n"
        "  cloud: {provider: vertex, region: global, project: p}\n",
    )
    for name, words in (
        ("env", "takes its key from $BOX"), ("box", "from the command cat"),
        ("cloud", "whose tokens are renewed by themselves"),
    ):  # fmt: skip
        done = run("keys", "rotate", name, "--every", "90d", env=keyed)
        unknown = "nobody can tell how old" in done.stderr
        assert (done.returncode, unknown) == (2, name != "cloud")
        assert words in done.stderr
    env = {**keyed, "GROQ_API_KEY": OLD}
    done = run("keys", "rotate", "groq", "--every", "90d", env=env)
    assert (done.returncode, "store it with `llmctl keys set groq`" in done.stderr) == (2, True)
    assert run("keys", "rotate", "sim", "--every", "often", env=keyed).returncode == 2
    assert run("keys", "rotate", "sim", "--every", "9d", "--finish", env=keyed).returncode == 2


def test_the_whole_cycle(
    run: Run, keyed: dict[str, str], stored: StoredKeys, admin: KeyAdmin, sim: Simulator
) -> None:
    """One command: a key is made, checked, in the place of the old one, and that one revoked. The
    admin key goes to these requests alone and is never shown; the next run has nothing to do."""
    stored.put(old_key(id="id_old"))
    done = run("keys", "rotate", "sim", "--every", "90d", env=keyed)
    assert done.returncode == 0, done.stderr
    ((name, made),) = admin.keys.items()
    assert f"the primary is …{made.value[-4:]}; …0001 is revoked and deleted" in done.stdout
    assert stored.standing == {"primary": made.value[-4:]}
    assert made.name.startswith("llmctl sim 20")
    assert [(call.method, call.api_key == ADMIN) for call in sim.calls] == [
        ("POST", True), ("GET", False), ("GET", False), ("DELETE", True),
    ]  # fmt: skip
    assert sim.calls[0].headers.get("openai-project") is None
    assert ADMIN not in done.stdout + done.stderr
    assert made.value not in done.stdout + done.stderr
    assert run("ask", "hi", env=keyed).returncode == 0
    again = run("keys", "rotate", "sim", "--every", "90d", env=keyed)
    assert (again.returncode, "due in 90 d" in again.stdout) == (0, True)
    assert list(admin.keys) == [name]


def test_a_key_made_by_hand_is_kept(
    run: Run, keyed: dict[str, str], stored: StoredKeys, admin: KeyAdmin
) -> None:
    """The first key was made by a person, and its id is not known: it stays the previous one until
    --finish; a rotation that is due before that is exit 7."""
    stored.put(old_key())
    done = run("keys", "rotate", "sim", "--every", "90d", env=keyed)
    assert (done.returncode, "still works: revoke it at" in done.stderr) == (0, True)
    last = next(key.value[-4:] for name, key in admin.keys.items() if name != "id_old")
    assert stored.standing == {"primary": last, "previous": "0001"}
    due = run("keys", "rotate", "sim", "--every", "1ms", env=keyed)
    assert (due.returncode, "the rotation before is not finished" in due.stderr) == (7, True)
    assert run("keys", "rotate", "sim", "--finish", env=keyed).returncode == 0
    done = run("keys", "rotate", "sim", "--every", "1ms", env=keyed)
    assert (done.returncode, "is revoked and deleted" in done.stdout) == (0, True)


def test_a_rotation_by_hand_is_a_persons_to_finish(
    run: Run, keyed: dict[str, str], stored: StoredKeys, admin: KeyAdmin, sim: Simulator
) -> None:
    """--every leaves the previous key of a rotation that a person began; --finish revokes it at the
    provider, where it was made by llmctl."""
    stored.put(old_key(id="id_old"))
    sim.accept_keys({OLD, NEW})
    assert run("keys", "rotate", "sim", env=keyed, stdin=NEW).returncode == 0
    done = run("keys", "rotate", "sim", "--every", "90d", env=keyed)
    assert (done.returncode, "the previous key …0001 is kept" in done.stderr) == (0, True)
    assert list(admin.keys) == ["id_old"]
    done = run("keys", "rotate", "sim", "--finish", env=keyed)
    assert (done.returncode, "…0001, is revoked and deleted" in done.stdout) == (0, True)
    assert admin.keys == {}


def test_a_key_that_is_known_late(
    run: Run, keyed: dict[str, str], stored: StoredKeys, admin: KeyAdmin, sim: Simulator
) -> None:
    """A made key that the provider does not know everywhere yet is asked about again."""
    stored.put(old_key(id="id_old"))
    unknown = iter([unauthorized()])

    def late(call: Call) -> Any:
        return next(unknown, None) if call.method == "GET" else None

    sim.fault = late
    done = run("keys", "rotate", "sim", "--every", "90d", env=keyed)
    assert done.returncode == 0, done.stderr
    assert "id_old" not in admin.keys


def test_a_refused_admin_key(
    run: Run, keyed: dict[str, str], stored: StoredKeys, admin: KeyAdmin
) -> None:
    """An admin key that the provider refuses is exit 4 naming it; the old key stays."""
    stored.put(old_key(id="id_old"))
    wrong = {**keyed, "SIM_ADMIN": "sk-admin-wrong-8888"}
    done = run("keys", "rotate", "sim", "--every", "90d", env=wrong)
    assert (done.returncode, "the admin key of $SIM_ADMIN is refused" in done.stderr) == (4, True)
    assert "the old key stays the primary" in done.stderr
    assert stored.standing == {"primary": "0001"}
    assert list(admin.keys) == ["id_old"]


@pytest.mark.parametrize("change", [2, 3])
def test_killed_after_a_change(
    run: Run, keyed: dict[str, str], stored: StoredKeys, admin: KeyAdmin, change: int
) -> None:
    """SIGKILL after a change of the keyring: a key works, the same command ends the work, and the
    provider is left with one key. After the first one all is as at the second request below."""
    stored.put(old_key(id="id_old"))
    deadly = {
        **keyed,
        "PYTHON_KEYRING_BACKEND": "tests.keys.killing_backend.Killing",
        "PYTHONPATH": str(ROOT),
        "KILL_AT": f"after:{change}",
    }
    done = run("keys", "rotate", "sim", "--every", "90d", env=deadly)
    assert done.returncode == -signal.SIGKILL
    ends_well(run, keyed, stored, admin)


@pytest.mark.parametrize(
    ("request_number", "moment"),
    [(1, "received"), (1, "billed"), (2, "received"), (3, "received"), (4, "billed")],
)
def test_killed_at_every_request(
    run: Run, keyed: dict[str, str], stored: StoredKeys, admin: KeyAdmin, sim: Simulator,
    moment: Moment, request_number: int, tmp_path: Path,
) -> None:  # fmt: skip
    """SIGKILL while the provider has a request, done or not: a key works, the same command ends the
    work, and a key that was made and never stored is revoked. The two in the middle only ask."""
    stored.put(old_key(id="id_old"))

    def hold(call: Call) -> None:
        if call.index + 1 == request_number:
            sim.hold(moment)

    sim.fault = hold
    command = [str(LLMCTL), "keys", "rotate", "sim", "--every", "90d"]
    null = subprocess.DEVNULL
    with subprocess.Popen(command, env=keyed, cwd=tmp_path, stdout=null, stderr=null) as process:
        sim.wait_for_calls(request_number, timeout=60)
        process.kill()
    sim.fault = None
    sim.release()
    ends_well(run, keyed, stored, admin)


def ends_well(run: Run, keyed: dict[str, str], stored: StoredKeys, admin: KeyAdmin) -> None:
    """A call works now; the same command ends the rotation, with one key at the provider."""
    asked = run("ask", "--no-cache", "hi", env=keyed)
    assert asked.returncode == 0, asked.stderr
    done = run("keys", "rotate", "sim", "--every", "90d", env=keyed)
    assert done.returncode == 0, done.stderr
    (made,) = admin.keys.values()
    assert stored.standing == {"primary": made.value[-4:]}
    assert made.value != OLD


def test_another_machines_key_is_left_alone(
    run: Run, keyed: dict[str, str], stored: StoredKeys, admin: KeyAdmin
) -> None:
    """A key of the same name that this machine did not ask for is not revoked."""
    stored.put(old_key(id="id_old"))
    admin.keys["id_theirs"] = Listed(name="llmctl sim 2026-01-01T00:00:00Z abc", value=NEW)
    assert run("keys", "rotate", "sim", "--every", "90d", env=keyed).returncode == 0
    assert "id_theirs" in admin.keys


def test_a_batch_goes_on(
    run: Run, keyed: dict[str, str], stored: StoredKeys, admin: KeyAdmin, sim: Simulator,
    tmp_path: Path, home: Path,
) -> None:  # fmt: skip
    """A batch that began with the old key loses no row while that is replaced and revoked."""
    configure(home, "    limits: {concurrency: 20}\n")
    stored.put(old_key(id="id_old"))
    rows = 100
    source = tmp_path / "in.jsonl"
    source.write_text("".join(f'{{"id": "{n}", "prompt": "say {n}"}}\n' for n in range(rows)))
    sim.fault = held_after(sim, rows // 4)
    with subprocess.Popen(
        [LLMCTL, "batch", source, "--json"], env=keyed, cwd=tmp_path, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as batch:  # fmt: skip
        sim.wait_for_calls(rows // 4 + 20, timeout=60)
        assert run("keys", "rotate", "sim", "--every", "90d", env=keyed).returncode == 0
        assert sim.billed.requests == rows // 4
        sim.fault = None
        sim.release()
        out, _ = batch.communicate(timeout=120)
    summary = json.loads(out)
    assert (batch.returncode, summary["ok"], summary["failed"]) == (0, rows, 0)
    assert sim.billed.requests == rows
    assert "id_old" not in admin.keys


def test_check_all(run: Run, keyed: dict[str, str], stored: StoredKeys, sim: Simulator) -> None:
    """`keys check --all` asks about the previous key, too: exit 4 names the one that is refused,
    and the rows say which is which."""
    stored.put(NEW, OLD)
    sim.accept_keys({NEW})
    assert run("keys", "check", "sim", env=keyed).returncode == 0
    done = run("keys", "check", "--all", "sim", "--json", env=keyed)
    assert (done.returncode, "no usable key for sim (previous)" in done.stderr) == (4, True)
    rows = {row["role"]: row["ok"] for row in json.loads(done.stdout)}
    assert rows == {"primary": True, "previous": False}
    sim.accept_keys({OLD, NEW})
    done = run("keys", "check", "--all", env=keyed)
    assert f"sim  {sim.origin}  …0001 (keyring, previous)  ok" in done.stdout


def test_a_profile_without_a_key(run: Run, keyed: dict[str, str], home: Path) -> None:
    """A profile with an `auth` is a row of `keys list` by what proves who asks, is checked by that,
    and takes no stored key."""
    secret = "{azure: {tenant: t, client_id: c, client_secret: {env: NOT_SET}}}"
    configure(
        home, f"  cloud: {{provider: openai, base_url: 'http://127.0.0.1:9/v1', auth: {secret}}}\n"
    )
    rows = json.loads(run("keys", "list", "--json", "-p", "cloud", env=keyed).stdout)
    assert [(row["source"], row["last4"]) for row in rows] == [("auth azure", None)]
    done = run("keys", "check", "cloud", "--json", env=keyed)
    assert (done.returncode, "$NOT_SET is not set" in done.stderr) == (4, True)
    (row,) = json.loads(done.stdout)
    assert (row["source"], row["ok"]) == ("auth azure", False)
    assert run("keys", "set", "cloud", env=keyed, stdin=OLD).returncode == 2
