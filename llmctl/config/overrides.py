"""What the environment and the command line say of the profile in use, as drafts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from msgspec import Struct
from msgspec.structs import asdict

from llmctl.config import values as v
from llmctl.config.drafts import Draft
from llmctl.config.schema import MAX_TOKENS, PROFILE, TEMPERATURE
from llmctl.config.tree import Node


class Overrides(Struct, frozen=True):
    """What the command line says; None: not given. All but `profile` apply to the profile that
    is used. `rpm` and `tpm` are requests and tokens per minute."""

    profile: str | None = None
    model: str | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    concurrency: int | None = None
    rpm: int | None = None
    tpm: int | None = None


VARIABLES = ("model", "max_tokens", "temperature", "concurrency", "rpm", "tpm")
"""Knobs that `LLMCTL_…` sets. An address is not among them: the profile's key would follow it."""


def environment(environ: Mapping[str, str]) -> Draft:
    """The knobs set by `LLMCTL_…` variables; an empty one is not set. Raises `ConfigError`."""
    named = {name: f"LLMCTL_{name.upper()}" for name in VARIABLES}
    return _draft(
        {
            name: (variable, environ[variable].strip())
            for name, variable in named.items()
            if environ.get(variable, "").strip()
        }
    )


def flags(overrides: Overrides) -> Draft:
    """The knobs set by flags. Raises `ConfigError` for one that is out of range."""
    given = {name: value for name, value in asdict(overrides).items() if name != "profile"}
    return _draft(
        {
            name: ("--" + name.replace("_", "-"), str(value))
            for name, value in given.items()
            if value is not None
        }
    )


def _draft(given: Mapping[str, tuple[str, str]]) -> Draft:
    said: dict[str, Any] = {}
    limits = PROFILE["limits"]
    assert isinstance(limits, Mapping)
    for name, (source, written) in given.items():
        node = Node(source, "", written)
        if name == "model":
            said["model"] = v.text(node)
        elif name in limits:
            said.setdefault("limits", {})[name] = limits[name](node)
        else:
            reader = MAX_TOKENS if name == "max_tokens" else TEMPERATURE
            said.setdefault("params", {})[name] = reader(node)
    return Draft(said, {}, tuple(source for source, _ in given.values()))
