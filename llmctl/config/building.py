"""One profile's drafts, merged, become a complete `Profile`."""

from __future__ import annotations

import os.path
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

from llmctl.config.drafts import Draft
from llmctl.config.paths import home
from llmctl.config.settings import (
    BreakerPolicy,
    CachePolicy,
    KeySource,
    Limits,
    Profile,
    RetryPolicy,
    Timeouts,
)
from llmctl.config.tree import nearest, quoted
from llmctl.errors import ConfigError
from llmctl.providers.registry import LOCAL, PRESETS, Preset
from llmctl.types import Price, Target

_LOCAL: Mapping[str, Any] = {
    # One answer on a busy two-core machine may take minutes, the first also loads the model.
    "timeout": {"first_byte": 300.0, "total": 600.0},
    # It runs on the user's own machine.
    "price": {"input": Decimal(0), "output": Decimal(0)},
    # A small model's own default, 0.8 without a limit, wanders off, now and then for minutes.
    "params": {"temperature": 0.2, "top_p": 0.9, "max_tokens": 512},
    "context": 2048,
    "parallel": 4,
}
_ONLY_LOCAL = ("model_path", "parallel")
_NEVER_LOCAL = ("base_url", "key", "key_header", "query")


def origin(base_url: str) -> str:
    """Scheme, host and port of an address: what a key is bound to."""
    return Target("", "", "", base_url, "").origin


def complete(name: str, draft: Draft, environ: Mapping[str, str], cwd: Path) -> Profile:
    """The profile: its preset, and over it what `draft` says.

    The key variable and the stored key that a preset brings along belong to the preset's origin:
    at another address the profile has the key it names itself, or none. Raises `ConfigError`.
    """
    preset = _preset(name, draft)
    base: dict[str, Any] = {"model": preset.model, "base_url": preset.base_url}
    if preset.name == LOCAL:
        base |= _LOCAL
    _refuse_misplaced(preset, draft)
    said = draft.over(Draft(base)).values

    path = _model_path(draft, environ, cwd)
    params = dict(said.get("params", {}))
    max_tokens, temperature = params.pop("max_tokens", None), params.pop("temperature", None)
    limits = dict(said.get("limits", {}))
    if preset.name == LOCAL:
        limits.setdefault("concurrency", said["parallel"])
    at_home = origin(said["base_url"]) == origin(preset.base_url)
    source = KeySource(**said["key"]) if "key" in said else None
    if source is None and at_home and preset.key_env:
        source = KeySource(_variable(preset, environ), keyring=preset.name)
    api = said.get("api", "chat")
    if "api" in said and api not in PRESETS[preset.adapter].codecs:
        raise draft.marks["api"].error(f"is not spoken by {preset.name}, which has only chat")
    sources = (("built in",) if name in PRESETS else ()) + draft.sources
    return Profile(
        name=name,
        provider=preset.name,
        adapter=preset.adapter,
        base_url=said["base_url"],
        # Answers of two files must not meet in the cache under one model's name.
        model=path.stem if path and "model" not in draft.values else said["model"],
        key=source,
        max_tokens=max_tokens,
        temperature=temperature,
        key_header=said.get("key_header"),
        api=api,
        query=said.get("query", {}),
        params=params,
        limits=Limits(**limits),
        timeout=Timeouts(**said.get("timeout", {})),
        retry=RetryPolicy(**said.get("retry", {})),
        breaker=BreakerPolicy(**said.get("breaker", {})),
        cache=CachePolicy(**said.get("cache", {})),
        # Who keeps no answers on the disk does not want them in the conversations either.
        history=said.get("history", said.get("cache", {}).get("enabled", True)),
        on_overflow=said.get("on_overflow", "reject"),
        http=said.get("http", "auto"),
        fallback=said.get("fallback", ()),
        price=_price(said.get("price"), draft),
        tags=said.get("tags", {}),
        context=said.get("context"),
        model_path=path,
        parallel=said.get("parallel", 4),
        source=", ".join(sources),
    )


def _variable(preset: Preset, environ: Mapping[str, str]) -> str | None:
    """The first of the preset's key variables that is set; the first of them when none is."""
    known = (name for name in preset.key_env if environ.get(name, "").strip())
    return next(known, next(iter(preset.key_env), None))


def _preset(name: str, draft: Draft) -> Preset:
    provider = draft.values.get("provider") or (name if name in PRESETS else None)
    names = ", ".join(PRESETS)
    if provider is None:
        raise ConfigError(
            f"{draft.sources[0]}: the profile {quoted(name)} needs a `provider:`, "
            f"one of {names}; or name it as a built-in profile to change that one"
        )
    if provider in PRESETS:
        return PRESETS[provider]
    mark = draft.marks["provider"]
    raise mark.error(
        f"names no provider, {quoted(provider)}; {nearest(provider, PRESETS)} (any "
        "server that speaks OpenAI's API is `provider: openai` with its `base_url`)"
    )


def _refuse_misplaced(preset: Preset, draft: Draft) -> None:
    local = preset.name == LOCAL
    for key in _NEVER_LOCAL if local else _ONLY_LOCAL:
        if key in draft.values:
            raise draft.marks[key].error(
                "is not for `provider: local`, which llmctl starts itself; another server is "
                "`provider: openai`"
                if local
                else "is only for `provider: local`"
            )


def _price(said: Mapping[str, Decimal | None] | None, draft: Draft) -> Price | None:
    if not said:
        return None
    given, produced = said.get("input"), said.get("output")
    if given is None or produced is None:
        raise draft.marks["price"].error("needs both input and output")
    return Price(given, produced, said.get("cached_input"), said.get("cache_write"))


def _model_path(draft: Draft, environ: Mapping[str, str], cwd: Path) -> Path | None:
    """The model's file: `~` is the home folder, a relative path begins at the file naming it."""
    if "model_path" not in draft.values:
        return None
    written = str(draft.values["model_path"])
    if written == "~" or written.startswith("~/"):
        return home(environ) / written[2:]
    file = draft.marks["model_path"].where.rpartition(":")[0]
    return Path(os.path.normpath((cwd / file).parent / written))
