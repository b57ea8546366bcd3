"""What `--attach` names becomes a part of a message: text, image, PDF, audio or video.

What a file is, its first bytes say; its name only decides for addresses, which are passed on and
never fetched. The parts are those of `types.Message`.
"""

from __future__ import annotations

import base64
import re
import stat
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

from llmctl.errors import InputError
from llmctl.types import JSON, Message

# Bytes of all attachments of one call: in base64 they stay below the smallest limit of a request
# that a provider has (Anthropic: 32 MB).
MOST = 20 * 1024 * 1024

_TYPES = {
    rb"\x89PNG\r\n\x1a\n": "image/png",
    rb"\xff\xd8\xff": "image/jpeg",
    rb"GIF8[79]a": "image/gif",
    rb"RIFF....WEBP": "image/webp",
    rb"%PDF-": "application/pdf",
    rb"RIFF....WAVE": "audio/wav",
    rb"ID3|\xff[\xfb\xf3\xf2]": "audio/mp3",
    rb"OggS": "audio/ogg",
    rb"fLaC": "audio/flac",
    rb"\xff[\xf1\xf9]": "audio/aac",
    rb"....ftypM4A": "audio/m4a",
    rb"....ftyp(isom|iso[2-9]|mp4[12]|avc1|dash|M4V|MSNV)": "video/mp4",
    rb"....ftypqt  ": "video/mov",
    rb"....ftyp3g": "video/3gpp",
    rb"\x1aE\xdf\xa3.{0,60}webm": "video/webm",
    rb"\x00\x00\x01[\xba\xb3]": "video/mpeg",
    rb"RIFF....AVI ": "video/avi",
    rb"FLV\x01": "video/x-flv",
}
"""How files begin (en.wikipedia.org/wiki/List_of_file_signatures)."""

_IMAGES = (".gif", ".jpeg", ".jpg", ".png", ".webp")
_KNOWN = (
    "text, PNG, JPEG, GIF, WebP, PDF, WAV, MP3, FLAC, Ogg, M4A, AAC, "
    "MP4, MOV, WebM, MPEG, AVI, FLV or 3GP"
)


def message(prompt: str, sources: Iterable[str]) -> Message:
    """The user's message: the attachments, then the prompt. Raises `InputError` for what cannot be
    read, is too large, or is of no known type."""
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
    kind = next((k for start, k in _TYPES.items() if re.match(start, data, re.DOTALL)), "")
    encoded = base64.b64encode(data).decode()
    url = f"data:{kind};base64,{encoded}"
    if kind.startswith("image/"):
        return {"type": "image_url", "image_url": {"url": url}}
    if kind.startswith("audio/"):
        form = kind.removeprefix("audio/")
        return {"type": "input_audio", "input_audio": {"data": encoded, "format": form}}
    if kind:
        return {"type": "file", "file": {"filename": name, "file_data": url}}
    try:
        text = data.decode("utf-8-sig").rstrip("\r\n")
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        raise InputError(f"{source} is of a type that cannot be attached: it must be {_KNOWN}")
    return {"type": "text", "text": f'<file name="{name}">\n{text}\n</file>'}


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
        f"{url} cannot be attached: an address must end in {', '.join(_IMAGES)} or .pdf; "
        "download anything else and attach the file"
    )


def text_argument(flag: str, what: str, given: str) -> tuple[str, str]:
    """What messages call a text of the command line, and the text: as given, or read from @FILE.
    Raises `InputError`; `what` is it that cannot be read."""
    if not given.startswith("@"):
        return flag, given
    path = given[1:]
    try:
        return path, Path(path).read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"the {what} {path} is not valid UTF-8: convert it") from error
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise InputError(f"cannot read the {what} {path or '@'}: {why}") from error
