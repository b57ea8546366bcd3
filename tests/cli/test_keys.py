"""`llmctl keys`, run as a process, with a real Secret Service or an encrypted file."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.cli.terminal import on_a_terminal
from tests.conftest import KEY, Run
from tests.keys.secret_service import SecretService
from tests.simulator import errors
from tests.simulator.server import Simulator

OTHER = "sk-test-other-0815"


def config(home: Path) -> Path:
    """The user's own file."""
    return home / ".config/llmctl/config.yaml"


def listed(run: Run, env: dict[str, str], *arguments: str) -> list[dict[str, Any]]:
    """What `keys list --json` says."""
    done = run("keys", "list", "--json", *arguments, env=env)
    assert done.returncode == 0, done.stderr
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


def test_set_and_use(run: Run, keyed: dict[str, str], sim: Simulator) -> None:
    """A key piped in is stored, said to be, listed with its last four, and used by calls."""
    done = run("keys", "set", "sim", env=keyed, stdin=KEY + "\n")
    assert done.returncode == 0
    assert done.stdout == (
        f"stored the key …4711 as sim for {sim.origin} in SecretService Keyring\n"
    )
    (row,) = listed(run, keyed, "-p", "sim")
    assert (row["name"], row["origin"], row["last4"]) == ("sim", sim.origin, "4711")
    assert (row["source"], row["role"], row["profiles"]) == ("keyring", "primary", ["sim"])
    assert 0 <= row["age_s"] < 60
    table = run("keys", "list", env=keyed).stdout
    assert table.splitlines()[0].split() == [
        "NAME", "ORIGIN", "KEY", "SOURCE", "AGE", "ROLE", "PROFILES",
    ]  # fmt: skip
    assert "…4711" in table
    assert KEY not in table
    assert run("ask", "hi", env=keyed).stdout == "echo: hi"
    assert sim.calls[-1].api_key == KEY
    assert "stored: sim" in run("profiles", "list", env=keyed).stdout


def test_hidden_prompt(keyed: dict[str, str], tmp_path: Path) -> None:
    """At a terminal the key is asked for and what is typed is not shown."""
    code, shown, _ = on_a_terminal(
        keyed, tmp_path, "keys", "set", "sim", typed=KEY.encode() + b"\n", after=b"): "
    )
    assert code == 0
    assert b"Key for sim" in shown
    assert b"stored the key" in shown
    assert KEY.encode() not in shown


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("set", [f"--key={KEY}"]),
        ("rotate", ["--key", KEY]),
        ("remove", ["-k", KEY]),
    ],
)
def test_never_on_the_command_line(llmctl_keyed: Run, command: str, words: list[str]) -> None:
    """A key given as an argument is refused with exit 2, and not repeated."""
    done = llmctl_keyed("keys", command, "sim", *words, stdin=KEY)
    assert done.returncode == 2
    assert KEY not in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("\n", "no key was given"),
        ("two\nlines", "line break"),
        (b"\xff\xfe", "not text"),
        ("k" * 70_000, "far more than a key"),
    ],
)
def test_what_is_no_key(run: Run, keyed: dict[str, str], given: str | bytes, words: str) -> None:
    """What cannot be a key is exit 2 with the reason, and nothing is stored."""
    done = run("keys", "set", "sim", env=keyed, stdin=given)
    assert (done.returncode, done.stdout) == (2, "")
    assert words in done.stderr
    assert listed(run, keyed, "-p", "sim")[0]["role"] == "missing"


