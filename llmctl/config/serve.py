"""The gateway's settings: `serve:` as its files say it, checked against the profiles."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import msgspec

from llmctl.config.paths import named_path
from llmctl.config.settings import Algorithm, Serve
from llmctl.config.yaml_nodes import Node, nearest, quoted, read

_ALGORITHMS: Mapping[str, tuple[Algorithm, ...]] = {
    "jwks": ("RS256", "ES256"),
    "secret": ("HS256",),
}


def read_serve(
    node: Node, profiles: Collection[str], environ: Mapping[str, str], cwd: Path
) -> Serve:
    """The settings of `node`, the merged sections; `profiles` are the names of all there are.

    Raises `ConfigError` that names the place: for what `Serve` does not allow, a profile that is
    none or is not served, and a key and algorithms that do not go together.
    """
    said, entries = read(node, Serve), node.mapping()
    served = profiles if said.get("profiles") is None else said["profiles"]
    _check_profiles(entries.get("profiles"), profiles)
    for section in ("teams", "organisations"):
        for group in entries[section].mapping().values() if section in entries else ():
            _check_profiles(group.mapping().get("profiles"), served)
    if "models" in entries:
        _check_aliases(entries["models"], profiles, served)
    if "screen" in entries:
        _check_rules(entries["screen"])
    if jwt := said.get("jwt"):
        _check_jwt(jwt, entries["jwt"])
        if "://" not in (file := jwt.get("jwks") or "://"):
            jwt["jwks"] = str(_path(file, entries["jwt"].mapping()["jwks"], environ, cwd))
    if tls := said.get("tls"):
        files = entries["tls"].mapping()
        said["tls"] = {key: _path(name, files[key], environ, cwd) for key, name in tls.items()}
    return msgspec.convert(said, Serve)


def secret_variables(serve: Serve) -> set[str]:
    """The environment variables that hold the gateway's own secrets."""
    found = set()
    if serve.jwt and serve.jwt.secret:
        found.add(serve.jwt.secret.env)
    if serve.introspection:
        found.add(serve.introspection.client_secret.env)
    return found


def _path(written: str, node: Node, environ: Mapping[str, str], cwd: Path) -> Path:
    return named_path(written, cwd / node.where.rpartition(":")[0], environ)


def _check_profiles(node: Node | None, known: Collection[str]) -> None:
    """Each name of the list is a known one."""
    for item in node.items() if node else ():
        _check_profile(item, str(item.value), known)


def _check_profile(node: Node, name: str, known: Collection[str]) -> None:
    if name not in known:
        wrong = f"{quoted(name)}; {nearest(name, known)}"
        raise node.error(f"names no profile that the gateway has: {wrong}")


def _check_aliases(node: Node, profiles: Collection[str], served: Collection[str]) -> None:
    """An alias stands for a served profile and hides none."""
    for alias, target in node.mapping().items():
        if alias in profiles:
            raise target.error("has the name of a profile, which needs no alias; choose another")
        _check_profile(target, str(target.value).partition("/")[0], served)


def _check_rules(node: Node) -> None:
    names = [str(rule.mapping()["name"].value) for rule in node.items()]
    for index, rule in enumerate(node.items()):
        if names[index] in names[:index]:
            raise rule.error(f"has the name of another rule, {quoted(names[index])}")


def _check_jwt(said: dict[str, Any], node: Node) -> None:
    """One source of keys, and algorithms of its kind: a public key must never be a shared secret.

    Sets the algorithms where none are said.
    """
    sources = [source for source in _ALGORITHMS if said.get(source)]
    if len(sources) != 1:
        raise node.error(
            "needs jwks (the issuer's public keys) or secret: {env: NAME}, one of them"
        )
    allowed = _ALGORITHMS[sources[0]]
    for item in node.mapping()["algorithms"].items() if "algorithms" in said else ():
        if item.value not in allowed:
            raise item.error(f"does not go with {sources[0]}, which takes {' and '.join(allowed)}")
    said["algorithms"] = said.get("algorithms") or allowed
