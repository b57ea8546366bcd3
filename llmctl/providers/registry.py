"""The built-in presets: adding a provider is one codec file and one entry here."""

from __future__ import annotations

from dataclasses import dataclass

from llmctl.protocols import Codec


@dataclass(frozen=True, slots=True)
class Preset:
    """A provider as it comes: its wire format, address, key variable and a default model.

    `needs_key` is False for servers on the user's own machine.
    """

    name: str
    adapter: str
    base_url: str
    model: str
    key_env: str | None
    needs_key: bool = True


LOCAL = "local"
"""The preset served by the embedded model; its address is known only once it runs."""

PRESETS: dict[str, Preset] = {
    p.name: p
    for p in (
        Preset("openai", "openai", "https://api.openai.com/v1", "gpt-5-mini", "OPENAI_API_KEY"),
        Preset(LOCAL, "openai", "http://127.0.0.1/v1", "smollm2-135m", None, needs_key=False),
    )
}


def codec(adapter: str) -> Codec:
    """The codec of a wire format; imported only when it is used."""
    if adapter == "openai":
        from llmctl.providers.openai_chat import OpenAIChat

        return OpenAIChat()
    raise KeyError(adapter)
