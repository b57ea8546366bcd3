"""The service: what a worker has open for its callers, of one state of the configuration."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any
from urllib.parse import urlsplit

from msgspec import Struct
from msgspec.structs import replace

from llmctl.config.settings import Caps, Group, Profile, Serve, Settings
from llmctl.errors import DiskError, LlmctlError
from llmctl.gateway import caps
from llmctl.gateway.callers import Authenticator, Caller
from llmctl.gateway.caps import Scope
from llmctl.gateway.failures import refused
from llmctl.gateway.usage import budget_json, own_usage, quota_json, used_this_month
from llmctl.keys.key import slot_of
from llmctl.keys.keyring_store import stored_slots
from llmctl.keys.resolver import KeyResolver
from llmctl.protocols import BudgetWindow, Handler
from llmctl.providers.registry import speaks
from llmctl.reports.report import windows_at
from llmctl.runner import Run, Runner, open_run
from llmctl.types import JSON, CallRecord, Request
from llmctl.wiring import Surroundings, located, located_fallbacks, located_routes

_BOTH = frozenset({"api.openai.com"})
"""Hosts that speak OpenAI's chat completions and its responses, whatever the profile names."""

_LONGEST_NAME = 200  # characters of a model that nobody has, as an error repeats it


class Offer(Struct, frozen=True):
    """A model that callers ask for by `name`: a profile, and the model there (None: its own)."""

    name: str
    profile: str
    model: str | None = None


class Way(Struct, frozen=True):
    """How calls of one profile go out: its runner, and the whole pipeline of that."""

    profile: Profile
    runner: Runner
    handler: Handler


