"""Requests with tokens in the place of identifiers; pure.

Masked are the texts of the conversation, tools' descriptions and arguments, and all other texts of
a body but names of models, ids, signatures and schemas: a token there would make another request of
it. Texts in base64 data URLs are, images, documents and sound are not.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from msgspec import Struct
from msgspec.structs import replace

from llmctl.privacy.findings import Kind
from llmctl.privacy.masking import Masker
from llmctl.types import JSON, Masked, Message, RawRequest, Request, fingerprint

Action = Literal["mask", "block", "report"]

_KEPT = frozenset(
    {"model", "type", "role", "id", "call_id", "tool_call_id", "tool_use_id", "item_id",
     "previous_response_id", "signature", "thought_signature", "encrypted_content"}
)  # fmt: skip
"""Fields whose texts the provider compares, or made itself."""

_SCHEMAS = frozenset({"response_format", "format", "parameters", "input_schema", "schema"})
_BASE64 = re.compile(r"[A-Za-z0-9+/_-]*={0,2}")
_DATA_URL = re.compile(r"(data:([\w.+/-]*)(?:;[\w.+-]+=[^;,]*)*;base64,)([A-Za-z0-9+/_-]*={0,2})")
_TEXT_TYPE = re.compile(r"text/|application/(?:json|xml|yaml)|.*\+(?:json|xml)\Z")


class RequestMasker(Struct, frozen=True):
    """Looks at requests, once each, and masks them.

    Attributes:
        key: secret bytes; see `Masker`.
        lasting: the key is the same in the next run.
        kinds, action, restores: as `config.settings.Privacy` says.
        profile: who says so, for messages.

    """

    key: bytes
    lasting: bool
    kinds: frozenset[Kind]
    action: Action
    restores: bool
    profile: str

    def __call__(self, request: Request) -> Request:
        """The request as it may be sent, with its `masked`, and a fingerprint of its own.

        One of which that must not be sent says why there. A value has the same token in all of a
        conversation, which is told by its beginning. Raises `SetupError`; see `recognisers.find`.
        """
        if request.masked is not None:
            return request
        masker = Masker(self.key, _scope(request), self.kinds, restore=self.restores)
        walk = _Walk(masker)
        made = walk.request(request)
        counts = {str(kind): number for kind, number in walk.counts.items()}
        if self.action != "mask":
            refused = self._refusal(counts, walk.places) if self.action == "block" else ""
            # What is not sent is masked for those who write down what was asked.
            return replace(made if refused else request, masked=Masked(counts, refused=refused))
        if made == request:
            return replace(request, masked=Masked())
        known = request.fingerprint or fingerprint(request)
        digest = hmac.digest(self.key, f"{known}\0{request.user}".encode(), "sha256").hex()[:32]
        values = masker.values if self.restores else {}
        made = replace(made, masked=Masked(counts, values, digest, "" if self.lasting else known))
        return replace(made, fingerprint=fingerprint(made)) if request.fingerprint else made

    def _refusal(self, counts: Mapping[str, int], places: Sequence[str]) -> str:
        if not counts:
            return ""
        more = f" (and {len(places) - 1:,} more)" if len(places) > 1 else ""
        return (
            f"`{places[0]}`{more}: there is {Masked(counts).said}, which the profile "
            f"{self.profile} does not send (`privacy: {{action: block}}`): take it out, or let it "
            "be masked"
        )


class _Walk:
    """Goes through a request; `counts` what it masked there, and `places` names the fields."""

    def __init__(self, masker: Masker) -> None:
        self._masker = masker
        self.places: list[str] = []
        self.counts: Mapping[Kind, int] = {}

    def request(self, request: Request) -> Request:
        """The request, masked. What only repeats the question is not counted once more."""
        raw, options = request.raw, request.options
        if raw is not None:
            raw = replace(raw, body=self._fields(raw.body, ""))
        else:
            options = self._fields(options, "")
        messages = () if raw else self._messages(request.messages)
        self.counts = dict(self._masker.counts)
        if raw is not None:
            messages = self._messages(request.messages)
            raw = self._with_chat(raw)
        made = replace(request, messages=messages, options=options, raw=raw)
        return request if made == request else made

    def _with_chat(self, raw: RawRequest) -> RawRequest:
        return raw if raw.chat is None else replace(raw, chat=self._fields(raw.chat, ""))

    def _messages(self, messages: Sequence[Message]) -> tuple[Message, ...]:
        return tuple(
            self._message(message, f"messages[{number}]") for number, message in enumerate(messages)
        )

    def _message(self, message: Message, place: str) -> Message:
        content = message.content
        if isinstance(content, str):
            content = self._text(content, f"{place}.content")
        elif content is not None:
            content = tuple(
                self._fields(part, f"{place}.content[{number}]")
                for number, part in enumerate(content)
            )
        return replace(message, content=content, extra=self._fields(message.extra, place))

    def _fields(self, fields: JSON, place: str) -> dict[str, Any]:
        before = f"{place}." if place else ""
        calls = str(fields.get("type", "")).endswith("tool_use")
        plain = fields.get("type") == "text"
        found: dict[str, Any] = {}
        for name, value in fields.items():
            where = f"{before}{name}"
            if calls and name == "input":
                found[name] = self._json(value, where)
            elif name == "arguments" and isinstance(value, str):
                found[name] = self._arguments(value, where)
            elif (name in _SCHEMAS and isinstance(value, Mapping)) or (
                isinstance(value, str) and (name in _KEPT or _is_binary(name, value, plain=plain))
            ):
                found[name] = value
            else:
                found[name] = self._value(value, where)
        return found

    def _value(self, value: Any, place: str) -> Any:
        if isinstance(value, str):
            return self._text(value, place)
        if isinstance(value, Mapping):
            return self._fields(value, place)
        if isinstance(value, list | tuple):
            items = [self._value(item, f"{place}[{number}]") for number, item in enumerate(value)]
            return items if isinstance(value, list) else tuple(items)
        return value

    def _text(self, text: str, place: str) -> str:
        if text.startswith("data:") and (url := _DATA_URL.fullmatch(text)):
            return self._data_url(text, url, place)
        before = self._masker.counts.total()
        masked = self._masker.mask(text)
        self._note(before, place)
        return masked

    def _data_url(self, text: str, url: re.Match[str], place: str) -> str:
        """A text in base64 is masked and encoded again."""
        if not _TEXT_TYPE.match(url[2]):
            return text
        try:
            inner = base64.b64decode(url[3] + "=" * (-len(url[3]) % 4), altchars=b"-_").decode()
        except (binascii.Error, UnicodeDecodeError):
            return text
        masked = self._text(inner, place)
        return text if masked == inner else url[1] + base64.b64encode(masked.encode()).decode()

    def _arguments(self, text: str, place: str) -> str:
        """The arguments of a tool call, which are JSON in a text."""
        try:
            value = json.loads(text)
        except ValueError:
            return self._text(text, place)
        masked = self._json(value, place)
        return text if masked == value else json.dumps(masked, ensure_ascii=False)

    def _json(self, value: Any, place: str) -> Any:
        before = self._masker.counts.total()
        masked = self._masker.mask_json(value)
        self._note(before, place)
        return masked

    def _note(self, before: int, place: str) -> None:
        if self._masker.counts.total() > before:
            self.places.append(place)


def _is_binary(name: str, value: str, *, plain: bool) -> bool:
    """Whether a field holds bytes in base64: an image, a document, sound."""
    return not plain and name in {"data", "file_data"} and bool(_BASE64.fullmatch(value))


def _scope(request: Request) -> str:
    """What conversation a request belongs to: who asks, the system's texts and the first turn of
    the user's, which stay when it goes on."""
    raw = request.raw
    if raw is None:
        said: list[Any] = [_opening([message.as_json() for message in request.messages])]
    else:
        body = raw.body
        turns = next((body[name] for name in ("messages", "input", "prompt") if name in body), None)
        said = [_texts(body.get("system")), _texts(body.get("instructions")), _opening(turns)]
    return json.dumps([request.user, *said])


def _opening(turns: Any) -> list[str]:
    """The texts of the turns up to the first one of the user's."""
    if not isinstance(turns, list | tuple):
        return _texts(turns)
    found: list[str] = []
    for turn in turns:
        found += _texts(turn)
        if isinstance(turn, Mapping) and turn.get("role") == "user":
            break
    return found


def _texts(value: Any) -> list[str]:
    """The texts in a turn or a part, without what marks it for a provider's cache."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, Mapping):
        return [*_texts(value.get("content")), *_texts(value.get("text"))]
    return (
        [text for each in value for text in _texts(each)] if isinstance(value, list | tuple) else []
    )
