"""What a message holds, read out of OpenAI-style parts; for codecs of other languages. Pure.

`types.Message` names the shapes. A part that says no `type` of OpenAI's is `Native`: the codec
lets it through when it is one of its provider's own.
"""

from __future__ import annotations

import base64
import binascii
import mimetypes
from collections.abc import Iterator, Mapping
from urllib.parse import unquote_to_bytes, urlsplit

from msgspec import Struct, field

from llmctl.errors import InvalidRequest
from llmctl.types import JSON, Message, Request


class Text(Struct, frozen=True):
    """A piece of text; `extra` holds the part's other fields (`cache_control`, say)."""

    text: str
    extra: JSON = field(default_factory=dict)


class Media(Struct, frozen=True):
    """An image, sound or document: `data` (base64), an https `url`, or the provider's `file_id`.
    `mime` is in lower case, and guessed from the name where nothing else says it. `image` says
    that it came as one, whatever its type."""

    mime: str | None
    data: str | None = None
    url: str | None = None
    file_id: str | None = None
    image: bool = False
    extra: JSON = field(default_factory=dict)

    @property
    def plain(self) -> str:
        """The data as text. Raises `InvalidRequest` where it is none."""
        try:
            return base64.b64decode(self.data or "", validate=True).decode()
        except (binascii.Error, UnicodeDecodeError) as error:
            raise InvalidRequest(
                f"the attached {self.mime} is no UTF-8 text", sent=False
            ) from error


class Native(Struct, frozen=True):
    """A part that is none of OpenAI's."""

    part: JSON

    @property
    def kind(self) -> str:
        """Its `type`."""
        return str(self.part.get("type", ""))


Part = Text | Media | Native


def refuse(what: str, request: Request, why: str = "") -> InvalidRequest:
    """The error for something that this provider does not take."""
    reason = f": {why}" if why else ""
    return InvalidRequest(f"{request.target.provider} does not take {what}{reason}", sent=False)


def parts(message: Message, request: Request) -> Iterator[Part]:
    """The parts of the content; empty texts are left out (providers refuse them). Raises
    `InvalidRequest` for parts that are not what their type says."""
    if isinstance(message.content, str):
        if message.content:
            yield Text(message.content)
        return
    for part in message.content or ():
        kind = part.get("type")
        read = _READERS.get(kind) if isinstance(kind, str) else None
        if read is None:
            yield Native(part)
            continue
        try:
            found = read(part)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise refuse(f"this `{kind}` part", request, "it is not well-formed") from error
        if not isinstance(found, Text) or found.text:
            yield found


def text_only(message: Message, request: Request, where: str) -> str:
    """The content of a turn of which only text is taken, as one text."""
    found = []
    for part in parts(message, request):
        if not isinstance(part, Text):
            raise refuse(f"anything but text in {where}", request)
        found.append(part.text)
    return "".join(found)


def _text(part: JSON) -> Part:
    said = part["text"]
    if not isinstance(said, str):
        raise TypeError("text is a string")
    return Text(said, _extra(part, "text"))


def _image(part: JSON) -> Part:
    found = part["image_url"]
    url = found if isinstance(found, str) else found["url"]
    extra = dict(_extra(part, "image_url"))
    if isinstance(found, Mapping) and isinstance(found.get("detail"), str):
        extra["detail"] = found["detail"]
    return _located(url, None, extra, image=True)


def _file(part: JSON) -> Part:
    found = part["file"]
    extra = _extra(part, "file")
    name = found.get("filename")
    if found.get("file_id"):
        return Media(_guess(name), file_id=str(found["file_id"]), extra=extra)
    return _located(found.get("file_data") or found["file_url"], name, extra, image=False)


def _audio(part: JSON) -> Part:
    found = part["input_audio"]
    form = str(found.get("format") or "wav").lower()
    return Media(f"audio/{form}", data=_encoded(found["data"]), extra=_extra(part, "input_audio"))


_READERS = {"text": _text, "image_url": _image, "file": _file, "input_audio": _audio}


def _extra(part: JSON, own: str) -> JSON:
    return {key: value for key, value in part.items() if key not in ("type", own)}


def _located(url: str, name: str | None, extra: JSON, *, image: bool) -> Media:
    if url[:5].lower() == "data:":
        head, comma, payload = url[5:].partition(",")
        if not comma:
            raise ValueError("a data URL has a comma")
        settings = [setting.strip().lower() for setting in head.split(";")]
        mime = settings[0] or _guess(name) or "text/plain"
        if "base64" in settings[1:]:
            return Media(mime, data=_encoded(payload), image=image, extra=extra)
        plain = base64.b64encode(unquote_to_bytes(payload)).decode()
        return Media(mime, data=plain, image=image, extra=extra)
    if "://" not in url[:16]:
        # Some clients give a file's bare base64 where a data URL belongs.
        return Media(_guess(name), data=_encoded(url), image=image, extra=extra)
    mime_type = _guess(urlsplit(url).path) or _guess(name)
    return Media(mime_type, url=url, image=image, extra=extra)


def _encoded(data: str) -> str:
    """Base64 without white space. Raises `ValueError` for anything else."""
    joined = "".join(data.split())
    base64.b64decode(joined, validate=True)
    return joined


def _guess(name: str | None) -> str | None:
    return mimetypes.guess_type(name)[0] if name else None
