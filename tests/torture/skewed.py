"""`llmctl` on a machine whose clock is set while it runs: `python -m tests.torture.skewed WHEN …`.

WHEN is `at:EPOCH`, the time it is when the program starts (seconds since 1970), or
`swing:SECONDS`: the clock jumps ahead and back by so much, ten times a second. The rest is
llmctl's own command line. Only `time.time` is changed: what depends on `time.monotonic` must not
notice.
"""

from __future__ import annotations

import sys
import time

_BEAT = 0.1

_real, _start = time.time, time.monotonic()


def main() -> None:
    """Set the clock, and run the command line."""
    kind, _, text = sys.argv[1].partition(":")
    number = float(text)

    def at() -> float:
        return number + time.monotonic() - _start

    def swing() -> float:
        turn = int((time.monotonic() - _start) / _BEAT) % 4
        return _real() + (0.0, number, 0.0, -number)[turn]

    time.time = {"at": at, "swing": swing}[kind]
    from llmctl.cli.app import main as program

    sys.argv[:2] = ["llmctl"]
    program()


if __name__ == "__main__":
    main()
