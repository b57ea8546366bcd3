"""Identifiers replaced by tokens such as `[[EMAIL_1a2b]]`, and put back into answers; pure.

A token is made of the kind and the beginning of HMAC-SHA256 over scope and value: a value has one
token within a scope, a conversation or a row, and another in the next. Models rewrite tokens, so
they are put back however their brackets, case and spaces came out; what has no brackets any more is
left.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from itertools import accumulate
from typing import Any

from llmctl.privacy.findings import KINDS, Finding, Kind
from llmctl.privacy.recognisers import find

LONGEST = 32
"""Characters of the longest token, however a model has written it; what a stream holds back is
shorter."""

_SHORTEST_DIGEST, _LONGEST_DIGEST = 4, 16  # hexadecimal digits
_QUOTED = "TEXT"  # the kind of what looked like a token before anything was masked
_TYPES = [*(kind.upper() for kind in KINDS), _QUOTED]

_NAME = rf"\s?({'|'.join(_TYPES)})\s?\\{{0,2}}[_ -]\s?([0-9a-f]{{4,16}})\s?"
_OPEN, _CLOSE = r"\\{0,2}\[", r"\\{0,2}\]"  # with the backslashes of Markdown, in JSON doubled
_TOKEN = re.compile(
    rf"{_OPEN}\s?{_OPEN}{_NAME}{_CLOSE}\s?{_CLOSE}|{_OPEN}{_NAME}{_CLOSE}", re.IGNORECASE
)
_EXACT = re.compile(rf"\[\[(?:{'|'.join(_TYPES)})_[0-9a-f]{{4,16}}\]\]")
_START = re.compile(r"[\\\[]")
_TYPE_BEGINNINGS = "|".join(
    sorted({part for name in _TYPES for part in accumulate(name)}, key=len, reverse=True)
)
_BEGINNING = re.compile(  # of every text that `_TOKEN` may match when more has come
    rf"\\{{0,2}}(?:\[\s?\\{{0,2}}(?:\[\s?)?"
    rf"(?:(?:{_TYPE_BEGINNINGS})\s?\\{{0,2}}"
    r"(?:[_ -]\s?[0-9a-f]{0,16}\s?\\{0,2}(?:\]\s?\\{0,2})?)?)?)?",
    re.IGNORECASE,
)


class Masker:
    """The tokens of one scope.

    `key`: secret bytes; who knows them can tell whether a token stands for a value he guesses.
    `scope`: what conversation or row it is. `kinds`: what is masked. `restore`: whether values are
    put back; secrets never are. `values`: those of an earlier masker of the scope.

    Attributes:
        counts: values replaced until now, by kind; each time counts.
        unknown: tokens in answers that stand for nothing here, and were left.

    """

    def __init__(
        self,
        key: bytes,
        scope: str,
        kinds: Collection[Kind],
        *,
        restore: bool = True,
        values: Mapping[str, str] | None = None,
    ) -> None:
        self._key = hmac.digest(key, scope.encode("utf-8", "surrogatepass"), hashlib.sha256)
        self._kinds = frozenset(kinds)
        self._restores = restore
        self._values: dict[str, str] = dict(values or {})
        self._tokens: dict[tuple[str, str], str] = {}
        self.counts: Counter[Kind] = Counter()
        self.unknown = 0

    @property
    def values(self) -> dict[str, str]:
        """What may be put back, by token: to be kept encrypted, or not at all."""
        return {token: value for token, value in self._values.items() if not _is_secret(token)}

    def mask(self, text: str) -> str:
        """The text with a token for each identifier.

        What already looks like a token is replaced, too, where values are put back: so it comes
        back as it was, and never as somebody's value. Raises `SetupError`; see `find`.
        """
        return self.replaced(text, find(text, self._kinds))

    def replaced(self, text: str, found: Collection[Finding]) -> str:
        """The text with a token for each of the findings in it."""
        self.counts.update(each.kind for each in found)
        spans = [(each.start, each.end, each.kind.upper()) for each in found]
        if self._restores:
            spans = _with_quoted(text, spans)
        pieces, end = [], 0
        for start, stop, kind in spans:
            pieces += [text[end:start], self._token(kind, text[start:stop])]
            end = stop
        return "".join([*pieces, text[end:]])

    def mask_json(self, value: Any) -> Any:
        """Parsed JSON with a token for each identifier in its texts and names of fields. A number
        that is one becomes a text."""
        if isinstance(value, str):
            return self.mask(value)
        if isinstance(value, dict):
            return {self.mask(name): self.mask_json(each) for name, each in value.items()}
        if isinstance(value, list):
            return [self.mask_json(each) for each in value]
        if isinstance(value, int | float) and not isinstance(value, bool):
            masked = self.mask(str(value))
            return value if masked == str(value) else masked
        return value

    def restore(self, text: str, *, in_json: bool = False) -> str:
        """The text with the values of the tokens in it; `in_json`: it is JSON, and stays so."""
        restorer = StreamRestorer(self, in_json=in_json)
        return restorer.feed(text) + restorer.close()

    def original(self, match: re.Match[str], *, in_json: bool) -> str:
        """What stands for a token that a model wrote."""
        written = match[0]
        kind, digest = (match[1], match[2]) if match[1] else (match[3], match[4])
        token = f"[[{kind.upper()}_{digest.lower()}]]"
        if not self._restores or _is_secret(token):
            return written
        value = self._values.get(token)
        if value is None:
            self.unknown += 1
            return written
        if in_json:
            value = json.dumps(value, ensure_ascii=False)[1:-1]
        exact = _EXACT.search(written)  # what stands around it is not the model's
        return written[: exact.start()] + value + written[exact.end() :] if exact else value

    def _token(self, kind: str, value: str) -> str:
        """The token of a value: as short as it can be without being another value's."""
        if known := self._tokens.get((kind, value)):
            return known
        text = f"{kind}\0{value}".encode("utf-8", "surrogatepass")
        digest = hmac.digest(self._key, text, hashlib.sha256).hex()
        for size in range(_SHORTEST_DIGEST, _LONGEST_DIGEST + 1, 2):
            token = f"[[{kind}_{digest[:size]}]]"
            if self._values.setdefault(token, value) == value:
                self._tokens[kind, value] = token
                return token
        raise AssertionError("two values have the same 64 bits of HMAC-SHA256")