class Service:
    """What is open. `broken` says why nothing can be put on record any more.

    `in_flight` counts the requests of callers. Profiles are opened when they are first asked for.
    """

    def __init__(
        self,
        settings: Settings,
        around: Surroundings,
        run: Run,
        authenticate: Authenticator | None,
    ) -> None:
        self.settings, self.run = settings, run
        self.authenticate = authenticate
        self._around = around
        self._ways: dict[tuple[str, str], Way] = {}
        self._opening = asyncio.Lock()
        self._counted: dict[str, tuple[Scope, ...]] = {}
        self._idle = asyncio.Event()
        self._idle.set()
        self.in_flight = 0
        self.broken: str | None = None
        self.offers = _offers(settings, around)

    @property
    def serve(self) -> Serve:
        """The configuration's `serve:`."""
        return self.settings.serve

    def enter(self) -> None:
        """A request of a caller has come."""
        self.in_flight += 1
        self._idle.clear()

    def leave(self) -> None:
        """It has its answer."""
        self.in_flight -= 1
        if not self.in_flight:
            self._idle.set()

    async def idle(self) -> None:
        """Return when no request is under way."""
        await self._idle.wait()

    def ready(self) -> list[str]:
        """Why requests cannot be served; nothing when they can."""
        why = [] if self.broken is None else [self.broken]
        if not self.offers:
            why.append("no profile has a key: nothing can be asked")
        try:
            self.run.check()
        except DiskError as error:
            why.append(error.message)
        return why

    def offered(self, caller: Caller) -> list[Offer]:
        """The models that the caller may ask for by name."""
        return [offer for offer in self.offers.values() if self._may(caller, offer)]

    def offer(self, caller: Caller, name: str) -> Offer:
        """What the caller asks for by this name. Raises `Refused` (404, 403)."""
        found = self.offers.get(name)
        if found is None:
            profile, _, model = name.partition("/")
            if model and profile in self.offers and self.offers[profile].profile == profile:
                found = Offer(name, profile, model)
        if found is None or not self._may(caller, found):
            known = ", ".join(offer.name for offer in self.offered(caller)[:20])
            kind, status = ("not_found", 404) if found is None else ("permission", 403)
            what = "there is no model" if found is None else "you may not ask for"
            asked = name if len(name) <= _LONGEST_NAME else f"{name[:_LONGEST_NAME]}…"
            raise refused(status, kind, f"{what} {asked!r} here; yours: {known or 'none'}")
        return found

    def _may(self, caller: Caller, offer: Offer) -> bool:
        """Whether the caller may ask for it: who may ask a profile may ask for all its models."""
        groups = self._groups(caller)
        for names in (caller.profiles, *(group.profiles for _, _, group in groups)):
            if names is not None and offer.name not in names and offer.profile not in names:
                return False
        return True

    def _groups(self, caller: Caller) -> list[tuple[str, str, Group]]:
        """The caller's team and organisation, those that the configuration has: label, name and
        what it says of them."""
        serve = self.serve
        named = (
            ("tag:team", caller.team, serve.teams),
            ("tag:organisation", caller.organisation, serve.organisations),
        )
        return [
            (label, name, known[name]) for label, name, known in named if name and name in known
        ]

    def scopes(self, caller: Caller) -> tuple[Scope, ...]:
        """Whose caps the caller's calls count towards: its own, its team's, its organisation's."""
        label, value = ("tag:token", caller.token) if caller.token else ("user", caller.user)
        own = self.serve.caller if caller.caps == Caps() else caller.caps
        found = [Scope(label, value, own)]
        for of, name, group in self._groups(caller):
            found.append(Scope(of, name, Caps(group.requests, group.tokens, group.budget)))
        return tuple(scope for scope in found if scope.caps != Caps())

    @contextmanager
    def counted(self, id: str, scopes: tuple[Scope, ...]) -> Iterator[None]:
        """While open, the request of this id, and what is asked for it, counts towards these caps.
        Who calls does not tell them: one user may hold tokens, and JWTs, of different caps."""
        self._counted[id] = scopes
        try:
            yield
        finally:
            del self._counted[id]

    def windows_of(self, request: Request, now: float) -> Sequence[BudgetWindow]:
        """The windows of the caps that a request under way counts towards."""
        return caps.windows(self._counted.get(request.id, ()), now)

    def windows(self, now: float) -> list[BudgetWindow]:
        """The windows of the configuration's budgets."""
        return windows_at(self.settings.budgets, now)

    async def way(self, offer: Offer, path: str) -> Way:
        """The way of an offer's profile for bodies of this path, opened when it is first asked
        for. Raises `NoKeyError`, `SetupError` and `DiskError`."""
        profile = _speaking(self.settings.profiles[offer.profile], path)
        key = profile.name, profile.api
        if (way := self._ways.get(key)) is None:
            async with self._opening:
                if (way := self._ways.get(key)) is None:
                    self._ways[key] = way = await self._open(profile)
        return way

    def waiting(self) -> dict[str, int]:
        """Calls that wait for a turn, by profile."""
        found: dict[str, int] = {}
        for way in self._ways.values():
            limits = way.runner.routes[0].limits
            found[way.profile.name] = found.get(way.profile.name, 0) + sum(
                limits.waiting().values()
            )
        return found

    async def usage(self, caller: Caller) -> JSON:
        """What the caller has used and has left, and its place where calls wait; of everybody for
        an admin."""
        clock, folders = self.run.clock, self.settings.folders
        now, scopes = clock.wall(), self.scopes(caller)
        used = await asyncio.to_thread(used_this_month, folders.state / "ledger.db", now)
        spent = caps.spendings(scopes, now, 0)
        counts = [
            await self.run.shared.limits.used(one.quota.name, one.quota.window) for one in spent
        ]
        windows = [(w, await self.run.budget.usage(w)) for w in caps.windows(scopes, now)]
        found: dict[str, Any] = {
            "month": own_usage(used, caller),
            "caps": [
                *(budget_json(window, usage) for window, usage in windows),
                *(quota_json(one, count) for one, count in zip(spent, counts, strict=True)),
            ],
            "caps_of": "all machines" if self.settings.coordinator else "this machine",
            "queue": self._places(caller),
        }
        if caller.admin:
            found["callers"] = [one.as_json() for one in used]
        return found

    def _places(self, caller: Caller) -> JSON:
        """By profile, where a call of the caller's would wait now."""
        return {
            way.profile.name: place(position, seconds)
            for way in self._ways.values()
            for position, seconds in [
                way.runner.routes[0].limits.queued(caller.user, caller.weight)
            ]
            if position
        }

    async def _open(self, profile: Profile) -> Way:
        folders, warn = self._around.folders, self._around.warn
        fallbacks = located_fallbacks(profile, self.settings.profiles, folders, warn)
        routed = located_routes(profile, self.settings.profiles, folders)
        runner = await self.run.runner(located(profile, folders), fallbacks, routed)
        handler = runner.handler(
            self._settle,
            exact=False,
            on_retry=lambda _: None,
            on_fallback=lambda error, name: warn(f"{error.message}; asking {name} instead"),
        )
        return Way(runner.profile, runner, handler)

    async def _settle(self, record: CallRecord) -> None:
        try:
            await self.run.budget.settle(record)
        except DiskError as error:
            self.broken = error.message
            raise


