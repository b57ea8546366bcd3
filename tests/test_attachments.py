"""What `--attach` makes of files and addresses."""

from __future__ import annotations

import base64
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

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


def test_nothing_attached() -> None:
    """The prompt alone stays text."""
    assert parts() == "look"


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
        (b"RIFF\0\0\0\0WEBPxx", "image/webp"),
    ],
)
def test_images_are_known_by_their_bytes(tmp_path: Path, data: bytes, kind: str) -> None:
    """The name does not matter: a JPEG called .png is a JPEG."""
    image, prompt = parts(put(tmp_path, "a.png", data))
    encoded = base64.b64encode(data).decode()
    assert image == {"type": "image_url", "image_url": {"url": f"data:{kind};base64,{encoded}"}}
    assert prompt == {"type": "text", "text": "look"}


@pytest.mark.parametrize(
    ("data", "form"),
    [
        (b"RIFF\0\0\0\0WAVEfmt ", "wav"),
        (b"ID3\4xx", "mp3"),
        (b"\xff\xfbxx", "mp3"),
        (b"fLaCxx", "flac"),
        (b"OggSxx", "ogg"),
        (b"\0\0\0\x20ftypM4A ", "m4a"),
    ],
)
def test_audio(tmp_path: Path, data: bytes, form: str) -> None:
    """Audio says which kind it is."""
    assert parts(put(tmp_path, "a", data))[0]["input_audio"]["format"] == form


def test_a_pdf_keeps_its_name(tmp_path: Path) -> None:
    """A document goes along with its name."""
    file = parts(put(tmp_path, "a.pdf", b"%PDF-1.7\n"))[0]["file"]
    assert file["filename"] == "a.pdf"
    assert file["file_data"].startswith("data:application/pdf;base64,")


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
        ("a\0b", "cannot read"),
    ],
)
def test_what_cannot_be_attached(source: str, says: str) -> None:
    """One sentence says why."""
    with pytest.raises(InputError, match=says):
        parts(source)


def test_what_is_in_a_file_that_cannot_be_attached(tmp_path: Path) -> None:
    """Unknown types, nothing at all, and pipes that never end are refused."""
    for name, data, says in (
        ("a.zip", b"PK\3\4\0\xff", "of a type"),
        ("b.txt", b"text\0", "of a type"),
        ("c", b"", "empty"),
    ):
        with pytest.raises(InputError, match=says):
            parts(put(tmp_path, name, data))
    with pytest.raises(InputError, match=r"directory|not a file"):
        parts(str(tmp_path))


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    """A named pipe without a writer would hang the program."""
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match="not a file"):
        parts(str(tmp_path / "pipe"))


def test_all_together_are_bounded(tmp_path: Path) -> None:
    """Attachments that no provider would take are refused before they are sent."""
    half = put(tmp_path, "a.png", PNG + bytes(attachments.MOST // 2))
    assert len(parts(half)) == 2
    with pytest.raises(InputError, match="too large"):
        parts(half, half)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.binary(max_size=40))
def test_any_bytes(tmp_path: Path, data: bytes) -> None:
    """Whatever a file holds, it is a part or a sentence."""
    with suppress(InputError):
        parts(put(tmp_path, "any", data))