def test_a_key_stays_at_its_origin(
    run: Run, keyed: dict[str, str], home: Path, sim: Simulator
) -> None:
    """When the profile points elsewhere its key is not found, stderr says where it belongs, and
    the other server receives nothing."""
    run("keys", "set", "sim", env=keyed, stdin=KEY)
    with Simulator() as elsewhere:
        text = config(home).read_text()
        config(home).write_text(text.replace(sim.base_url, elsewhere.base_url))
        done = run("ask", "hi", env=keyed)
        assert done.returncode == 4
        assert f"belongs to {sim.origin} and is not sent to {elsewhere.origin}" in done.stderr
        assert elsewhere.calls == []
        rows = listed(run, keyed)
        assert {(r["origin"], r["role"]) for r in rows} == {
            (sim.origin, "primary"), (elsewhere.origin, "missing"),
        }  # fmt: skip
        config(home).write_text(text.replace(sim.base_url, elsewhere.base_url).replace(
            "    key: {keyring: sim}\n", ""))  # fmt: skip
        done = run("ask", "hi", env=keyed)
        assert done.returncode == 0
        assert f"without a key: the stored key sim belongs to {sim.origin}" in done.stderr
        assert elsewhere.calls[0].api_key is None


def test_a_stored_key_of_a_server(llmctl_keyed: Run, home: Path) -> None:
    """A profile that names no key uses the one that was stored for it."""
    text = config(home).read_text().replace("    key: {keyring: sim}\n", "")
    config(home).write_text(text)
    with Simulator() as server:
        config(home).write_text(
            text + f"  box: {{provider: openai, base_url: {server.base_url}}}\n"
        )
        assert llmctl_keyed("ask", "-p", "box", "hi").returncode == 0
        assert llmctl_keyed("keys", "set", "box", stdin=KEY).returncode == 0
        assert llmctl_keyed("ask", "-p", "box", "ho").returncode == 0
        assert [call.api_key for call in server.calls] == [None, KEY]


def test_environment_hides_a_stored_key(run: Run, keyed: dict[str, str]) -> None:
    """A variable that is set is used instead of the stored key; `keys list` and `set` say so."""
    env = {**keyed, "GROQ_API_KEY": OTHER}
    done = run("keys", "set", "groq", env=env, stdin=KEY)
    assert "$GROQ_API_KEY is set and hides the stored key" in done.stderr
    shown = run("keys", "list", env=env)
    assert "$GROQ_API_KEY is set and hides the stored key groq" in shown.stderr
    assert "keyring (hidden by $GROQ_API_KEY)" in shown.stdout
    rows = [row for row in listed(run, env, "-p", "groq") if row["name"] == "groq"]
    assert {(r["source"], r["last4"], r["hidden_by"]) for r in rows} == {
        ("environment", "0815", None), ("keyring", "4711", "GROQ_API_KEY"),
    }  # fmt: skip
    run("keys", "remove", "groq", env=env)


def test_max_age(llmctl_keyed: Run) -> None:
    """`--max-age` is exit 1 when a stored key is older, 0 when none is, 2 when it is no age."""
    llmctl_keyed("keys", "set", "sim", stdin=KEY)
    assert llmctl_keyed("keys", "list", "-p", "sim", "--max-age", "90d").returncode == 0
    old = llmctl_keyed("keys", "list", "-p", "sim", "--max-age", "1ms")
    assert old.returncode == 1
    assert "sim (primary) is" in old.stderr
    assert llmctl_keyed("keys", "list", "--max-age", "soon").returncode == 2


def test_command(
    run: Run, keyed: dict[str, str], home: Path, sim: Simulator, tmp_path: Path
) -> None:
    """`key: {command: …}` gives the key; `keys list` names it as the source; its failure is exit
    4 with its stderr redacted."""
    secret = tmp_path / "secret"
    secret.write_text(KEY + "\n")
    text = config(home).read_text()
    config(home).write_text(text.replace("{keyring: sim}", f"{{command: 'cat {secret}'}}"))
    assert run("ask", "hi", env=keyed).returncode == 0
    assert sim.calls[-1].api_key == KEY
    (row,) = listed(run, keyed, "-p", "sim")
    assert (row["source"], row["command"], row["last4"]) == ("command", "cat", "4711")
    assert run("keys", "set", "sim", env=keyed, stdin=KEY).returncode == 2
    secret.unlink()
    script = f"[{sys.executable}, -c, \"import sys; sys.exit('no {KEY} here')\"]"
    config(home).write_text(text.replace("{keyring: sim}", f"{{command: {script}}}"))
    done = run("ask", "hi", env=keyed)
    assert done.returncode == 4
    assert "failed (exit 1): no [key] here" in done.stderr


