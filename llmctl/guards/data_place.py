"""Data place: a call is sent only where its data may go, and with nothing stored if so asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from llmctl.config.data_rules import PREFIX, keeps_nothing, refusal
from llmctl.config.settings import DataRules, Profile
from llmctl.errors import DataRefused
from llmctl.protocols import Emit, Handler
from llmctl.providers.data_statements import without_storage
from llmctl.types import Answer, Request


def placed(
    request: Request, profile: Profile, asker: Mapping[str, str], *, in_batch: bool = False
) -> Request:
    """The request as it may be sent to the profile. `asker` are the tags of the profile that the
    user asked, which hold beside the request's own, also where a fallback is asked instead.

    Raises `DataRefused`, which names the rule.
    """
    both = (request.tags, asker)
    _check(profile, request.target.model, both, in_batch=in_batch)
    if any(keeps_nothing(profile.data, tags) for tags in both):
        return without_storage(request)
    return request


def first_place(
    profiles: Sequence[Profile],
    tags: Mapping[str, str],
    model: str | None = None,
    *,
    in_batch: bool = False,
) -> Profile:
    """The first profile, of the one asked and its fallbacks, that a call with these tags may be
    sent to; `model` is the one of the first that is asked for, None: any. Raises `DataRefused`, the
    last one's, where there is none."""
    for profile in profiles:
        asked = model if profile is profiles[0] else profile.model
        try:
            _check(profile, asked, (tags, profiles[0].tags), in_batch=in_batch)
        except DataRefused:
            if profile is profiles[-1]:
                raise
        else:
            return profile
    raise ValueError("no profile is asked")


def _check(
    profile: Profile, model: str | None, asked: Sequence[Mapping[str, str]], *, in_batch: bool
) -> None:
    for tags in asked:
        if found := refusal(profile, model, tags, in_batch=in_batch):
            raise DataRefused(f"not sent: {found.why}", found.rule)


def data_place(
    inner: Handler, profile: Profile, asker: Mapping[str, str], *, in_batch: bool = False
) -> Handler:
    """The guard: hands requests on as they may be sent; raises as `placed`."""
    asked = profile.data != DataRules() or _asks(asker)

    async def handle(request: Request, emit: Emit | None) -> Answer:
        if asked or _asks(request.tags):  # else there is no rule to break
            request = placed(request, profile, asker, in_batch=in_batch)
        return await inner(request, emit)

    return handle


def _asks(tags: Mapping[str, str]) -> bool:
    """Whether a tag asks for something of the place."""
    return any(name.startswith(PREFIX) for name in tags)
