"""A caller's body as a profile's provider is sent it: as it is, or as a chat completion. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from llmctl.config.settings import Profile
from llmctl.errors import InvalidRequest
from llmctl.gateway.dialect import Asked, Dialect
from llmctl.protocols import Codec
from llmctl.providers.anthropic import WITHOUT_SAMPLING
from llmctl.providers.openai_chat import ChatCompletions
from llmctl.providers.registry import speaks
from llmctl.request import CHAT, left_out
from llmctl.types import JSON, CacheMode, RawRequest, Streaming, Target

EMBEDDINGS = "/embeddings"

_BEYOND = ("logprobs", "top_logprobs", "audio", "modalities", "include", "background")
"""Parameters by which a streamed answer has more than is kept of it."""


class Body(Struct, frozen=True):
    """What a caller asks in a dialect, for the provider of a profile; `masked`: tokens stand for
    values in it, which come back into texts."""

    asked: Asked
    dialect: Dialect
    profile: Profile
    masked: bool = False

    @property
    def passes(self) -> bool:
        """Whether the provider speaks the caller's language: then nothing is translated."""
        return speaks(self.profile.adapter, self.profile.api, self.dialect.path)

    def raw(self, model: str | None, fallbacks: Sequence[Profile]) -> RawRequest:
        """The request to pass through, for a `model` of the profile's (None: its own). Raises
        `InvalidRequest` that names the field which cannot be translated."""
        asked, path = self.asked, self.dialect.path
        if self.masked and asked.stream and not _is_plain(asked.body):
            raise InvalidRequest(
                "`stream`: identifiers are masked here, and a stream is put together again from "
                "its text and calls of the caller's own functions: leave stream out, or what asks "
                "for more (thinking, n, logprobs, tools of the provider's)",
                sent=False,
            )
        named = {"model": model or self.profile.model}
        if not self.passes:
            body = {**self.dialect.as_chat(asked), **named}
            return RawRequest(CHAT, body, streamed="text" if asked.stream else None)
        chat: JSON | None = None
        if path != CHAT and not all(speaks(one.adapter, one.api, path) for one in fallbacks):
            with suppress(InvalidRequest):  # then such a fallback cannot be asked
                chat = self.dialect.as_chat(asked)
        # In the provider's own events tokens are cut in pieces: the stream is written anew.
        how: Streaming = "text" if self.masked else "events"
        streamed = how if asked.stream else None
        return RawRequest(path, {**asked.body, **named}, asked.headers, streamed, chat)

    def completed(
        self, raw: RawRequest, target: Target, codec: Codec, most: Sequence[int]
    ) -> RawRequest:
        """The body with what its profile says and it does not: parameters, system prompt, and a
        limit of the answer, the least of the profile's and of `most` tokens."""
        profile, body = self.profile, dict(raw.body)
        said = {} if profile.temperature is None else {"temperature": profile.temperature}
        if self.passes:  # else they are not in the language of the body
            said |= profile.params
        refused = {*left_out(profile), *self._unwelcome(raw)} if said else ()
        for name, value in said.items():
            if name not in refused:
                body.setdefault(name, value)
        if profile.system:
            _set_system(body, raw.path, profile.system)
        limit = self._limit(body, raw.path, target, codec)
        if body.get(limit) is None:
            known = [*most, *([] if profile.max_tokens is None else [profile.max_tokens])]
            if known:
                body[limit] = min(known)
        return raw if body == raw.body else replace(raw, body=body)

    def _unwelcome(self, raw: RawRequest) -> Sequence[str]:
        """Parameters that the version of the interface refuses which the caller speaks: what it
        did not say itself is left out."""
        later = raw.headers.get("anthropic-version", "") >= WITHOUT_SAMPLING
        return ("temperature", "top_p", "top_k") if later else ()

    def _limit(self, body: dict[str, Any], path: str, target: Target, codec: Codec) -> str:
        """The field that limits the answer, spelled as the provider wants it."""
        limit = self.asked.limit if self.passes else "max_tokens"
        if path != CHAT or not isinstance(codec, ChatCompletions):
            return limit
        spelled = codec.limit_name(target)
        if not self.passes and limit in body:
            body[spelled] = body.pop(limit)
        return limit if body.get(limit) is not None else spelled

    def cache_mode(self, control: str) -> CacheMode:
        """By the caller's `cache-control`; what is streamed is only kept where all of it can be
        told again."""
        if "no-store" in control or (self.asked.stream and not _is_plain(self.asked.body)):
            return "bypass"
        return "refresh" if "no-cache" in control else "use"


def _set_system(body: dict[str, Any], path: str, system: str) -> None:
    """Put the profile's system prompt where the body has none."""
    turns = body.get("messages")
    if path != CHAT:
        body.setdefault("system" if path == "/messages" else "instructions", system)
    elif isinstance(turns, list) and not any(map(_instructs, turns)):
        body["messages"] = [{"role": "system", "content": system}, *turns]


def _instructs(turn: object) -> bool:
    return isinstance(turn, dict) and turn.get("role") in ("system", "developer")


def _is_plain(body: JSON) -> bool:
    """Whether a streamed answer is text and calls of the caller's own functions, all of which is
    kept."""
    thinks, tools = body.get("thinking"), body.get("tools")
    return (
        body.get("n") in (None, 1)
        and not any(body.get(name) for name in _BEYOND)
        and (not thinks or (isinstance(thinks, dict) and thinks.get("type") == "disabled"))
        and all(map(_is_own, tools if isinstance(tools, list) else ()))
    )


def _is_own(tool: object) -> bool:
    """Whether it is a function of the caller's, not a tool that the provider runs."""
    return isinstance(tool, dict) and tool.get("type") in (None, "function", "custom")
