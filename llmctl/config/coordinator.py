"""The settings of what many machines share: `coordinator:`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec.structs import replace

from llmctl.config.settings import RedisSettings, SinkSecret
from llmctl.config.yaml_nodes import Node


def read_coordinator(node: Node, said: Mapping[str, Any] | None) -> RedisSettings | None:
    """The settings that `node` says; None where it says nothing. Raises `ConfigError` where there
    is no address, or two."""
    if not said:
        return None
    if ("url" in said) == ("secret_url" in said):
        raise node.error("needs url or secret_url, one of them")
    if "secret_url" in said and "key" in said:
        raise node.error("has key beside secret_url, which holds the password itself")
    return msgspec.convert(said, RedisSettings)


def secret_variables(settings: RedisSettings | None) -> set[str]:
    """The environment variables that hold its secrets."""
    return {place.env for place in settings.secrets if place.env} if settings else set()


def hiding(settings: RedisSettings | None, hidden: tuple[str, ...]) -> RedisSettings | None:
    """The same, where no command that prints a secret sees these variables."""

    def place(one: SinkSecret | None) -> SinkSecret | None:
        return replace(one, hidden=hidden) if one is not None and one.command else one

    if settings is None:
        return None
    return replace(settings, secret_url=place(settings.secret_url), key=place(settings.key))
