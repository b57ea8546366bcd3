"""A complete profile as a file would have to say it."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, Any

from msgspec.structs import asdict

from llmctl.config.jsonvalue import scalar
from llmctl.config.settings import KeySource, Profile
from llmctl.errors import ConfigError
from llmctl.providers.registry import LOCAL

if TYPE_CHECKING:
    import yaml


def as_json(profile: Profile) -> dict[str, Any]:
    """The profile with the keys of a configuration file; never the key itself.

    Durations are seconds; prices are `Decimal`, USD per million tokens.
    """
    local = profile.provider == LOCAL
    params = {"temperature": profile.temperature, "max_tokens": profile.max_tokens}
    price = asdict(profile.price) if profile.price else None
    said = {
        "provider": profile.provider,
        "model": profile.model,
        "base_url": None if local else profile.base_url,
        "api": profile.api if profile.api != "chat" else None,
        "query": dict(profile.query),
        "key_header": profile.key_header,
        "key": _key(profile.key),
        "params": {**{k: v for k, v in params.items() if v is not None}, **profile.params},
        "limits": asdict(profile.limits),
        "timeout": asdict(profile.timeout),
        "retry": asdict(profile.retry),
        "breaker": asdict(profile.breaker),
        "cache": asdict(profile.cache),
        "history": profile.history,
        "on_overflow": profile.on_overflow,
        "http": profile.http,
        "fallback": list(profile.fallback) or None,
        "price": {k: v for k, v in price.items() if v is not None} if price else None,
        "tags": dict(profile.tags),
        "context": profile.context,
        "model_path": str(profile.model_path) if profile.model_path else None,
        "parallel": profile.parallel if local else None,
    }
    return {key: value for key, value in said.items() if value is not None and value != {}}


def _key(source: KeySource | None) -> dict[str, Any] | None:
    """What a file says of the key; nothing when it is what the provider brings along."""
    if source is None or (source.env and source.keyring):
        return None
    if source.command:
        return {"command": list(source.command)}
    return {"env": source.env} if source.env else {"keyring": source.keyring}


def as_yaml(profile: Profile) -> str:
    """The profile as YAML that can be put into a configuration file and means the same there."""
    import yaml

    class Dumper(yaml.SafeDumper):
        """Writes numbers as people do, and text so that our own reader takes it as text."""

        def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002
            return True

    Dumper.add_representer(float, _number)
    Dumper.add_representer(Decimal, _number)
    Dumper.add_representer(str, _text)
    document = {"profiles": {profile.name: as_json(profile)}}
    return yaml.dump(document, Dumper=Dumper, sort_keys=False, allow_unicode=True, width=100)


def _number(dumper: yaml.SafeDumper, value: float | Decimal) -> yaml.ScalarNode:
    exact = value if isinstance(value, Decimal) else Decimal(repr(value))
    written = f"{exact:f}" if -20 <= exact.adjusted() <= 20 else repr(float(value))
    if "." in written and "e" not in written:
        written = written.rstrip("0").rstrip(".")
    kind = "int" if written.lstrip("-").isdigit() else "float"
    return dumper.represent_scalar(f"tag:yaml.org,2002:{kind}", written)


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    try:
        misread = scalar(value) != value
    except ConfigError:
        misread = True
    style = "'" if misread else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)
