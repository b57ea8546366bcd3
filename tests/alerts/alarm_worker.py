"""A process that looks at the rules of alerts, for tests: `HOME NOW [die-before-sending]`.

Every line of stdin that follows is another moment to look at; it prints a line for each look.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

from llmctl.alerts.alarm import Alarm, _check
from llmctl.config.load import load
from tests.support import FakeClock


def main(home: str, *options: str) -> None:
    """Look whenever a line says so, at the moment that it names."""
    settings = load(environ={"HOME": home}, cwd=Path(home))
    clock = FakeClock()
    print("ready", flush=True)
    for line in sys.stdin:
        clock.now += float(line) - clock.wall()
        with Alarm(settings, {}, clock, lambda text: print(text, file=sys.stderr)) as alarm:
            _check(alarm, settings.folders.state / "ledger.db")
            if "die-before-sending" in options:
                os.kill(os.getpid(), signal.SIGKILL)
            sent = asyncio.run(alarm.deliver())
        print(len(sent), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
