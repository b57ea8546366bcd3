"""Which file a local profile is served from, and what is said when it cannot be."""

from __future__ import annotations

from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest

from llmctl.config.settings import Folders, Profile
from llmctl.errors import SetupError
from llmctl.providers import local_model_files
from llmctl.providers.local_model_files import default_model, is_installed, model_file


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    """Folders of a user who has nothing yet."""
    return Folders(tmp_path, tmp_path, tmp_path, tmp_path / "data")


@pytest.fixture
def extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """The extra is installed."""
    monkeypatch.setattr(local_model_files, "find_spec", lambda name: ModuleSpec(name, None))


@pytest.fixture
def no_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """The extra is not installed."""
    monkeypatch.setattr(local_model_files, "find_spec", lambda _: None)


def profile(path: Path | None = None) -> Profile:
    """A local profile."""
    return Profile("local", "local", "openai", "http://127.0.0.1/v1", "m", model_path=path)


def put_default(folders: Folders, size: int = local_model_files.SMOLLM2.size) -> Path:
    """A file of that size, with holes for content, as the default model."""
    path = default_model(folders)
    path.parent.mkdir(parents=True)
    with path.open("wb") as file:
        file.write(b"GGUF")
        file.truncate(size)
    return path


@pytest.mark.usefixtures("extra")
def test_default_model_is_served_when_no_path_is_named(folders: Folders) -> None:
    """With server and model there, `local` is installed and served from the default model."""
    assert not is_installed(folders)
    path = put_default(folders)
    assert is_installed(folders)
    assert model_file(profile(), folders) == path


@pytest.mark.usefixtures("extra")
def test_own_model_needs_no_default(
    folders: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A profile's `model_path` wins, `~` means the home folder, and the answer is absolute."""
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "own.gguf").write_bytes(b"GGUF")
    assert model_file(profile(Path("~/own.gguf")), folders) == tmp_path / "own.gguf"


@pytest.mark.usefixtures("extra")
def test_missing_model_names_one_command(folders: Folders) -> None:
    """Only the model is missing: the command that fetches it, and exit code 2."""
    with pytest.raises(SetupError, match=r"not installed: run `llmctl local install`$") as raised:
        model_file(profile(), folders)
    assert raised.value.exit_code == 2


@pytest.mark.usefixtures("no_extra")
def test_missing_extra_names_one_command(folders: Folders) -> None:
    """Only the server is missing: the command that brings it."""
    put_default(folders)
    assert not is_installed(folders)
    with pytest.raises(SetupError, match=r"run `pip install 'llmctl\[local\]'`$"):
        model_file(profile(), folders)


@pytest.mark.usefixtures("no_extra")
def test_nothing_there_names_one_command(folders: Folders) -> None:
    """Both are missing: one line that brings both."""
    with pytest.raises(SetupError, match=r"`pip install 'llmctl\[local\]' && llmctl local inst"):
        model_file(profile(), folders)


@pytest.mark.usefixtures("extra")
def test_cut_default_model_is_to_be_installed_again(folders: Folders) -> None:
    """A default model of the wrong size does not count as installed."""
    put_default(folders, size=1000)
    assert not is_installed(folders)
    with pytest.raises(SetupError, match="is not whole: run `llmctl local install`"):
        model_file(profile(), folders)


@pytest.mark.usefixtures("extra")
@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("none.gguf", "there is no model at"),
        (".", "is a folder"),
        ("text.gguf", "is not a GGUF file"),
        ("a\0b", "cannot be read"),
        ("~nobody-at-all/x.gguf", "cannot be read"),
    ],
)
def test_wrong_own_model_is_told(folders: Folders, tmp_path: Path, name: str, said: str) -> None:
    """Whatever a profile names instead of a model: one sentence that says so."""
    (tmp_path / "text.gguf").write_text("hello")
    path = Path(name) if name.startswith("~") else tmp_path / name
    with pytest.raises(SetupError, match=f"{said}.*model_path"):
        model_file(profile(path), folders)
