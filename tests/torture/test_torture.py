"""Every run in its small size."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.torture.__main__ import RUNS, line
from tests.torture.judge import Size, UnableError

ALONE = {"hostile", "memory"}
"""In a process of their own: a program's peak memory is, to the system, at least its parent's."""


@pytest.mark.parametrize("name", RUNS)
def test_what_is_survived(name: str) -> None:
    """Each run ends with its line: all that its module's docstring promises has held."""
    try:
        if name not in ALONE:
            assert line(name, Size())
            return
    except UnableError as reason:
        pytest.skip(str(reason))
    command = [sys.executable, "-m", "tests.torture", name, "--seed", "1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
