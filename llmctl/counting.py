"""Counting many short prompts at once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

from llmctl import vocabulary
from llmctl.prompt import plain_texts
from llmctl.types import Request

if TYPE_CHECKING:
    from tiktoken import Encoding

_SEAM = "<|endoftext|>"
"""A special token of all vocabularies in use: nothing before it is joined to what follows."""

_TOGETHER = 64
"""Requests that are counted together: a fraction of a millisecond."""

_SHORT = 8192
"""Characters: counting more takes so long that doing it together with others gains nothing."""

_EXPECTED = 1024
"""Requests that are expected at the most: two lots of a batch, which must not be kept for longer
when they turn out not to be counted."""


class Expected:
    """Requests that will be counted soon, by their fingerprints, in the order they were named.
    Threads that count long prompts may take some, too: none that is gone is missed."""

    def __init__(self) -> None:
        self._requests: dict[str, Request] = {}

    def __contains__(self, fingerprint: str) -> bool:
        return fingerprint in self._requests

    def __len__(self) -> int:
        return len(self._requests)

    def add(self, requests: Iterable[Request]) -> None:
        """Expect these, too; those without a fingerprint could not be told apart."""
        self._requests.update({one.fingerprint: one for one in requests if one.fingerprint})
        keep_newest(self._requests, _EXPECTED)

    def take(self, model: str) -> tuple[Mapping[str, int], list[str]]:
        """The first of them: how many texts each has, and all their texts one after the other.
        Of those that are no plain, short turns for `model` none is given; they are no longer
        expected, either."""
        room = vocabulary.CHUNK
        found: dict[str, int] = {}
        texts: list[str] = []
        for fingerprint, request in list(islice(self._requests.items(), _TOGETHER)):
            plain = plain_texts(request) if request.target.model == model else None
            size = len("".join(plain)) if plain else 0
            if plain and size <= _SHORT:
                if size > room:
                    break
                room -= size
                found[fingerprint] = len(plain)
                texts += plain
            self._requests.pop(fingerprint, None)
        return found, texts


def keep_newest(kept: dict[str, Any], most: int) -> None:
    """Drop what came first until there are `most` left. Other threads may do the same."""
    for oldest in list(islice(kept, max(0, len(kept) - most))):
        kept.pop(oldest, None)


def counts(encoding: Encoding, texts: Sequence[str]) -> list[int]:
    """The tokens of each text, as `encode_ordinary` would count them one by one. That gives
    Python's lock away for every text, and in a busy run has to wait until it gets it back."""
    if any(_SEAM in text for text in texts):  # there it is text
        return [len(encoding.encode_ordinary(text)) for text in texts]
    tokens = encoding.encode(_SEAM.join(texts), allowed_special={_SEAM}, disallowed_special=())
    seam, found, start = encoding.eot_token, [], 0
    for _ in texts[1:]:
        end = tokens.index(seam, start)
        found.append(end - start)
        start = end + 1
    found.append(len(tokens) - start)
    return found
