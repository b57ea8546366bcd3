"""A question and a profile make a `Request`: the one place where their settings meet.

What the question says itself wins over the profile; flags are already part of the profile.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from llmctl.settings import Profile
from llmctl.types import JSON, CacheMode, Message, RawCall, Request, Target, fingerprint


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked, as one input row or one command line says it. None: the profile's value."""

    messages: tuple[Message, ...]
    model: str | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    options: JSON = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    raw: RawCall | None = None


def target_of(profile: Profile, model: str | None = None) -> Target:
    """Where the profile's requests go; `model` instead of the profile's own."""
    return Target(
        profile=profile.name,
        provider=profile.provider,
        adapter=profile.adapter,
        base_url=profile.base_url,
        model=model or profile.model,
        context=profile.context,
    )


def compose(
    question: Question,
    profile: Profile,
    *,
    id: str,
    index: int = 0,
    cache_mode: CacheMode = "use",
) -> Request:
    """The request, with its fingerprint and without a call id."""
    raw = question.raw
    if raw is not None and "model" not in raw.body:
        raw = RawCall(raw.path, {**raw.body, "model": question.model or profile.model})
    if not profile.cache.enabled:
        cache_mode = "bypass"
    own = question.temperature
    request = Request(
        id=id,
        target=target_of(profile, str(raw.body["model"]) if raw else question.model),
        messages=question.messages,
        max_tokens=profile.max_tokens if question.max_tokens is None else question.max_tokens,
        temperature=profile.temperature if own is None else own,
        options={**profile.params, **question.options},
        tags={**profile.tags, **question.tags},
        raw=raw,
        cache_mode=cache_mode,
        index=index,
    )
    return replace(request, fingerprint=fingerprint(request))
