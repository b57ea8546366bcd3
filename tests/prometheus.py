"""Prometheus' own judge of a page of metrics, and the page's samples.

Needs Debian's package `prometheus`; installs nothing itself.
"""

from __future__ import annotations

import os
import shutil
import subprocess

import pytest
from prometheus_client.parser import text_string_to_metric_families


def check(page: bytes) -> None:
    """Fail where `promtool check metrics` finds a fault. Skipped where it is missing, but never in
    CI."""
    if shutil.which("promtool") is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("install the package prometheus")
    done = subprocess.run(
        ["promtool", "check", "metrics"], input=page, capture_output=True, check=False, timeout=60
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def samples(page: bytes) -> dict[frozenset[str], float]:
    """The samples of a page, by name and the values of their labels in any order."""
    return {
        frozenset((sample.name, *sample.labels.values())): sample.value
        for family in text_string_to_metric_families(page.decode())
        for sample in family.samples
    }
