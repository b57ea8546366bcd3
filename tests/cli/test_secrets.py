"""Keys out of a secrets manager, as a person who runs commands has them."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import LLMCTL, Run, configure
from tests.keys.openbao import OpenBao, closed_port
from tests.simulator.server import Simulator

OLD, NEW = "sk-managed-old-0001", "sk-managed-new-0002"


@pytest.fixture
def secret(request: pytest.FixtureRequest, openbao: OpenBao) -> str:
    """The path of a secret of the test's own; nothing is there yet."""
    del openbao
    return f"cli/{request.node.name.partition('[')[0]}"


@pytest.fixture
def managed(
    home: Path, environ: dict[str, str], sim: Simulator, openbao: OpenBao, secret: str
) -> dict[str, str]:
    """The environment with a default profile `sim`, whose key is the field `key` of `secret`."""
    configure(home, sim.base_url, f'{{secret: "vault://secret/{secret}#key"}}')
    return {**environ, "VAULT_ADDR": openbao.address, "VAULT_TOKEN": openbao.token()}


def test_a_rotation_in_the_middle_of_a_batch(
    managed: dict[str, str], sim: Simulator, openbao: OpenBao, secret: str, tmp_path: Path
) -> None:
    """The manager has a new key, and the provider refuses the old one from then on: of 1,500 rows
    none is lost or fails, and one sentence says what happened."""
    rows = "".join(json.dumps({"id": f"r{n}", "prompt": f"say {n}"}) + "\n" for n in range(1_500))
    (tmp_path / "in.jsonl").write_text(rows)
    openbao.put(secret, key=OLD)
    sim.record_bodies = False
    sim.accept_keys({OLD})
    command = [str(LLMCTL), "batch", "in.jsonl", "--no-cache", "--concurrency", "32"]
    with subprocess.Popen(
        command, env=managed, cwd=tmp_path, stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        sim.wait_for_calls(400, 60)
        openbao.put(secret, key=NEW)
        sim.accept_keys({NEW})
        _, said = process.communicate(timeout=120)
    assert process.returncode == 0, said
    done = [json.loads(line) for line in (tmp_path / "in.out.jsonl").read_text().splitlines()]
    assert {row["id"] for row in done if "error" not in row} == {f"r{n}" for n in range(1_500)}
    assert len(done) == 1_500
    assert said.count("the provider refused the key …0001; going on with the one it was") == 1
    assert "…0002 (vault://" in said
    assert said.count("…0001") == 1


def test_the_manager_is_down_at_the_start(run: Run, managed: dict[str, str], secret: str) -> None:
    """Exit 4: profile, manager, address and reason are named, after one more attempt; nothing is
    sent."""
    done = run("ask", "hi", env={**managed, "VAULT_ADDR": f"http://127.0.0.1:{closed_port()}"})
    assert done.returncode == 4
    assert f"profile sim: Vault, vault://secret/{secret}#key: no connection to" in done.stderr
    assert "base_url" not in done.stderr
    done = run("ask", "hi", env=managed)
    assert done.returncode == 4
    assert "there is no such secret; check `key.secret`" in done.stderr


def test_the_manager_goes_down_in_a_batch(
    managed: dict[str, str], sim: Simulator, tmp_path: Path
) -> None:
    """The known key goes on; when the provider refuses that, the run ends with exit 4, and why
    there is no other key is said with the manager's name."""
    (tmp_path / "in.jsonl").write_text('{"prompt": "a"}\n' * 40)
    with OpenBao(tmp_path) as server:
        server.put("llm", key=OLD)
        config = Path(managed["HOME"]) / ".config/llmctl/config.yaml"
        path = config.read_text().partition("vault://secret/")[2].partition("#")[0]
        config.write_text(config.read_text().replace(path, "llm"))
        env = {**managed, "VAULT_ADDR": server.address, "VAULT_TOKEN": server.token()}
        sim.accept_keys({OLD})
        sim.latency = 0.05
        command = [str(LLMCTL), "batch", "in.jsonl", "--no-cache", "--concurrency", "1"]
        with subprocess.Popen(
            command, env=env, cwd=tmp_path, stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        ) as process:  # fmt: skip
            sim.wait_for_calls(2)
            server.stop()
            known = len(sim.calls)
            sim.wait_for_calls(known + 5)
            sim.accept_keys({NEW})
            _, said = process.communicate(timeout=60)
    assert process.returncode == 4, said
    assert "no other key: Vault, vault://secret/llm#key: no connection to 127.0.0.1" in said
    rows = [json.loads(line) for line in (tmp_path / "in.out.jsonl").read_text().splitlines()]
    assert len([row for row in rows if "error" not in row]) >= 5


def listed(run: Run, env: dict[str, str]) -> list[dict[str, Any]]:
    """The rows of the profile `sim`."""
    done = run("keys", "list", "--json", "-p", "sim", env=env)
    assert done.returncode == 0, done.stderr
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


def test_keys_list(run: Run, managed: dict[str, str], openbao: OpenBao, secret: str) -> None:
    """It shows manager, address and version, and of the value its last four characters alone; a
    secret that cannot be read is a row, too, with the reason."""
    (row,) = listed(run, managed)
    assert (row["source"], row["role"], row["last4"]) == ("secret", "missing", None)
    assert "there is no such secret" in row["problem"]
    for value in (OLD, NEW):
        openbao.put(secret, key=value)
    (row,) = listed(run, managed)
    uri = f"vault://secret/{secret}#key"
    assert (row["source"], row["secret"], row["role"]) == ("secret", uri, "primary")
    assert (row["manager"], row["version"], row["last4"]) == ("Vault", "version 2", "0002")
    shown = run("keys", "list", "-p", "sim", env=managed).stdout
    assert f"Vault, {uri} (version 2)" in " ".join(shown.split())
    assert NEW not in shown + json.dumps(row)


def test_a_managed_key_is_stored_there(run: Run, managed: dict[str, str], secret: str) -> None:
    """`keys set` and `keys rotate` of such a profile say where the new key belongs."""
    for command in ("set", "rotate"):
        done = run("keys", command, "sim", env=managed, stdin=NEW)
        assert done.returncode == 2
        assert f"vault://secret/{secret}#key; store a new version there, and calls" in done.stderr


def test_keys_list_without_what_a_manager_needs(
    run: Run, managed: dict[str, str], home: Path, secret: str, tmp_path: Path
) -> None:
    """A secret whose manager needs something that is not installed is a row with where that is to
    be had; a call of that profile is exit 2 with the same sentence."""
    config = home / ".config/llmctl/config.yaml"
    text = config.read_text()
    config.write_text(text.replace(f"vault://secret/{secret}#key", "op://llm/openai/credential"))
    env = {**managed, "PATH": str(tmp_path)}
    (row,) = listed(run, env)
    assert (row["secret"], row["role"]) == ("op://llm/openai/credential", "missing")
    assert "`op`, is not installed: see https://" in row["problem"]
    done = run("ask", "hi", env=env)
    assert done.returncode == 2
    assert "`op`, is not installed: see https://" in done.stderr


def test_a_project_may_not_name_a_manager(
    run: Run, managed: dict[str, str], openbao: OpenBao, secret: str, tmp_path: Path
) -> None:
    """A repository's `key.secret` is exit 2 until the user trusts its file: it would send a secret
    of the user's choice of manager to whom the repository says."""
    openbao.put(secret, key=OLD)
    folder = tmp_path / "repo"
    (folder / ".git").mkdir(parents=True)
    (folder / "llmctl.yaml").write_text(
        f'profiles:\n  sim:\n    key: {{secret: "vault://secret/{secret}#key"}}\n'
    )
    done = run("ask", "hi", env=managed, cwd=folder)
    assert done.returncode == 2
    assert "llmctl.yaml:3: profiles.sim.key needs your trust" in done.stderr
    assert run("profiles", "trust", env=managed, cwd=folder).returncode == 0
    assert run("ask", "hi", env=managed, cwd=folder).stdout == "echo: hi"


CLOUDS = ("botocore", "google.auth", "azure", "llmctl.auth.aws", "llmctl.auth.google",
          "llmctl.auth.azure", "llmctl.keys.vault_secrets", "llmctl.keys.aws_secrets")  # fmt: skip


def test_nothing_pays_for_the_clouds(run: Run, configured: dict[str, str], tmp_path: Path) -> None:
    """Commands whose profile has neither a manager's key nor a cloud's `auth` import nothing of
    any: so they start no later than before."""
    (tmp_path / "in.jsonl").write_text('{"prompt": "b"}\n')
    env = {**configured, "PYTHONPROFILEIMPORTTIME": "1"}
    for command in (
        ["--version"], ["ask", "hi"], ["batch", "in.jsonl"], ["keys", "list", "-p", "sim"],
        ["profiles", "list"],
    ):  # fmt: skip
        done = run(*command, env=env)
        assert done.returncode == 0, done.stderr[-2000:]
        imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
        assert "llmctl" in imported
        assert not [name for name in imported if name.startswith(CLOUDS)], command
