"""A process that prunes a ledger: `python -m tests.storage.prune_worker PATH BEFORE`.

It removes 20 calls at a time, and says so after each step.
"""

from __future__ import annotations

import sys
from contextlib import closing
from pathlib import Path

from llmctl.storage import ledger_prune
from llmctl.storage.ledger import open_ledger


def main(path: Path, before: int) -> None:
    """Prune."""
    ledger_prune._STEP = 20
    with closing(open_ledger(path, "", "")) as ledger:
        ledger_prune.prune(ledger.database, before, lambda n: print(n, flush=True))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
