"""Packages of an extra, imported only where a profile needs them."""

from __future__ import annotations

from importlib.util import find_spec

from llmctl.errors import SetupError


def needs_extra(extra: str, module: str, package: str) -> None:
    """Raises `SetupError` with the command that installs what is missing."""
    try:
        found = find_spec(module) is not None
    except ModuleNotFoundError:  # of the package above it
        found = False
    if not found:
        raise SetupError(
            f"{package} is not installed: `pip install {package}` in the environment of llmctl, or "
            f"install llmctl with its extra `{extra}`, from its checkout with `pip install "
            f"'.[{extra}]'`"
        )
