"""Whatever stands in a file: settings, or one `ConfigError`."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import orjson
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from llmctl.config.load import load
from llmctl.config.profiles import as_yaml
from llmctl.config.settings import Profile, Serve, Settings
from llmctl.config.yaml_nodes import keys_of
from llmctl.errors import ConfigError

_SCALARS = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
    | st.dates() | st.binary(max_size=5)
    | st.sampled_from(["10s", "openai", "local", "chat", "http://localhost:1/v1", "K", "0.5"])
)  # fmt: skip
_VALUES: st.SearchStrategy[Any] = st.recursive(
    _SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_SCALARS, inner, max_size=3),
    max_leaves=8,
)
_SECTIONS = ("limits", "timeout", "retry", "breaker", "cache", "key", "price", "params", "tags")
_PROFILES = st.dictionaries(st.sampled_from(sorted(keys_of(Profile))), _VALUES) | st.builds(
    dict.fromkeys,
    st.lists(st.sampled_from(_SECTIONS)),
    st.dictionaries(st.sampled_from(["rpm", "total", "ttl", "env", "input", "output"]), _SCALARS),
)
_GATEWAY = st.dictionaries(st.sampled_from(sorted(keys_of(Serve))), _VALUES)
_FILES = st.fixed_dictionaries(
    {"profiles": st.dictionaries(st.sampled_from(["openai", "local", "p"]), _PROFILES)},
    optional={"default": _SCALARS, "budgets": _VALUES, "serve": _GATEWAY},
)


def _load(text: str | bytes) -> Settings | None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "c.yaml")
        path.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8", "replace"))
        try:
            return load(environ={"HOME": folder}, cwd=Path(folder), config=path)
        except ConfigError as error:
            assert str(error).startswith(str(path))  # noqa: PT017 - every message names the file
            return None


@settings(deadline=None)
@given(st.binary())
def test_any_bytes(raw: bytes) -> None:
    """Arbitrary bytes never raise anything else."""
    _load(raw)


@given(st.text(alphabet="[]{}&*!|>'\"%@-:,?# \n\tax0~<\\U"))
@settings(max_examples=300, deadline=None)
def test_any_punctuation(text: str) -> None:
    """Text made of YAML's own punctuation never raises anything else, in either parser."""
    _load(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.delattr(yaml, "CSafeLoader", raising=False)
        _load(text)


@given(_FILES | _VALUES)
@settings(max_examples=300, deadline=None)
def test_any_document(document: Any) -> None:
    """Well-formed documents of any shape give settings, or one `ConfigError`; what is accepted
    can be sent as JSON, and be shown and read again with the same meaning."""
    outcome = _load(yaml.safe_dump(document))
    if outcome is None:
        return
    for profile in outcome.profiles.values():
        orjson.dumps(profile.params)
        again = _load(as_yaml(profile))
        assert again is not None
        for name in ("params", "limits", "price", "timeout", "tags", "model"):
            assert getattr(again.profiles[profile.name], name) == getattr(profile, name)
