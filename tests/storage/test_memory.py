"""The stores in memory keep the same contracts as those on disk."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from llmctl.storage.memory import MemoryCache, MemoryLedger
from tests.conformance.cache_store import CacheStoreContract
from tests.conformance.calls import a_cached_answer
from tests.conformance.ledger_budgets import LedgerBudgetsContract
from tests.conformance.ledger_store import LedgerStoreContract
from tests.support import done


class TestMemoryCache(CacheStoreContract):
    """The contract, in memory."""

    @pytest.fixture
    def store(self) -> MemoryCache:
        """An empty one."""
        return MemoryCache()


class TestMemoryLedger(LedgerStoreContract, LedgerBudgetsContract):
    """The contract, in memory."""

    @pytest.fixture
    def store(self) -> MemoryLedger:
        """An empty one."""
        return MemoryLedger("run-1", "ann")


def test_the_memory_cache_forgets_what_was_used_longest_ago() -> None:
    """Its size is bounded however many answers there are, and a hit counts as use."""
    cache = MemoryCache(max_bytes=30_000)
    answer = replace(a_cached_answer("x" * 9_000), body=None)
    for key in ("a", "b", "c"):
        done(cache.put, key, answer)
        cache.get("a")
    done(cache.put, "a", answer)
    assert [cache.get(key) is not None for key in "abc"] == [True, False, True]