def place(position: int, seconds: float) -> str:
    """Where a call waits, for people."""
    return f"position {position}, about {seconds:.0f} s"


def _speaking(profile: Profile, path: str) -> Profile:
    """The profile, in the interface that takes bodies of this path where its provider has both."""
    if speaks(profile.adapter, profile.api, path):
        return profile
    both = urlsplit(profile.base_url).hostname in _BOTH
    return replace(profile, api="responses") if both and path == "/responses" else profile


def _offers(settings: Settings, around: Surroundings) -> dict[str, Offer]:
    """What callers may ask for by name: aliases, and the profiles that are served: those that the
    configuration names, else all that it defines or has a key of. Those without one are warned
    of."""
    keys = KeyResolver(around.environ, stored_slots(around.folders.state))
    keyed = {name: _has_key(profile, keys) for name, profile in settings.profiles.items()}
    served = settings.serve.profiles or tuple(
        name
        for name, profile in settings.profiles.items()
        if profile.source != "built in" or (keyed[name] and profile.key is not None)
    )
    for name in served:
        key = settings.profiles[name].key
        if not keyed[name] and key is not None:
            where = f"set ${key.env}" if key.env else "`llmctl keys set`"
            around.warn(f"the profile {name} has no key, and its calls will fail: {where}")
    offers = {name: Offer(name, name) for name in served}
    for alias, place in settings.serve.models.items():
        name, _, model = place.partition("/")
        offers[alias] = Offer(alias, name, model or None)
    if not offers:
        around.warn("there is nothing to ask: set a provider's key, or define a profile")
    return offers


def _has_key(profile: Profile, keys: KeyResolver) -> bool:
    """Whether a key of the profile is in sight, or none is needed; of one that cannot be used its
    calls say so. No command and no secrets manager is asked."""
    key = profile.key
    if key is None or key.command or key.secret or slot_of(profile) in keys.stored:
        return True
    try:
        return keys.environment(profile) is not None
    except LlmctlError:
        return True


@asynccontextmanager
async def open_service(
    settings: Settings, around: Surroundings, authenticate: Authenticator | None
) -> AsyncIterator[Service]:
    """The service of these settings, open; closed when no request is under way any more.
    `authenticate` is None where only the user who runs it is served. Raises `SetupError` and
    `DiskError`."""
    async with open_run(around, cache_size=settings.cache_size, many=True, serving=True) as run:
        await run.budget.beat()  # a full disk is found now, not by the first call
        service = Service(settings, around, run, authenticate)
        run.budget.limit(
            service.windows, own=service.windows_of, longest_wait=settings.serve.limits.wait
        )
        yield service
        await service.idle()
