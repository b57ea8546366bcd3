"""What masking is compared with: `pii_presidio.py FILE`, a text a line, as JSON.

Presidio's own recognisers, with the model of spaCy that is installed beside it, or none. Needs
nothing of this package, so that any interpreter can run it; prints JSON: the spans of each text as
`[kind, start, end]`, and the seconds of processor it took.
"""

from __future__ import annotations

import json
import sys
import time
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

_KINDS = {
    "EMAIL_ADDRESS": "email",
    "PHONE_NUMBER": "phone",
    "CREDIT_CARD": "card",
    "IBAN_CODE": "iban",
    "US_SSN": "ssn",
    "IP_ADDRESS": "ip",
}


def _engine() -> Any:
    import spacy
    import tldextract
    from presidio_analyzer import AnalyzerEngine
    from presidio_analyzer.nlp_engine import NlpEngineProvider, SpacyNlpEngine

    # Else it would fetch a list of suffixes.
    suffixes: Any = tldextract
    suffixes.extract = tldextract.TLDExtract(suffix_list_urls=())
    names = [each.name for each in entry_points(group="spacy_models")]
    if names:
        models = [{"lang_code": "en", "model_name": names[0]}]
        settings = {"nlp_engine_name": "spacy", "models": models}
        return AnalyzerEngine(
            nlp_engine=NlpEngineProvider(nlp_configuration=settings).create_engine()
        )
    blank: Any = SpacyNlpEngine()
    blank.nlp = {"en": spacy.blank("en")}
    return AnalyzerEngine(nlp_engine=blank)


def main() -> None:
    """Find, and print."""
    lines = Path(sys.argv[1]).read_text(encoding="utf-8").splitlines()
    texts = [json.loads(line) for line in lines]
    engine = _engine()
    engine.analyze("warm up: ann@example.com", language="en", entities=list(_KINDS))
    began, found = time.process_time(), []
    for text in texts:
        spans = engine.analyze(text, language="en", entities=list(_KINDS))
        found.append([(_KINDS[each.entity_type], each.start, each.end) for each in spans])
    print(json.dumps({"seconds": time.process_time() - began, "found": found}))


if __name__ == "__main__":
    main()
