"""The secret at a place that the configuration names: a variable, a manager, or a command."""

from __future__ import annotations

from collections.abc import Mapping

from llmctl.config.settings import SinkSecret
from llmctl.errors import NoKeyError
from llmctl.keys.command import CommandSource
from llmctl.keys.key import KeySlot
from llmctl.keys.keyring_store import PASSWORD
from llmctl.keys.resolver import EnvironmentSource
from llmctl.keys.secrets import SecretSource

_SLOT = KeySlot("secret", "")


async def secret_of(place: SinkSecret, environ: Mapping[str, str]) -> str:
    """The secret at a place. Raises `NoKeyError` and `SetupError`."""
    if place.secret is not None:
        return (await SecretSource(place.secret, {}, environ).find(_SLOT)).value
    if place.command is not None:
        hidden = (*place.hidden, PASSWORD)
        return (await CommandSource(place.command, environ, hidden).find(_SLOT)).value
    assert place.env is not None
    key = EnvironmentSource(environ, place.env).read()
    if key is None:
        raise NoKeyError(f"${place.env} is not set: set it with `export {place.env}=…`")
    return key.value
