"""Comparisons with vendors' SDKs: failures inside the shared contract show their values."""

from __future__ import annotations

import pytest

pytest.register_assert_rewrite("tests.reference.contract", "tests.conformance.codec")