class StreamRestorer:
    """Puts values back into text that comes in pieces, however it is cut.

    Less than `LONGEST` characters are held back, and only where they may be the beginning of a
    token. `in_json`: the text is JSON, and stays so.
    """

    def __init__(self, masker: Masker, *, in_json: bool = False) -> None:
        self._masker = masker
        self._in_json = in_json
        self._held = ""

    def feed(self, piece: str) -> str:
        """What can be said for sure after one more piece."""
        return self._restored(self._held + piece, ended=False)

    def close(self) -> str:
        """What was held back, at the end of the text."""
        return self._restored(self._held, ended=True)

    def _restored(self, text: str, *, ended: bool) -> str:
        pieces, done, at = [], 0, 0
        self._held = ""
        while start := _START.search(text, at):
            at = start.start()
            if not ended and len(text) - at < LONGEST and _BEGINNING.fullmatch(text, at):
                self._held = text[at:]
                text = text[:at]
                break
            if token := _TOKEN.match(text, at, at + LONGEST):
                pieces += [text[done:at], self._masker.original(token, in_json=self._in_json)]
                done = at = token.end()
            else:
                at += 1
        return "".join([*pieces, text[done:]])


def _is_secret(token: str) -> bool:
    return token.startswith("[[SECRET")


def _tokens(text: str) -> Iterator[tuple[int, int]]:
    """Spans of what would be taken for a token."""
    at = 0
    while start := _START.search(text, at):
        at = start.start()
        if token := _TOKEN.match(text, at, at + LONGEST):
            yield token.span()
            at = token.end()
        else:
            at += 1


def _with_quoted(text: str, spans: list[tuple[int, int, str]]) -> list[tuple[int, int, str]]:
    """The spans and those of what looks like a token, in their order. Where an identifier overlaps
    such a one, the identifier counts, and breaks it."""
    if "[" not in text:
        return spans
    starts = [start for start, _, _ in spans]
    quoted = []
    for start, end in _tokens(text):
        before = bisect_left(starts, end)  # of the spans that begin before its end the last
        if not before or spans[before - 1][1] <= start:
            quoted.append((start, end, _QUOTED))
    return sorted([*spans, *quoted])
