"""Alarm: one firing and one end whoever looks, and no message lost by whatever dies."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from llmctl.alerts.alarm import EVERY, Alarm, Delivery, watch
from llmctl.config.alerts import BUILT_IN
from llmctl.config.load import load
from llmctl.config.settings import Settings
from llmctl.storage.alert_state import BACKOFF, GIVEN_UP, LEASE
from llmctl.storage.ledger import open_ledger
from tests.alerts.receiver import Receiver
from tests.ledgers import a_call, a_failure, a_ledger
from tests.support import FakeClock

ROOT = Path(__file__).parents[2]
NOW = 1_795_003_500
MINUTE = 60


class Place:
    """A home folder with sinks and a ledger."""

    def __init__(self, home: Path, sinks: str) -> None:
        self.home, self.said = home, list[str]()
        self.clock = FakeClock(NOW)
        self.configure(sinks)

    def configure(self, sinks: str) -> None:
        """Write the configuration: the critical error rate alone."""
        file = self.home / ".config/llmctl/config.yaml"
        file.parent.mkdir(parents=True, exist_ok=True)
        off = ", ".join(f"{name}: off" for name in BUILT_IN if name != "error_rate_critical")
        file.write_text(f"alerts: {{rules: {{{off}}}, sinks: {sinks}}}")

    def settings(self) -> Settings:
        """The configuration as it is now."""
        return load(environ={"HOME": str(self.home)}, cwd=self.home)

    @property
    def ledger(self) -> Path:
        """Where the ledger is."""
        return self.settings().folders.state / "ledger.db"

    def outage(self, start: float = NOW) -> None:
        """Calls that fail for two minutes from `start` on, and go well for the next half hour."""
        failed = [a_failure(started_ms=ms(start + n), error_type="server") for n in range(120)]
        well = [a_call(started_ms=ms(start + 120 + n)) for n in range(0, 1800, 2)]
        a_ledger(self.ledger, *failed, *well)

    def alarm(self) -> Alarm:
        """The alerts, opened."""
        return Alarm(self.settings(), {}, self.clock, self.said.append)

    def check(self, at: float) -> list[Delivery]:
        """Look at a moment, and send; what was sent."""
        self.clock.now += at - self.clock.wall()
        with self.alarm() as alarm:
            with closing(open_ledger(self.ledger, "", "")) as ledger:
                ledger.report(alarm.check)
            return asyncio.run(alarm.deliver())


def ms(moment: float) -> int:
    """Milliseconds."""
    return round(moment * 1000)


def told(receiver: Receiver) -> list[str]:
    """What the sink was told, in short."""
    return [got["status"] for got in receiver.got]


@pytest.fixture
def place(home: Path, receiver: Receiver) -> Place:
    """Where one webhook hears of everything."""
    return Place(home, f"{{ops: {{webhook: '{receiver.url}'}}}}")


class Worker:
    """A process that looks when it is told to."""

    def __init__(self, home: Path, *options: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.alerts.alarm_worker", str(home), *options],
            cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self.answer() == "ready"

    def look(self, at: float) -> None:
        """Have it look."""
        assert self.process.stdin
        self.process.stdin.write(f"{at}\n")
        self.process.stdin.flush()

    def answer(self) -> str:
        """What it prints next; nothing where it has died."""
        assert self.process.stdout
        return self.process.stdout.readline().strip()

    def end(self) -> None:
        """Kill it."""
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def worker(home: Path) -> Iterator[Callable[..., Worker]]:
    """Makes workers, which end with the test."""
    with ExitStack() as stack:

        def make(*options: str) -> Worker:
            made = Worker(home, *options)
            stack.callback(made.end)
            return made

        yield make


def test_two_processes_tell_of_an_outage_once(
    place: Place, receiver: Receiver, worker: Callable[..., Worker]
) -> None:
    """Both look at the same moments, from before an outage until after it: one firing comes, and
    one end, with one key."""
    place.outage()
    both = [worker(), worker()]
    for at in range(NOW - MINUTE, NOW + 25 * MINUTE, 30):
        for one in both:
            one.look(at)
        for one in both:
            assert one.answer().isdecimal()
    assert told(receiver) == ["firing", "resolved"]
    first, second = receiver.got
    assert first["dedupe_key"] == second["dedupe_key"]
    assert first["starts_at"] == second["starts_at"]


def test_killed_between_deciding_and_sending(
    place: Place, receiver: Receiver, worker: Callable[..., Worker]
) -> None:
    """What a killed process had decided to tell, the next one tells, though nothing changes for
    it."""
    place.outage()
    dying = worker("die-before-sending")
    dying.look(NOW + MINUTE)
    assert dying.answer() == ""
    assert told(receiver) == []
    assert len(place.check(NOW + MINUTE + 1)) == 1
    assert told(receiver) == ["firing"]
    assert place.check(NOW + MINUTE + 2) == []


def test_killed_while_sending(
    place: Place, receiver: Receiver, worker: Callable[..., Worker]
) -> None:
    """Whether the sink has it nobody knows: it is sent again once the claim has run out, with the
    same key."""
    place.outage()
    dying = worker()
    receiver.hold.clear()
    dying.look(NOW + MINUTE)
    receiver.wait(1)
    dying.end()
    receiver.hold.set()
    assert place.check(NOW + MINUTE + LEASE / 2) == []
    assert len(place.check(NOW + MINUTE + LEASE + 1)) == 1
    first, second = receiver.got
    assert first == second


def test_a_sink_that_is_down_is_tried_again(place: Place, receiver: Receiver) -> None:
    """Each failure is said, the wait until the next try doubles, and what is resolved meanwhile
    waits behind its firing."""
    place.outage()
    receiver.status = 503
    (failed,) = place.check(NOW + MINUTE)
    assert failed.failure == "127.0.0.1 replies HTTP 503: ok"
    (said,) = place.said
    assert said == (
        "the sink ops did not take '[FIRING] error_rate_critical: the error rate 100%': 127.0.0.1 "
        "replies HTTP 503: ok; the next check after 30 s tries again"
    )
    assert place.check(NOW + MINUTE + BACKOFF[0] - 1) == []
    assert len(place.check(NOW + MINUTE + BACKOFF[0])) == 1
    assert "after 60 s" in place.said[-1]
    assert len(place.check(NOW + 20 * MINUTE)) == 1  # the rule is well again by now
    receiver.status = 200
    del receiver.got[:]
    assert [one.failure for one in place.check(NOW + 40 * MINUTE)] == [None, None]
    assert told(receiver) == ["firing", "resolved"]


def test_old_news_are_dropped(place: Place, receiver: Receiver) -> None:
    """What nobody took for a day is given up, which is said."""
    place.outage()
    receiver.status = 503
    place.check(NOW + MINUTE)
    place.check(NOW + MINUTE + GIVEN_UP + 1)
    assert place.said[-2].endswith("it is a day old now, and dropped")
    assert "[RESOLVED] error_rate_critical: nothing to judge any more" in place.said[-1]
    del receiver.got[:]
    place.check(NOW + MINUTE + GIVEN_UP + 3600)
    assert told(receiver) == ["resolved"]


def test_sinks_of_one_name_in_two_configurations(place: Place, receiver: Receiver) -> None:
    """What waits for a sink goes to no other one that has its name elsewhere."""
    place.outage()
    receiver.status = 503
    place.check(NOW + MINUTE)
    with Receiver() as other:
        place.configure(f"{{ops: {{webhook: '{other.url}'}}}}")
        place.check(NOW + 2 * MINUTE)
        assert told(other) == ["firing"]
        receiver.status = 200
        place.configure(f"{{ops: {{webhook: '{receiver.url}'}}}}")
        place.check(NOW + 3 * MINUTE)
    assert told(receiver) == ["firing", "firing"]
    assert receiver.got[0] == receiver.got[1]


def test_a_late_look_changes_nothing(place: Place, receiver: Receiver) -> None:
    """Who read the ledger before another one, and comes to write after it, undoes nothing."""
    place.outage()
    place.check(NOW + MINUTE)
    place.check(NOW - MINUTE)
    place.check(NOW + MINUTE + 1)
    assert told(receiver) == ["firing"]


def test_live_only_one_looks(place: Place) -> None:
    """Of all processes that live, one looks every half minute; of other rules another one may."""
    with place.alarm() as one, place.alarm() as other:
        assert [one.is_due(), other.is_due(), one.is_due()] == [True, False, False]
        place.clock.now += EVERY
        assert [other.is_due(), one.is_due()] == [True, False]
        place.configure("{other: {command: 'true'}}")
        with place.alarm() as third:
            assert third.is_due()
        place.clock.now -= 365 * 86400  # the system's clock was wrong
        assert one.is_due()


def test_live_there_is_a_last_look(place: Place, receiver: Receiver) -> None:
    """At its end each process looks once more, whoever has looked just now: a short run has no
    other look."""
    place.outage(NOW - MINUTE)
    with place.alarm() as alarm:
        assert alarm.is_due()
    ended = asyncio.Event()
    ended.set()
    asyncio.run(watch(place.settings, {}, place.clock, place.said.append, ended))
    assert told(receiver) == ["firing"]
    assert place.said == []


def test_without_sinks_nothing_is_looked_at(place: Place) -> None:
    """Where nobody hears, no file is made."""
    place.configure("{}")
    ended = asyncio.Event()
    ended.set()
    asyncio.run(watch(place.settings, {}, place.clock, place.said.append, ended))
    assert not (place.settings().folders.state / "alerts.db").exists()


def test_a_state_that_cannot_be_read_is_said_once(place: Place) -> None:
    """A damaged file ends nobody's run: it is said, and once."""
    state = place.settings().folders.state
    state.mkdir(parents=True)
    (state / "alerts.db").write_bytes(b"no database at all, but long enough " * 40)

    async def live() -> None:
        ended = asyncio.Event()
        task = asyncio.ensure_future(
            watch(place.settings, {}, place.clock, place.said.append, ended)
        )
        while not place.said:  # noqa: ASYNC110 - what is said comes from a thread
            await asyncio.sleep(0.01)
        ended.set()
        await task

    async def no_time(_: float) -> None:
        await asyncio.sleep(0)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(place.clock, "sleep", no_time)
        asyncio.run(live())
    (said,) = place.said
    assert said.startswith("alerts were not checked: ")
    assert "alerts.db is damaged" in said
