"""`llmctl local`, run as a person would."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from llmctl.cli.context import Context
from llmctl.cli.local_commands import install, status
from llmctl.providers import local_model_files
from llmctl.providers.local_model_files import SMOLLM2

pytest_plugins = ["tests.local_model"]

Run = Callable[..., "CompletedProcess[str]"]


def test_install_status_remove(run: Run, environ: dict[str, str], model: Path, home: Path) -> None:
    """Install puts the model where status finds it verified, once; remove frees its bytes."""
    installed = run("local", "install", "--from", str(model))
    path = home / ".local/share/llmctl/models" / SMOLLM2.file
    assert installed.returncode == 0
    assert installed.stdout == f"{path}\n"
    assert "SmolLM2-135M-Instruct by Hugging Face, 98.4 MB, licence Apache-2.0" in installed.stderr

    again = run("local", "install")
    assert again.returncode == 0
    assert "nothing to do" in again.stderr

    status = json.loads(run("local", "status", "--json").stdout)
    assert status["ready"] is status["verified"] is True
    assert status["path"] == str(path)
    assert status["bytes"] == path.stat().st_size == SMOLLM2.size
    assert path.stat().st_mode & 0o777 == 0o600

    with path.open("r+b") as file:
        file.seek(1_000_000)
        file.write(b"damage")
    assert "damaged, 98.4 MB: run `llmctl local install`" in run("local", "status").stdout

    removed = run("local", "remove")
    assert removed.stdout == f"removed {path}: 98.4 MB freed\n"
    assert not path.exists()
    assert environ["HOME"] == str(home)


def test_status_and_remove_of_nothing(run: Run) -> None:
    """With nothing there, both say so and exit 0."""
    status = run("local", "status")
    assert (status.returncode, status.stderr) == (0, "")
    assert "missing: run `llmctl local install`" in status.stdout
    assert json.loads(run("local", "status", "--json").stdout)["bytes"] is None
    removed = run("local", "remove", "--json")
    assert removed.returncode == 0
    assert json.loads(removed.stdout)["removed"] is False


def test_corrupt_source_is_refused(run: Run, tmp_path: Path, home: Path) -> None:
    """A file that is not the model: one sentence, exit 2, and no file is left."""
    source = tmp_path / "model.gguf"
    source.write_bytes(b"GGUF" + bytes(1000))
    done = run("local", "install", "--from", str(source), "--quiet")
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: model.gguf does not hold ")
    assert done.stderr.count("\n") == 1
    assert [path for path in home.rglob("*") if path.is_file()] == []


def test_data_folder_can_be_named(run: Run, environ: dict[str, str], tmp_path: Path) -> None:
    """`LLMCTL_DATA_DIR` and `XDG_DATA_HOME` say where models lie."""
    for name, below in (("LLMCTL_DATA_DIR", ""), ("XDG_DATA_HOME", "llmctl/")):
        done = run("local", "status", env={**environ, name: str(tmp_path / "there")})
        assert f"{tmp_path}/there/{below}models/{SMOLLM2.file}" in done.stdout


def test_missing_server_is_told(
    model_data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without the extra, install does its part and warns; status tells the same; both exit 0."""
    monkeypatch.setattr(local_model_files, "find_spec", lambda _: None)
    context = Context(environ={"LLMCTL_DATA_DIR": str(model_data)}, quiet=True)
    assert install(context) == 0
    assert "run `pip install 'xllamacpp==" in capsys.readouterr().err
    assert status(context) == 0
    assert "server   missing: run `pip install 'xllamacpp==" in capsys.readouterr().out
