"""The presets."""

from __future__ import annotations

import subprocess
import sys

import pytest

from llmctl.providers.endpoint import join
from llmctl.providers.registry import LOCAL, PRESETS, batch_api


def test_the_presets_have_prices() -> None:
    """The default models are ones whose price is known, so that budgets hold."""
    from llmctl.pricing import Prices
    from llmctl.types import Target

    for preset in PRESETS.values():
        if preset.name != LOCAL:
            base_url = preset.address("eu-west-1", "p") if preset.address else preset.base_url
            target = Target("p", preset.name, preset.adapter, base_url, preset.model)
            assert Prices().worst_case(target, None, 1000, 1000, 1_795_000_000.0), preset.name


def test_no_codec_is_imported_before_it_is_used() -> None:
    """The list of presets alone costs no provider's module."""
    look = "import sys, llmctl.providers.registry as r; print(*(m for m in sys.modules))"
    done = subprocess.run([sys.executable, "-c", look], capture_output=True, text=True, check=True)
    assert "llmctl.providers.registry" in done.stdout
    assert not {"llmctl.providers.openai_chat", "llmctl.providers.gemini"} & set(
        done.stdout.split()
    )


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_has_the_batches_it_names(name: str) -> None:
    """Whatever it names is there, and used by all; a preset that names none has none."""
    made = batch_api(PRESETS[name].adapter)
    assert (made is not None) is bool(PRESETS[PRESETS[name].adapter].batches)
    assert made is batch_api(PRESETS[name].adapter)


@pytest.mark.parametrize(
    ("base_url", "path", "url"),
    [
        ("https://h/v1", "/chat/completions", "https://h/v1/chat/completions"),
        ("https://h", "/models", "https://h/models"),
        ("https://h/v2", "../v1/tokenize", "https://h/v1/tokenize"),
        ("https://h/v1?api-version=x", "/models", "https://h/v1/models?api-version=x"),
        ("https://h/v1?a=1", "/m:go?alt=sse", "https://h/v1/m:go?alt=sse&a=1"),
    ],
)
def test_addresses(base_url: str, path: str, url: str) -> None:
    """A path is below the base URL, or beside it; the base's query goes along."""
    assert join(base_url, path) == url
