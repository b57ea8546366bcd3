"""Masking: identifiers leave no process in clear, and come back in its answers.

A request is masked before accounting sees it, so that ledger, cache, batches and providers only
meet tokens; its answer is restored just inside accounting, for the caller, the output and whoever
else gets the record. What keys and caches go by is the masked request.
"""

from __future__ import annotations

import asyncio
import copy
import secrets
from collections.abc import Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

import orjson
from msgspec.structs import replace

from llmctl.config.paths import STORE_KEY
from llmctl.config.settings import Profile
from llmctl.errors import CallError, IdentifiersFound, NoKeyError
from llmctl.protocols import Emit, Handler
from llmctl.types import Answer, Masked, Message, Request, StreamChunk

if TYPE_CHECKING:
    from llmctl.privacy.masking import Masker
    from llmctl.privacy.requests import RequestMasker

_STRICTEST = ("block", "mask", "report")


def open_masker(profiles: Sequence[Profile], environ: Mapping[str, str]) -> RequestMasker | None:
    """What masks the requests of a profile and its fallbacks; None where none of them asks for it.

    A question is masked once, whichever of them answers or summarises it: all kinds that any of
    them names, by the strictest action. The key is `store_key`'s; where there is none, a random
    one of this process, with which nothing is found again in a later run. A keyring takes up to
    some seconds.
    Raises `SetupError` where an extra is missing, `NoKeyError` for a store key that is too short,
    and `DiskError`.
    """
    asked = [each for one in profiles for each in (one, one.summariser) if each is not None]
    said = [(one.name, one.privacy) for one in asked if one.privacy is not None]
    if not said:
        return None
    from llmctl.privacy.recognisers import check_extras
    from llmctl.privacy.requests import RequestMasker

    all_of = [privacy for _, privacy in said]
    kinds = frozenset(kind for privacy in all_of for kind in privacy.mask)
    check_extras(kinds)
    action = min((privacy.action for privacy in all_of), key=_STRICTEST.index)
    profile = next(name for name, privacy in said if privacy.action == action)
    restores = all(privacy.restore for privacy in all_of)
    key, lasting = _key(environ)
    return RequestMasker(key, lasting, kinds, action, restores, profile)


def _key(environ: Mapping[str, str]) -> tuple[bytes, bool]:
    """The key, and whether the next run has the same."""
    from llmctl.keys.store_key import store_key

    try:
        return store_key(environ, "mask"), True
    except NoKeyError:
        if environ.get(STORE_KEY, "").strip():  # one that is too short is a mistake
            raise
        return _random_key(), False


@cache
def _random_key() -> bytes:
    return secrets.token_bytes(32)


def masked(inner: Handler, masker: RequestMasker) -> Handler:
    """The outermost guard: the inner handler only sees masked requests."""

    async def mask(request: Request, emit: Emit | None) -> Answer:
        if request.masked is None:  # a long prompt takes a while, and the loop has other calls
            request = await asyncio.to_thread(masker, request)
        return await inner(request, emit)

    return mask


def restoring(inner: Handler) -> Handler:
    """The guard: refuses a request that must not be sent, and puts values back into the answer,
    pieces of a stream, and what was paid for and is no answer. Raises `IdentifiersFound`."""

    async def restore(request: Request, emit: Emit | None) -> Answer:
        refuse(request)
        said = request.masked
        if said is None or not said.values:
            return await inner(request, emit)
        stream = None if emit is None else _Stream(request, emit)
        try:
            answer = await inner(request, stream)
        except CallError as error:
            raise restored_error(request, error) from error.__cause__
        finally:
            if stream is not None:
                stream.close()
        return restored(request, answer)

    return restore


def refuse(request: Request) -> None:
    """Raises `IdentifiersFound` for a request that must not be sent."""
    if request.masked is not None and request.masked.refused:
        raise IdentifiersFound(request.masked.refused)


def restored(request: Request, answer: Answer) -> Answer:
    """The answer to a masked request, with the values of that one."""
    if request.masked is None or not request.masked.values:
        return answer
    masker = _masker(request.masked)
    return replace(
        answer,
        text=_text(request, answer.text),
        parsed=_value(masker, answer.parsed),
        tool_calls=_value(masker, answer.tool_calls),
        citations=_value(masker, answer.citations),
        body=None if answer.body is None else _body(masker, answer.body),
    )


def restored_messages(request: Request) -> tuple[Message, ...]:
    """What a masked request asks, with its values."""
    if request.masked is None or not request.masked.values:
        return request.messages
    masker = _masker(request.masked)
    return tuple(
        replace(said, content=_value(masker, said.content), extra=_value(masker, said.extra))
        for said in request.messages
    )


def restored_error(request: Request, error: CallError) -> CallError:
    """The error of a masked request, with the values of that one in what was paid for."""
    if request.masked is None or not request.masked.values:
        return error
    own = copy.copy(error)  # others who wait for the same answer get it as it was
    own.text = error.text and _text(request, error.text)
    return own


class _Stream:
    """Stands before the caller's `emit`: pieces with their values."""

    def __init__(self, request: Request, emit: Emit) -> None:
        from llmctl.privacy.masking import StreamRestorer

        assert request.masked is not None
        masker = _masker(request.masked)
        self._restorer = StreamRestorer(masker, in_json=request.schema is not None)
        self._masker, self._emit = masker, emit

    def __call__(self, piece: StreamChunk) -> None:
        """Hand on what is sure of it."""
        text = self._restorer.feed(piece.text)
        if text or not piece.text:
            calls, cited = piece.tool_calls, piece.citations
            self._emit(
                replace(
                    piece,
                    text=text,
                    tool_calls=_value(self._masker, calls),
                    citations=_value(self._masker, cited),
                )
            )

    def close(self) -> None:
        """Hand on what was held back."""
        if rest := self._restorer.close():
            self._emit(StreamChunk(rest))


def _masker(said: Masked) -> Masker:
    """Only restores."""
    from llmctl.privacy.masking import Masker

    return Masker(b"", "", (), values=said.values)


def _text(request: Request, text: str) -> str:
    assert request.masked is not None
    return _masker(request.masked).restore(text, in_json=request.schema is not None)


def _value(masker: Masker, value: Any, name: str = "") -> Any:
    """A value of JSON, restored; `arguments` of tool calls are JSON in a text."""
    if isinstance(value, str):
        return masker.restore(value, in_json=name == "arguments")
    if isinstance(value, Mapping):
        return {masker.restore(key): _value(masker, each, key) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_value(masker, each) for each in value)
    return value


def _body(masker: Masker, body: bytes) -> bytes:
    """The provider's own JSON; byte for byte where nothing of it is restored."""
    if b"[" not in body:
        return body
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError:
        return body
    own = _value(masker, value)
    return body if own == value else orjson.dumps(own)
