"""What tests of codecs share."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.conformance.codec import Loop

# Their failures show their values.
pytest.register_assert_rewrite("tests.conformance.codec", "tests.conformance.batch_api")


@pytest.fixture(scope="module")
def loop() -> Iterator[Loop]:
    """An event loop, and an HTTP client in it, for all tests of a module."""
    from tests.conformance.codec import Loop

    made = Loop()
    yield made
    made.close()
