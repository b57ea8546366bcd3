"""Names of people and places, by Presidio: the extra `ner`."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from functools import cache
from importlib.metadata import entry_points
from typing import Any

from llmctl.auth.extras import needs_extra
from llmctl.errors import SetupError
from llmctl.privacy.findings import Finding, Kind

_ENTITIES: dict[str, Kind] = {"PERSON": "person", "LOCATION": "location"}
_SIZES = ("_trf", "_lg", "_md", "_sm")  # of spaCy's models, the best first
_LOWEST = 0.5  # score of a name that counts


def check_model() -> str:
    """The best model of spaCy that is installed. Raises `SetupError` where Presidio or a model is
    missing: left alone, Presidio would fetch one."""
    needs_extra("ner", "presidio_analyzer", "presidio-analyzer")
    models = {each.name for each in entry_points(group="spacy_models")}
    english = sorted(name for name in models if name.startswith("en_"))
    for size in _SIZES:
        for name in english:
            if size in name:
                return name
    raise SetupError(
        "names need a model of spaCy, and none is installed: "
        "`python -m spacy download en_core_web_lg` in llmctl's environment"
    )


def find_names(text: str, kinds: Collection[Kind]) -> Iterator[Finding]:
    """Names of English texts, in time that is about 40 times that of all other kinds.

    Raises `SetupError`.
    """
    entities = [name for name, kind in _ENTITIES.items() if kind in kinds]
    for found in _analyzer().analyze(text, language="en", entities=entities):
        if found.score >= _LOWEST:
            yield Finding(_ENTITIES[found.entity_type], found.start, found.end, found.score)


@cache
def _analyzer() -> Any:
    """Presidio with the one recogniser of names. Its others are left out: the one of mail fetches
    a list of suffixes from the network."""
    model = check_model()
    from presidio_analyzer import AnalyzerEngine, RecognizerRegistry
    from presidio_analyzer.nlp_engine import NlpEngineProvider
    from presidio_analyzer.predefined_recognizers import SpacyRecognizer

    models = [{"lang_code": "en", "model_name": model}]
    engine = NlpEngineProvider(
        nlp_configuration={"nlp_engine_name": "spacy", "models": models}
    ).create_engine()
    registry = RecognizerRegistry(
        recognizers=[SpacyRecognizer(supported_entities=list(_ENTITIES))],
        supported_languages=["en"],
    )
    return AnalyzerEngine(registry=registry, nlp_engine=engine, supported_languages=["en"])
