"""The names of the commands, and a shell's question for one of them.

Importing typer takes four times as long as Python's own start. A shell that completes the first
word needs nothing of it.
"""

from __future__ import annotations

from collections.abc import Mapping

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


def completed(environ: Mapping[str, str]) -> list[str]:
    """The commands that the first word of the line in bash begins, as typer would name them;
    nothing where it has to be asked: for other shells, later words, options, quotes, and a word
    that begins none."""
    if environ.get("_LLMCTL_COMPLETE") != "complete_bash" or environ.get("COMP_CWORD") != "1":
        return []
    begun = environ.get("COMP_WORDS", "").split()[1:2] or [""]
    return [name for name in COMMANDS if name.startswith(begun[0])]
