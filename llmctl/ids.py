"""ULIDs, until every import says `llmctl.clock`."""

from __future__ import annotations

from llmctl.clock import ulid

__all__ = ["ulid"]
