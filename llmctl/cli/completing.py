"""What a shell is told of the words that may follow, without typer.

Importing typer takes four times as long as Python's own start, and with the descriptions that zsh,
fish and PowerShell show it imports rich as well. What may follow is always the same: tests hold
what is said here against what typer itself says.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from llmctl.cli.following import UnclearError, follow

_QUOTES = frozenset("'\"\\")
_ZSH = str.maketrans({'"': '""', "'": "''", "$": r"\$", "`": r"\`", ":": r"\\:"})


def completed(environ: Mapping[str, str]) -> tuple[str, int] | None:
    """What to print for the shell that asks, and the exit code; None where typer has to be asked:
    for quotes, and lines that are unclear."""
    shell = environ.get("_LLMCTL_COMPLETE", "").removeprefix("complete_")
    try:
        found = follow(*_line(shell, environ))
    except UnclearError:
        return None
    if shell == "bash":
        return "\n".join(word for word, _ in found), 0
    if shell == "zsh":
        entries = "\n".join(_quoted(word, about) for word, about in found)
        return f"_arguments '*: :(({entries}))'" if found else "_files", 0
    if shell != "fish":
        return "\n".join(f"{word}:::{about or ' '}" for word, about in found), 0
    if environ.get("_TYPER_COMPLETE_FISH_ACTION") == "get-args":
        return "\n".join(f"{word}\t{about}" if about else word for word, about in found), 0
    return "", 0 if found else 1  # whether there is anything but files


def _line(shell: str, environ: Mapping[str, str]) -> tuple[Sequence[str], str]:
    """The words before the one that is being typed, and that one, as typer's script for the shell
    hands them over. Raises `UnclearError`."""
    text = environ.get("COMP_WORDS" if shell == "bash" else "_TYPER_COMPLETE_ARGS", "")
    words = text.split()
    if not words or not _QUOTES.isdisjoint(text):
        raise UnclearError
    if shell == "bash":
        at = environ.get("COMP_CWORD", "")
        if not at.isdecimal():
            raise UnclearError
        return words[1 : int(at)], "".join(words[int(at) :][:1])
    if shell in {"zsh", "fish"}:
        begun = "" if text[-1].isspace() else "".join(words[1:][-1:])
    elif shell in {"powershell", "pwsh"}:
        begun = environ.get("_TYPER_COMPLETE_WORD_TO_COMPLETE", "")
    else:
        raise UnclearError
    return words[1:-1] if begun else words[1:], begun


def _quoted(word: str, about: str) -> str:
    entry = f'"{word.translate(_ZSH)}"'
    return f'{entry}:"{about.translate(_ZSH)}"' if about else entry
