"""What a message's parts are, and which of them a provider takes. Pure.

The parts are those of `types.Message`. What is none of them is the caller's own business and
passes: a provider may know parts that we do not.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Literal

from llmctl.errors import InvalidRequest
from llmctl.types import JSON, Target

Kind = Literal["image", "image_url", "file", "file_url", "audio", "other_audio"]

_NAMES: dict[Kind, str] = {
    "image": "images",
    "image_url": "images by address",
    "file": "PDF files",
    "file_url": "PDF files by address",
    "audio": "WAV and MP3 audio",
    "other_audio": "audio but WAV and MP3",
}


def kind(part: JSON) -> Kind | None:
    """Which attachment the part is; None for text and for what only a provider knows."""
    said = part.get("type")
    if said == "image_url":
        image = part.get("image_url")
        url = image.get("url") if isinstance(image, Mapping) else image
        return "image" if isinstance(url, str) and url.startswith("data:") else "image_url"
    if said == "file":
        file = part.get("file")
        return "file_url" if isinstance(file, Mapping) and file.get("file_url") else "file"
    if said != "input_audio":
        return None
    audio = part.get("input_audio")
    form = audio.get("format") if isinstance(audio, Mapping) else None
    return "audio" if form in ("wav", "mp3", None) else "other_audio"


def checked(part: JSON, takes: Collection[Kind], target: Target) -> JSON:
    """The part, when it is none of those the provider refuses. Raises `InvalidRequest`."""
    found = kind(part)
    if found is None or found in takes:
        return part
    others = ", ".join(_NAMES[name] for name in sorted(takes)) or "nothing but text"
    raise InvalidRequest(
        f"{target.provider} takes no {_NAMES[found]} (it takes {others}): nothing was sent",
        sent=False,
    )
