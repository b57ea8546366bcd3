"""Recall and precision of masking, and its time: `python -m tests.bench.pii FILE`.

FILE holds lines `{"text", "spans": [{"kind", "start", "end"}]}`, `.gz` or not, with the kinds of
presidio-research's synthetic set (github.com/microsoft/presidio-research, MIT). Recall: spans
covered whole by a finding of their kind; precision: findings that touch a span of their kind.
`--python PATH`: an interpreter that has Presidio, measured beside.
"""

from __future__ import annotations

import argparse
import gzip
import json
import re
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llmctl.privacy.findings import IDENTIFIERS
from llmctl.privacy.recognisers import find

_KINDS = {
    "CREDIT_CARD": "card",
    "PHONE_NUMBER": "phone",
    "EMAIL_ADDRESS": "email",
    "IBAN_CODE": "iban",
    "US_SSN": "ssn",
    "IP_ADDRESS": "ip",
}
Span = tuple[str, int, int]


def read(path: Path) -> tuple[list[str], list[list[Span]]]:
    """Texts, and the identifiers in each."""
    raw = path.read_bytes()
    raw = gzip.decompress(raw) if path.suffix == ".gz" else raw
    rows: list[dict[str, Any]] = [json.loads(line) for line in raw.splitlines()]
    spans = [
        [(_KINDS[s["kind"]], s["start"], s["end"]) for s in row["spans"] if s["kind"] in _KINDS]
        for row in rows
    ]
    return [row["text"] for row in rows], spans


def figures(
    name: str, texts: list[str], wanted: list[list[Span]], found: list[list[Span]], seconds: float
) -> list[str]:
    """Lines that say what was found."""
    hits, total, right, said = Counter[str](), Counter[str](), Counter[str](), Counter[str]()
    whole = 0
    for spans, findings in zip(wanted, found, strict=True):
        for kind, start, end in spans:
            total[kind] += 1
            hits[kind] += any(k == kind and a <= start and end <= b for k, a, b in findings)
        for kind, start, end in findings:
            said[kind] += 1
            right[kind] += any(k == kind and a < end and start < b for k, a, b in spans)
        whole += bool(spans) and all(_covered(span, findings) for span in spans)
    texts_with = sum(bool(spans) for spans in wanted)
    size = sum(len(text.encode()) for text in texts) / 1024
    by_kind = ", ".join(
        f"{kind} {hits[kind] / total[kind]:.2f} ({right[kind] / max(said[kind], 1):.2f}) of "
        f"{total[kind]}"
        for kind in total
    )
    share, precision = whole / texts_with, right.total() / max(said.total(), 1)
    return [
        f"pii: {name}: recall (precision): {by_kind}",
        f"pii: {name}: {share:.1%} of {texts_with} texts covered whole, precision {precision:.3f}",
        f"pii: {name}: {seconds * 1000 / size:.2f} ms a KB in {len(texts)} texts",
    ]


def _covered(span: Span, findings: Sequence[Span]) -> bool:
    return any(start <= span[1] and span[2] <= end for _, start, end in findings)


def ours(texts: list[str]) -> tuple[list[list[Span]], float]:
    """What llmctl finds, and seconds."""
    for text in texts:  # numbers once looked up are known, as in a run
        find(text, IDENTIFIERS)
    began = time.process_time()
    found = [find(text, IDENTIFIERS) for text in texts]
    seconds = time.process_time() - began
    return [[(each.kind, each.start, each.end) for each in row] for row in found], seconds


def presidio(python: Path, texts: list[str]) -> tuple[list[list[Span]], float]:
    """What Presidio finds, and seconds."""
    with tempfile.NamedTemporaryFile("w", suffix=".jsonl", encoding="utf-8") as file:
        file.writelines(json.dumps(text) + "\n" for text in texts)
        file.flush()
        script = Path(__file__).with_name("pii_presidio.py")
        command = [str(python), str(script), file.name]
        done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    said = json.loads(done.stdout.splitlines()[-1])
    return [[(k, a, b) for k, a, b in row] for row in said["found"]], said["seconds"]


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.pii")
    parser.add_argument("file", type=Path)
    parser.add_argument("--python", type=Path, help="an interpreter that has presidio-analyzer")
    options = parser.parse_args()
    texts, wanted = read(options.file)
    found, seconds = ours(texts)
    print(*figures("llmctl", texts, wanted, found, seconds), sep="\n")
    pattern = re.compile(r"[\w.+-]+@[\w-]+\.[\w.]+|[0-9][0-9 .-]{6,}[0-9]")
    began = time.process_time()
    for text in texts:
        pattern.findall(text)
    print(f"pii: {seconds / (time.process_time() - began):.1f} times one regex of mail and digits")
    if options.python:
        print(*figures("Presidio", texts, wanted, *presidio(options.python, texts)), sep="\n")


if __name__ == "__main__":
    main()
