"""What `--attach` names becomes a part of a message: text, image, PDF or audio.

What a file is, its first bytes say; its name only decides for addresses, which are passed on and
never fetched. The parts are those of `types.Message`.
"""

from __future__ import annotations

import base64
import stat
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

from llmctl.errors import InputError
from llmctl.types import JSON, Message

MOST = 20 * 1024 * 1024
"""Bytes of all attachments of one call: in base64 they stay below the smallest limit of a
request that a provider has (Anthropic: 32 MB)."""

_IMAGES = {".png", ".jpg", ".jpeg", ".gif", ".webp"}
_STARTS: tuple[tuple[bytes, str], ...] = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF87a", "image/gif"),
    (b"GIF89a", "image/gif"),
    (b"%PDF-", "application/pdf"),
    (b"ID3", "audio/mp3"),
    (b"\xff\xfb", "audio/mp3"),
    (b"\xff\xf3", "audio/mp3"),
    (b"\xff\xf2", "audio/mp3"),
    (b"OggS", "audio/ogg"),
    (b"fLaC", "audio/flac"),
    (b"\xff\xf1", "audio/aac"),
    (b"\xff\xf9", "audio/aac"),
)
"""How files begin (en.wikipedia.org/wiki/List_of_file_signatures)."""

_KNOWN = "text, PNG, JPEG, GIF, WebP, PDF, WAV, MP3, FLAC, Ogg, M4A or AAC"


def message(prompt: str, sources: Iterable[str]) -> Message:
    """The user's message: the attachments, then the prompt.

    Texts are inlined with their names. Raises `InputError` for what cannot be read, is too large,
    or is of no known type.
    """
    parts: list[JSON] = []
    room = MOST
    for source in sources:
        if source.startswith(("https://", "http://")):
            parts.append(_address(source))
            continue
        data = _read(source, room)
        room -= len(data)
        parts.append(_part(source, data))
    if all(part["type"] == "text" for part in parts):
        # One text: every model understands it, also those that know no parts.
        return Message("user", "\n\n".join([*(str(part["text"]) for part in parts), prompt]))
    return Message("user", (*parts, {"type": "text", "text": prompt}))


def _read(source: str, room: int) -> bytes:
    path = Path(source)
    try:
        # Looked at before it is opened: a pipe without a writer never is, a device never ends.
        if not stat.S_ISREG(path.stat().st_mode):
            raise InputError(f"{source} is not a file that can be attached")
        with path.open("rb") as file:
            data = file.read(room + 1)
    except FileNotFoundError:
        raise InputError(f"there is no file {source} to attach: check the path") from None
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise InputError(f"cannot read {source}: {why}") from error
    if len(data) > room:
        raise InputError(f"{source} is too large: all attachments may have {MOST >> 20} MiB")
    if not data:
        raise InputError(f"{source} is empty")
    return data


def _part(source: str, data: bytes) -> JSON:
    name = Path(source).name
    kind = _kind(data)
    if kind is None:
        return {"type": "text", "text": f'<file name="{name}">\n{_text(source, data)}\n</file>'}
    encoded = base64.b64encode(data).decode()
    if kind.startswith("image/"):
        return {"type": "image_url", "image_url": {"url": f"data:{kind};base64,{encoded}"}}
    if kind.startswith("audio/"):
        form = kind.removeprefix("audio/")
        return {"type": "input_audio", "input_audio": {"data": encoded, "format": form}}
    file = {"filename": name, "file_data": f"data:{kind};base64,{encoded}"}
    return {"type": "file", "file": file}


def _text(source: str, data: bytes) -> str:
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        raise InputError(f"{source} is of a type that cannot be attached: it must be {_KNOWN}")
    return text.rstrip("\r\n")


def _kind(data: bytes) -> str | None:
    """The media type; None for what may be text."""
    for start, kind in _STARTS:
        if data.startswith(start):
            return kind
    if data[:4] == b"RIFF":
        return {b"WEBP": "image/webp", b"WAVE": "audio/wav"}.get(data[8:12])
    if data[4:11] == b"ftypM4A":
        return "audio/m4a"
    return None


def _address(url: str) -> JSON:
    if not url.startswith("https://"):
        raise InputError(f"{url} cannot be attached: providers fetch from https:// only")
    try:
        path = PurePosixPath(unquote(urlsplit(url).path))
    except ValueError as error:
        raise InputError(f"{url} is not a URL ({error})") from error
    end = path.suffix.lower()
    if end in _IMAGES:
        return {"type": "image_url", "image_url": {"url": url}}
    if end == ".pdf":
        return {"type": "file", "file": {"filename": path.name, "file_url": url}}
    raise InputError(
        f"{url} cannot be attached: an address must end in {', '.join(sorted(_IMAGES))} or .pdf; "
        "download anything else and attach the file"
    )
