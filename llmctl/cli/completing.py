"""What a shell is told of the words that may follow, without typer.

Importing typer takes four times as long as Python's own start, and the words that bash asks for
most are the same each time: names of commands, and options of one. A test holds this list against
what typer says.
"""

from __future__ import annotations

from collections.abc import Mapping

from llmctl.cli.commands import COMMANDS

_ALWAYS = "--quiet -q --verbose -v -h --help"

WORDS = {
    "": "--version --install-completion --show-completion -h --help",
    "ask": (
        "--profile -p --model -m --system -s --attach -a --schema --max-tokens "
        "--temperature -t --option -o --stream --no-stream --markdown --continue -c "
        "--no-history --tag --no-cache --refresh --budget --dry-run --exact --usage -u "
        f"--config --json {_ALWAYS}"
    ),
    "batch": (
        "--output -o --profile -p --model -m --system -s --template --schema "
        "--id-field --engine --concurrency --rpm --tpm --limit --max-errors --format "
        "--ordered --restart --no-cache --refresh --tag --budget --dry-run --config "
        f"--json {_ALWAYS}"
    ),
    "keys": "set list check rotate remove -h --help",
    "keys set": f"--profile -p --config {_ALWAYS}",
    "keys list": f"--profile -p --max-age --config --json {_ALWAYS}",
    "keys check": f"--profile -p --config --json {_ALWAYS}",
    "keys rotate": f"--finish --rollback --profile -p --config {_ALWAYS}",
    "keys remove": f"--origin --profile -p --config {_ALWAYS}",
    "cost": "report check release prices -h --help",
    "cost report": f"--since --from --to --by --format --timezone --config --json {_ALWAYS}",
    "cost check": (
        f"--budget --period --by --each --warn-at --strict --timezone --config --json {_ALWAYS}"
    ),
    "cost release": f"--run --all --billed --config --json {_ALWAYS}",
    "cost prices": f"--update --config --json {_ALWAYS}",
    "cache": "prune stats -h --help",
    "cache prune": f"--older-than --max-size --model -m --all --dry-run --json {_ALWAYS}",
    "cache stats": f"--json {_ALWAYS}",
    "profiles": "list show init trust -h --help",
    "profiles list": f"--config --json {_ALWAYS}",
    "profiles show": f"--config --json {_ALWAYS}",
    "profiles init": f"--force {_ALWAYS}",
    "profiles trust": f"--revoke {_ALWAYS}",
    "models": f"--profile -p --config --json {_ALWAYS}",
    "local": "install status remove -h --help",
    "local install": f"--from --json {_ALWAYS}",
    "local status": f"--json {_ALWAYS}",
    "local remove": f"--json {_ALWAYS}",
}
"""By what stands before it on the line, what may come next: names and options."""


def completed(environ: Mapping[str, str]) -> list[str]:
    """What may follow on the line in bash, as typer would have it; nothing where typer has to be
    asked: for other shells, values, what comes after an option or an argument, quotes, and a word
    that begins none."""
    at = environ.get("COMP_CWORD", "")
    if environ.get("_LLMCTL_COMPLETE") != "complete_bash" or not at.isdecimal():
        return []
    line = environ.get("COMP_WORDS", "").split()
    before, begun = line[1 : int(at)], "".join(line[int(at) : int(at) + 1])
    known = WORDS.get(" ".join(before), "").split()
    if not before:
        known = [*COMMANDS, *known]
    return [word for word in known if (word.startswith(begun) if begun else word[0] != "-")]
