"""What `--attach` makes of files and addresses."""

from __future__ import annotations

import base64
import os
from pathlib import Path
from typing import Any

import pytest

from llmctl import attachments
from llmctl.errors import InputError

PNG = b"\x89PNG\r\n\x1a\n" + bytes(9)


def parts(*sources: str) -> Any:
    """The parts of a message with these attached."""
    return attachments.message("look", sources).content


def put(folder: Path, name: str, data: bytes) -> str:
    """A file of these bytes."""
    (folder / name).write_bytes(data)
    return str(folder / name)


def test_texts_are_inlined_with_their_names(tmp_path: Path) -> None:
    """Texts need no parts: every model reads them."""
    made = parts(put(tmp_path, "a.md", b"\xef\xbb\xbfnaive\n"), put(tmp_path, "b", "ü".encode()))
    assert made == '<file name="a.md">\nnaive\n</file>\n\n<file name="b">\nü\n</file>\n\nlook'


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (PNG, "image/png"),
        (b"\xff\xd8\xff\xe0xx", "image/jpeg"),
        (b"GIF89axx", "image/gif"),
        (b"RIFF\0\0\0\nWEBPxx", "image/webp"),
        (b"RIFF\0\0\0\0WAVEfmt ", "wav"),
        (b"ID3\4xx", "mp3"),
        (b"\xff\xfbxx", "mp3"),
        (b"\xff\xf1xx", "aac"),
        (b"fLaCxx", "flac"),
        (b"OggSxx", "ogg"),
        (b"\0\0\0\x20ftypM4A ", "m4a"),
        (b"%PDF-1.7\n", "application/pdf"),
        (b"\0\0\0\x20ftypisom", "video/mp4"),
        (b"\0\0\0\x14ftypqt  ", "video/mov"),
        (b"\x1aE\xdf\xa3\x9fB\x86\x81\x01B\x82\x84webm", "video/webm"),
        (b"RIFF\0\0\0\0AVI LIST", "video/avi"),
    ],
)
def test_files_are_known_by_their_bytes(tmp_path: Path, data: bytes, kind: str) -> None:
    """The name does not matter: a JPEG called .png is a JPEG. Audio says which kind it is, and a
    document goes along with its name."""
    part, prompt = parts(put(tmp_path, "a.png", data))
    assert prompt == {"type": "text", "text": "look"}
    encoded = base64.b64encode(data).decode()
    url = f"data:{kind};base64,{encoded}"
    assert part in (
        {"type": "image_url", "image_url": {"url": url}},
        {"type": "input_audio", "input_audio": {"data": encoded, "format": kind}},
        {"type": "file", "file": {"filename": "a.png", "file_data": url}},
    )
    of = {"image_url": ("image",), "file": ("application", "video")}.get(str(part["type"]))
    assert kind.startswith(of or (kind,))


def test_addresses_are_passed_on() -> None:
    """An https address of an image or a PDF is not fetched."""
    image, pdf, _ = parts("https://h/a.PNG?x=1", "https://h/x/b.pdf")
    assert image["image_url"] == {"url": "https://h/a.PNG?x=1"}
    assert pdf["file"] == {"filename": "b.pdf", "file_url": "https://h/x/b.pdf"}


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("http://h/a.png", "https:// only"),
        ("https://h/a", "must end in"),
        ("https://[h/a.png", "not a URL"),
        ("nowhere.png", "no file"),
        ("/dev/zero", "not a file"),
        ("{folder}", "not a file"),
        ("{folder}/pipe", "not a file"),  # without a writer it would hang the program
        ("{folder}/a.zip", "of a type"),
        ("{folder}/b.txt", "of a type"),
        ("{folder}/c", "empty"),
        ("a\0b", "cannot read"),
    ],
)
def test_what_cannot_be_attached(tmp_path: Path, source: str, says: str) -> None:
    """Unknown types, nothing at all, and what never ends are refused; one sentence says why."""
    os.mkfifo(tmp_path / "pipe")
    for name, data in (("a.zip", b"PK\3\4\0\xff"), ("b.txt", b"text\0"), ("c", b"")):
        put(tmp_path, name, data)
    with pytest.raises(InputError, match=says):
        parts(source.format(folder=tmp_path))


def test_all_together_are_bounded(tmp_path: Path) -> None:
    """Attachments that no provider would take are refused before they are sent."""
    half = put(tmp_path, "a.png", PNG + bytes(attachments.MOST // 2))
    assert len(parts(half)) == 2
    with pytest.raises(InputError, match="too large"):
        parts(half, half)