def test_check(llmctl_keyed: Run, sim: Simulator) -> None:
    """One free call tells whether the provider accepts the key; a refusal is exit 4 with the
    profile's name, silence exit 5, a missing key exit 4."""
    missing = llmctl_keyed("keys", "check", "sim")
    assert (missing.returncode, "no usable key for sim" in missing.stderr) == (4, True)
    llmctl_keyed("keys", "set", "sim", stdin=KEY)
    sim.accept_keys({KEY})
    done = llmctl_keyed("keys", "check", "sim")
    assert (done.returncode, done.stdout) == (0, f"sim  {sim.origin}  …4711 (keyring)  ok\n")
    assert [(c.method, c.api_key) for c in sim.calls] == [("GET", KEY)]
    assert sim.billed.requests == 0
    assert json.loads(llmctl_keyed("keys", "check", "-p", "sim", "--json").stdout)[0]["ok"] is True
    sim.accept_keys({OTHER})
    done = llmctl_keyed("keys", "check", "sim")
    assert (done.returncode, done.stdout.rstrip()[-6:]) == (4, "FAILED")
    assert "no usable key for sim" in done.stderr
    sim.accept_keys(None)
    sim.fault = errors.unavailable()
    assert llmctl_keyed("keys", "check", "sim").returncode == 5


def test_check_names_every_profile_asked_for(
    run: Run, keyed: dict[str, str], home: Path, sim: Simulator
) -> None:
    """Of two that share a refused key both are named, and it is sent once; asked for none, the key
    is checked once."""
    box = f"  box: {{provider: openai, base_url: {sim.base_url}, key: {{env: BOX_KEY}}}}\n"
    config(home).write_text(config(home).read_text() + box)
    run("keys", "set", "sim", env=keyed, stdin=KEY)
    env = {**keyed, "BOX_KEY": KEY}
    sim.accept_keys({OTHER})
    done = run("keys", "check", "sim", "box", env=env)
    assert (done.returncode, "no usable key for sim, box" in done.stderr) == (4, True)
    assert len(sim.calls) == 1
    assert "no usable key for sim\n" in run("keys", "check", env=env).stderr


def test_remove(run: Run, keyed: dict[str, str], home: Path) -> None:
    """A removed key is gone; so is one that no profile uses any more."""
    run("keys", "set", "sim", env=keyed, stdin=KEY)
    assert run("keys", "remove", "sim", env=keyed).returncode == 0
    assert run("ask", "hi", env=keyed).returncode == 4
    assert run("keys", "remove", "sim", env=keyed).returncode == 2
    run("keys", "set", "sim", env=keyed, stdin=KEY)
    config(home).write_text("default: openai\n")
    (row,) = [row for row in listed(run, keyed) if row["name"] == "sim"]
    assert row["profiles"] == []
    assert run("keys", "remove", "sim", env=keyed).returncode == 0
    assert not [row for row in listed(run, keyed) if row["name"] == "sim"]


@pytest.mark.parametrize("command", ["set", "check", "remove"])
def test_unknown_name(llmctl_keyed: Run, command: str) -> None:
    """A name that nothing has is exit 2 with the nearest one; what could be a key is not shown."""
    done = llmctl_keyed("keys", command, "opanai", stdin=KEY)
    assert done.returncode == 2
    assert 'did you mean "openai"' in done.stderr
    assert KEY not in llmctl_keyed("keys", command, KEY, stdin=KEY).stderr
    if command != "check":
        assert llmctl_keyed("keys", command, "local", stdin=KEY).returncode == 2


