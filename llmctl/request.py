"""Building a `Request`: a question merged with the settings of a profile.

What the question says itself wins over the profile; flags are already part of the profile.
"""

from __future__ import annotations

import base64
import random
from collections.abc import Mapping

from msgspec import Struct, field
from msgspec.structs import replace

from llmctl.clock import Clock
from llmctl.config.settings import Profile
from llmctl.errors import InvalidRequest
from llmctl.providers.model_parameters import refused
from llmctl.providers.registry import codec, speaks
from llmctl.types import JSON, CacheMode, Message, RawRequest, Request, Streaming, Target
from llmctl.types import fingerprint as fingerprint_of


class Question(Struct, frozen=True):
    """What is asked, as one input row or one command line says it. None: the profile's value."""

    messages: tuple[Message, ...]
    model: str | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    options: JSON = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    raw: RawRequest | None = None
    schema: JSON | None = None


CHAT = "/chat/completions"
"""Where OpenAI's language of chats is spoken, below a provider's address."""

_CROCKFORD = bytes.maketrans(
    b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567", b"0123456789ABCDEFGHJKMNPQRSTVWXYZ"
)


def ulid(clock: Clock) -> str:
    """A call's or a run's id: a ULID (github.com/ulid/spec), 48 bits of milliseconds and 80 random
    bits; no secret."""
    number = int(clock.wall() * 1000) << 80 | random.getrandbits(80)
    return base64.b32encode(number.to_bytes(20)).translate(_CROCKFORD)[-26:].decode()


def target_for(profile: Profile, model: str | None = None) -> Target:
    """Where the profile's requests go; `model` instead of the profile's own."""
    return Target(
        profile=profile.name,
        provider=profile.provider,
        adapter=profile.adapter,
        base_url=profile.url,
        model=model or profile.model,
        context=profile.context,
        api=profile.api,
        like=profile.price_as,
    )


def compose(
    question: Question,
    profile: Profile,
    *,
    id: str,
    index: int = 0,
    cache_mode: CacheMode = "use",
    call_id: str = "",
) -> Request:
    """The request, with its fingerprint. Raises `TypeError` for JSON that is nested too deeply."""
    raw = question.raw
    if raw is not None and "model" not in raw.body:
        raw = replace(raw, body={**raw.body, "model": question.model or profile.model})
    said = ("max_tokens", question.max_tokens), ("temperature", question.temperature)
    own = [*question.options, *(name for name, value in said if value is not None)]
    request = Request(
        id=id,
        target=target_for(profile, str(raw.body["model"]) if raw else question.model),
        messages=question.messages,
        max_tokens=profile.max_tokens if question.max_tokens is None else question.max_tokens,
        temperature=profile.temperature if question.temperature is None else question.temperature,
        options={**profile.params, **question.options},
        tags={**profile.tags, **question.tags},
        raw=raw,
        schema=question.schema,
        cache_mode=cache_mode if profile.cache.enabled else "bypass",
        own=frozenset(own),
        index=index,
        call_id=call_id,
    )
    request = _accepted(request)
    return replace(request, fingerprint=fingerprint_of(request))


def left_out(profile: Profile) -> list[str]:
    """The profile's parameters that its model refuses: requests go without them."""
    request = Request("", target_for(profile), (), None, profile.temperature, profile.params)
    return list(refused(request))


def _as_chat(raw: RawRequest, profile: Profile) -> RawRequest:
    """The body as a chat completion, where it can be said as one; its answer is streamed as
    text, since the events are another provider's."""
    streamed: Streaming | None = "text" if raw.streamed else None
    if raw.chat is None:
        return replace(raw, streamed=streamed)
    from llmctl.providers.openai_chat import ChatCompletions

    body = {**raw.chat, "model": profile.model}
    speaks_openai = codec(profile.adapter, profile.api)
    if isinstance(speaks_openai, ChatCompletions) and "max_tokens" in body:
        body[speaks_openai.limit_name(target_for(profile))] = body.pop("max_tokens")
    return RawRequest(CHAT, body, streamed=streamed)


def require_translated(request: Request) -> None:
    """Raises `InvalidRequest` for a body in a language that the request's provider does not
    speak, and that could not be said in another."""
    raw, target = request.raw, request.target
    if raw is None or raw.path not in {"/messages", "/responses"}:
        return
    if not speaks(target.adapter, target.api, raw.path):
        why = f"what was asked cannot be translated for {target.provider}"
        raise InvalidRequest(why, sent=False)


def _accepted(request: Request) -> Request:
    """The request without what its profile says and its model refuses."""
    if request.raw is not None or not (out := refused(request).keys() - request.own):
        return request
    return replace(
        request,
        temperature=None if "temperature" in out else request.temperature,
        options={name: value for name, value in request.options.items() if name not in out},
    )


def is_sampled(request: Request) -> bool:
    """Whether the request sets a temperature above 0: asked again, it is another sample."""
    body = request.options if request.raw is None else request.raw.body
    said = body.get("temperature", None if request.raw else request.temperature)
    return isinstance(said, int | float) and said > 0


def fingerprint(question: Question, profile: Profile) -> str:
    """The fingerprint of the request that `compose` makes. Raises `TypeError` as `compose`."""
    return compose(question, profile, id="").fingerprint


def retarget(request: Request, profile: Profile, call_id: str) -> Request:
    """The request as another profile asks it: that one's model and parameters, except those that
    the question set itself. A body that is passed through only changes its model, and its language
    where the provider does not speak that."""
    own, raw = request.own, request.raw
    kept = {name: value for name, value in request.options.items() if name in own}
    if raw is not None:
        raw = replace(raw, body={**raw.body, "model": profile.model})
        if not speaks(profile.adapter, profile.api, raw.path):
            raw = _as_chat(raw, profile)
    made = replace(
        request,
        target=target_for(profile),
        max_tokens=request.max_tokens if "max_tokens" in own or raw else profile.max_tokens,
        temperature=request.temperature if "temperature" in own else profile.temperature,
        options={**profile.params, **kept},
        raw=raw,
        cache_mode=request.cache_mode if profile.cache.enabled else "bypass",
        call_id=call_id,
    )
    made = _accepted(made)
    return replace(made, fingerprint=fingerprint_of(made))
