"""`llmctl serve` on the command line: what it refuses, and how it says so."""

from __future__ import annotations

import socket
from contextlib import closing
from pathlib import Path

import pytest

from llmctl.cli import serve as command
from llmctl.cli.context import Context
from llmctl.cli.serve import ServeOptions
from llmctl.errors import SetupError
from tests.conftest import Run


def test_port_in_use(llmctl: Run) -> None:
    """A port that is taken is one sentence that names the flag, exit 2."""
    with closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = llmctl("serve", "--port", str(port))
    assert (done.returncode, done.stdout) == (2, "")
    assert f"port {port} of 127.0.0.1 is in use" in done.stderr
    assert "--port" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_no_strangers_without_authentication(llmctl: Run, host: str, home: Path) -> None:
    """Nobody but this machine is served while callers need not say who they are: exit 2, with the
    ways on; a look for tokens creates nothing."""
    done = llmctl("serve", "--host", host, "--port", "0")
    assert done.returncode == 2
    assert "llmctl tokens create" in done.stderr
    assert "`jwt:`" in done.stderr
    assert not (home / ".local/state/llmctl/tokens.db").exists()


def test_a_revoked_token_is_no_authentication(llmctl: Run) -> None:
    """Tokens count as long as one is in force."""
    llmctl("tokens", "create", "ci")
    llmctl("tokens", "revoke", "ci")
    done = llmctl("serve", "--host", "0.0.0.0", "--port", "0")
    assert (done.returncode, "llmctl tokens create" in done.stderr) == (2, True)


def test_no_address_of_this_machine(llmctl: Run) -> None:
    """An address that the machine does not have, and a name that is none, are exit 2."""
    for host in ("203.0.113.1", "no-such-host.invalid"):
        done = llmctl("serve", "--host", host, "--port", "0")
        assert done.returncode == 2
        assert f"{host} is no address of this machine" in done.stderr


def test_half_a_certificate(llmctl: Run, tmp_path: Path) -> None:
    """A certificate without its key, files that are not there, and files that are none are exit 2
    and named."""
    file = tmp_path / "cert.pem"
    done = llmctl("serve", "--tls-cert", str(file))
    assert (done.returncode, "--tls-key is missing" in done.stderr) == (2, True)
    both = ("--tls-cert", str(file), "--tls-key", str(file))
    done = llmctl("serve", *both)
    assert (done.returncode, f"cannot read {file}" in done.stderr) == (2, True)
    file.write_text("nothing")
    done = llmctl("serve", *both)
    assert (done.returncode, "are not a certificate and its key" in done.stderr) == (2, True)


def test_flags_win_over_the_file(llmctl: Run, home: Path) -> None:
    """What the command line says is used instead of what `serve:` says."""
    file = home / ".config/llmctl/config.yaml"
    file.write_text(file.read_text() + "serve: {host: 203.0.113.1, port: 1}\n")
    with closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        done = llmctl("serve", "--host", "127.0.0.1", "--port", str(port))
    assert f"port {port} of 127.0.0.1 is in use" in done.stderr


def test_missing_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the extra the command says what is missing and how to get it, before anything."""
    monkeypatch.setattr(command, "find_spec", lambda name: None if name == "uvicorn" else object())
    with pytest.raises(SetupError, match=r"\(uvicorn\).*\.\[serve\]"):
        command.run(ServeOptions(), Context())


def test_help_does_not_pay(llmctl: Run, configured: dict[str, str]) -> None:
    """What the gateway is made of is imported when it is started, not for help or another
    command."""
    env = {**configured, "PYTHONPROFILEIMPORTTIME": "1"}
    for words in (["serve", "--help"], ["profiles", "list"]):
        done = llmctl(*words, env=env)
        assert done.returncode == 0, done.stderr[-2000:]
        imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
        assert "llmctl" in imported
        heavy = {"uvicorn", "starlette", "jwt", "prometheus_client", "llmctl.gateway"}
        assert not heavy & imported
