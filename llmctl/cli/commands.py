"""The names of the commands."""

from __future__ import annotations

COMMANDS = {
    "ask": "Ask one prompt and print the answer.",
    "batch": "Answer every row of a file.",
    "keys": "Store, list, check, rotate and remove provider keys.",
    "cost": "Report spending, check it against budgets, settle what is unknown, show the prices.",
    "cache": "Show what is kept of answers and what it saved; remove it.",
    "profiles": "List, show and begin the configuration of providers.",
    "models": "List the models that the provider offers this key.",
    "local": "Install, inspect and remove the embedded model of the profile `local`.",
}
"""Every command with its summary, in the order of `--help`. `cli/NAME.py` has a `command`, or,
for a group of them, an `app`."""
