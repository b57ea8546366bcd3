"""Alarm: rules looked at, their messages made once for all processes, sent until they are taken.

A message is on the disk before it is sent (`storage/alert_state.py`), so that neither a process
that is killed nor a sink that is down loses it: the next check sends it, with the same dedupe key.
"""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Self

import msgspec
from msgspec import Struct

from llmctl.alerts.figures import measure
from llmctl.alerts.message import Message, key_of, of_rule
from llmctl.alerts.rules import Event, Measured, step
from llmctl.alerts.sinks import send
from llmctl.clock import Clock
from llmctl.config.settings import AlertRule, Alerts, Settings
from llmctl.errors import DiskError, LlmctlError
from llmctl.shutdown import first_of
from llmctl.storage.alert_state import FILE, AlertState, AlertStore, Claimed, Outgoing
from llmctl.storage.database import ReadOnlyFile
from llmctl.storage.ledger_queries import Reading

EVERY = 30.0
"""Seconds between two looks at the rules while a batch runs or the gateway serves."""

_ALONE = EVERY - 5.0  # seconds for which no other process looks at the same rules

Warn = Callable[[str], None]


class Standing(Struct, frozen=True):
    """Where a rule stands at one moment, and what has just come of it."""

    rule: AlertRule
    measured: Measured
    state: AlertState
    event: Event | None = None


class Delivery(Struct, frozen=True):
    """A message that a sink was given; `failure` says why it has not taken it."""

    sink: str
    message: Message
    failure: str | None = None


class Alarm:
    """The alerts of a configuration. `warn` hears of sinks that do not take what they are given.

    Methods raise what `Database` does. Those that are no coroutines block.
    """

    def __init__(
        self, settings: Settings, environ: Mapping[str, str], clock: Clock, warn: Warn
    ) -> None:
        self._settings, self._environ, self._clock, self._warn = settings, environ, clock, warn
        self._alerts = alerts = settings.alerts
        self._sinks = {key_of(name, sink): name for name, sink in alerts.sinks.items()}
        self._keys = {name: key for key, name in self._sinks.items()}
        self.rules = {name: rule for name, rule in alerts.rules.items() if rule.enabled}
        # Whose messages go elsewhere is another rule: each configuration tells its own sinks.
        self._rule_keys = {
            name: key_of(rule, *(self._keys[sink] for sink in sinks_of(alerts, rule)))
            for name, rule in self.rules.items()
        }
        self._opened: AlertStore | None = None

    @property
    def _store(self) -> AlertStore:
        """The state on the disk, opened when it is first asked for: a test needs none."""
        if self._opened is None:
            self._opened = AlertStore(self._settings.folders.state / FILE)
        return self._opened

    def is_due(self) -> bool:
        """Whether nobody else looks at these rules for a while: the caller is to do it then."""
        all_rules = key_of(*sorted(self._rule_keys.values()))
        return self._store.claim_look(all_rules, self._clock.wall(), _ALONE)

    def measured(self, ledger: Reading) -> dict[str, Measured]:
        """The figure of each rule now."""
        return measure(
            ledger,
            self.rules.values(),
            self._settings.budgets,
            {name for name, one in self._settings.profiles.items() if not one.cache.enabled},
            self._clock.wall(),
        )

    def standings(self, measured: Mapping[str, Measured]) -> list[Standing]:
        """Where the rules stood when somebody last looked; nothing changes."""
        states = self._store.states()
        return [
            Standing(rule, measured[name], states.get(self._rule_keys[name], AlertState()))
            for name, rule in self.rules.items()
        ]

    def advance(self, measured: Mapping[str, Measured], now: float) -> list[Standing]:
        """Where the rules stand with these figures; what is to be told of that is on the disk."""
        events: dict[str, Event] = {}

        def stepped(name: str, state: AlertState) -> tuple[AlertState, Sequence[Outgoing]]:
            rule, key = self.rules[name], self._rule_keys[name]
            after, event = step(rule, state, measured[name], now)
            events.pop(name, None)  # a transaction may be run again
            if event is None:
                return after, ()
            events[name] = event
            since = state.since if event == "resolved" else after.since
            incident = key_of(key, repr(since))
            message = of_rule(rule, event, measured[name], incident, since, now)
            return after, self._outgoing(message, sinks_of(self._alerts, rule))

        steps = {key: partial(stepped, name) for name, key in self._rule_keys.items()}
        states = self._store.advance(now, steps)
        return [
            Standing(rule, measured[name], states[self._rule_keys[name]], events.get(name))
            for name, rule in self.rules.items()
        ]

    def check(self, ledger: Reading) -> list[Standing]:
        """Look at all rules now; `deliver` sends what comes of it."""
        now = self._clock.wall()
        return self.advance(self.measured(ledger), now)

    def put(self, message: Message, sinks: Collection[str]) -> None:
        """Have a message sent to the sinks of these names."""
        self._store.put(self._outgoing(message, sinks), self._clock.wall())

    async def deliver(self) -> list[Delivery]:
        """Send all that is due, each to its sink; what fails is tried again by a later check."""
        done: list[Delivery] = []
        while claimed := await asyncio.to_thread(
            self._store.claim, [*self._sinks], self._clock.wall()
        ):
            done += await asyncio.gather(*map(self._deliver, claimed))
        return done

    async def send(self, message: Message, name: str) -> Delivery:
        """Send a message to the sink of this name, now and once."""
        try:
            await send(message, self._alerts.sinks[name], self._environ, self._alerts.hidden)
        except LlmctlError as error:
            return Delivery(name, message, error.message)
        except Exception as error:  # noqa: BLE001 - a message is not lost by what nobody thought of
            return Delivery(name, message, f"a mistake in llmctl, {type(error).__name__}: {error}")
        return Delivery(name, message)

    async def _deliver(self, claimed: Claimed) -> Delivery:
        message = msgspec.json.decode(claimed.body, type=Message)
        done = await self.send(message, self._sinks[claimed.sink])
        if done.failure is None:
            await asyncio.to_thread(self._store.sent, claimed)
            return done
        wait = await asyncio.to_thread(self._store.failed, claimed, self._clock.wall())
        later = (
            "it is a day old now, and dropped"
            if wait is None
            else f"the next check after {wait:.0f} s tries again"
        )
        what = f"the sink {done.sink} did not take {message.title!r}"
        self._warn(f"{what}: {done.failure}; {later}")
        return done

    def _outgoing(self, message: Message, sinks: Collection[str]) -> list[Outgoing]:
        body = msgspec.json.encode(message).decode()
        return [Outgoing(message.dedupe_key, self._keys[name], body) for name in sinks]

    def close(self) -> None:
        """Give the file back."""
        if self._opened is not None:
            self._opened.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def sinks_of(alerts: Alerts, rule: AlertRule) -> tuple[str, ...]:
    """The names of the sinks that hear of a rule."""
    named = alerts.to if rule.to is None else rule.to
    return (*alerts.sinks,) if named is None else (*dict.fromkeys(named),)


