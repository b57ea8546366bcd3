"""Every codec keeps the one contract: the same cases under the same names."""

from __future__ import annotations

from llmctl.providers.registry import PRESETS
from tests.conformance.codec import CodecContract
from tests.conformance.codec_dialects import DIALECTS


def test_every_codec_is_tested() -> None:
    """Whatever a preset speaks stands below."""
    spoken = {(preset.name, api) for preset in PRESETS.values() for api in preset.codecs}
    assert {(dialect.name, dialect.api) for dialect in DIALECTS} == spoken


for _dialect in DIALECTS:
    _name = f"Test{_dialect.name.title()}{_dialect.api.title()}"
    globals()[_name] = type(_name, (CodecContract,), {"dialect": _dialect})
