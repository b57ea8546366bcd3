"""CONTRIBUTING.md keeps its word: the worked example of a provider works."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

from llmctl.protocols import Codec
from llmctl.types import Target
from tests.support import request

TEXT = (Path(__file__).parents[1] / "CONTRIBUTING.md").read_text(encoding="utf-8")


def test_the_worked_example_of_a_provider(monkeypatch: pytest.MonkeyPatch) -> None:
    """The example's file, as it stands there, is a codec that does what the text says of it."""
    found = re.search(r"```python\n(.*?)```", TEXT, re.DOTALL)
    assert found is not None
    module = ModuleType("llmctl.providers.example")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(compile(found[1], "example.py", "exec"), module.__dict__)
    codec: Codec = module.Example()
    target = Target("example", "example", "example", "https://api.example.com/v1", "example-small")
    wire = codec.encode(request(max_tokens=9, target=target), stream=True)
    assert wire.path == "/chat/completions"
    assert wire.body is not None
    assert wire.body["max_new_tokens"] == 9
    assert "stream_options" not in wire.body
    assert codec.auth("k") == {"authorization": "Bearer k"}