async def watch(
    current: Callable[[], Settings],
    environ: Mapping[str, str],
    clock: Clock,
    warn: Warn,
    ended: asyncio.Event,
) -> None:
    """Look at the rules of the current settings every so many seconds, and once more when it has
    `ended`; nothing where there is no sink. One process of the machine does, and none is ended or
    held up by it: what goes wrong is said once."""
    said: set[str] = set()
    last = False
    while not last:
        await first_of(clock.sleep(EVERY), ended.wait())
        last = ended.is_set()
        settings = current()
        if not settings.alerts.sinks:
            continue
        try:
            await _look(settings, environ, clock, warn, anyway=last)
        except LlmctlError as error:
            why = error.message
        except Exception as error:  # noqa: BLE001 - see above
            why = f"a mistake in llmctl, {type(error).__name__}\n{traceback.format_exc()}"
        else:
            said.clear()
            continue
        if why not in said:
            warn(f"alerts were not checked: {why}")
        said.add(why)


async def _look(
    settings: Settings, environ: Mapping[str, str], clock: Clock, warn: Warn, *, anyway: bool
) -> None:
    path = settings.folders.state / "ledger.db"
    with ExitStack() as stack:

        def checked() -> Alarm | None:
            alarm = stack.enter_context(Alarm(settings, environ, clock, warn))
            if not (anyway or alarm.is_due()):
                return None
            if path.exists():
                _check(alarm, path)
            return alarm

        alarm = await asyncio.to_thread(checked)
        if alarm is not None:
            await alarm.deliver()


def _check(alarm: Alarm, path: Path) -> None:
    """Check by the ledger at `path`, without a lock on it. Raises `DiskError`."""
    with ReadOnlyFile(path) as file:
        if file.ask(lambda connection: alarm.check(Reading(connection))) is None:
            raise DiskError(f"{path} cannot be read; `llmctl cost report` says why")