@pytest.mark.parametrize(
    ("backend", "why"),
    [
        ("keyring.backends.null.Keyring", "keeps nothing"),
        ("keyrings.cryptfile.file.PlaintextKeyring", "plain text"),
        ("nothing.like.this", "ModuleNotFoundError"),
    ],
)
def test_no_usable_keyring(run: Run, keyed: dict[str, str], backend: str, why: str) -> None:
    """Without a keyring that keeps a secret: exit 4, the reason, three ways on, nothing stored."""
    env = {**keyed, "PYTHON_KEYRING_BACKEND": backend}
    plain = "Plaintext" in backend  # one is enough for what all have in common
    for command in (("set", "sim"), ("rotate", "sim"))[: 1 + plain]:
        done = run("keys", *command, env=env, stdin=KEY)
        assert done.returncode == 4
        assert "stored the key" not in done.stdout
        assert why in done.stderr
        for way in ("the environment", "another program", "an encrypted file"):
            assert way in done.stderr
    if not plain:
        return
    assert run("ask", "hi", env=env).returncode == 4
    assert not [row for row in listed(run, keyed, "-p", "sim") if row["role"] == "primary"]


def test_locked_and_silent(run: Run, keyed: dict[str, str], tmp_path: Path) -> None:
    """A keyring that nobody unlocks, or that does not answer within 3 s, is exit 4 and says so."""
    with SecretService(tmp_path / "locked", unlocked=False) as locked:
        done = run("keys", "set", "sim", env={**keyed, **locked.environ}, stdin=KEY)
        assert done.returncode == 4
        assert "no keyring can be used" in done.stderr
    with SecretService(tmp_path / "silent") as silent:
        silent.pause()
        done = run("keys", "set", "sim", env={**keyed, **silent.environ}, stdin=KEY)
        assert done.returncode == 4
        assert "did not answer within 3 s" in done.stderr


def test_encrypted_file(run: Run, keyed: dict[str, str], home: Path, sim: Simulator) -> None:
    """Without a desktop an encrypted file keeps the keys: private, unreadable, and only with the
    right password."""
    env = {name: value for name, value in keyed.items() if not name.startswith("DBUS")}
    env["PYTHON_KEYRING_BACKEND"] = "keyrings.cryptfile.cryptfile.CryptFileKeyring"
    assert "LLMCTL_KEYRING_PASSWORD" in run("keys", "set", "sim", env=env, stdin=KEY).stderr
    env["LLMCTL_KEYRING_PASSWORD"] = "a good password"
    done = run("keys", "set", "sim", env=env, stdin=KEY)
    assert done.returncode == 0, done.stderr
    file = home / ".local/share/python_keyring/cryptfile_pass.cfg"
    assert f"in the encrypted file {file}" in done.stdout
    assert file.stat().st_mode & 0o777 == 0o600
    assert [path.name for path in file.parent.iterdir()] == [file.name]
    assert KEY not in file.read_text()
    assert run("ask", "hi", env=env).returncode == 0
    assert sim.calls[-1].api_key == KEY
    wrong = run("ask", "hi", env={**env, "LLMCTL_KEYRING_PASSWORD": "another one"})
    assert wrong.returncode == 4
    assert "password of the encrypted file is not right" in wrong.stderr
    assert run("keys", "remove", "sim", env=env).returncode == 0
    assert run("ask", "hi", env=env).returncode == 4


def test_nothing_pays_for_the_keyring(run: Run, configured: dict[str, str], tmp_path: Path) -> None:
    """Commands that need no stored key do not import `keyring`: lists, and calls whose key is in
    the environment or that have none."""
    (tmp_path / "in.jsonl").write_text('{"id": "a", "prompt": "b"}\n')
    env = {**configured, "PYTHONPROFILEIMPORTTIME": "1", "OPENAI_API_KEY": KEY}
    for command in (
        ["keys", "set", "--help"], ["profiles", "list"], ["ask", "hi"],
        ["batch", str(tmp_path / "in.jsonl")], ["ask", "-p", "openai", "--dry-run", "hi"],
    ):  # fmt: skip
        done = run(*command, env=env)
        assert done.returncode == 0, done.stderr[-2000:]
        imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
        assert "llmctl" in imported
        assert not [name for name in imported if name.split(".")[0] == "keyring"], command
