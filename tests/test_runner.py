"""One run that asks many profiles: what they share, and what each keeps to itself."""

from __future__ import annotations

import asyncio
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest
from msgspec.structs import replace

from llmctl.cli.context import Context, load_settings
from llmctl.config.settings import (
    BreakerPolicy,
    CachePolicy,
    KeyPlaces,
    Limits,
    Profile,
    RetryPolicy,
)
from llmctl.errors import NoKeyError, ServerFailed
from llmctl.protocols import IDLE, ProcessStatus
from llmctl.request import Question, compose
from llmctl.runner import Run, Runner, open_run
from llmctl.types import Answer, Message
from llmctl.wiring import Surroundings
from tests.conftest import KEY, configure, sent
from tests.ledgers import calls_of
from tests.simulator import errors
from tests.simulator.call import Call
from tests.simulator.fault import Fault
from tests.simulator.server import Simulator


class Place:
    """The profiles `sim` ($1 and $2 a million tokens) and `spare` ($3 and $4) at the simulator."""

    def __init__(self, home: Path, environ: dict[str, str], sim: Simulator) -> None:
        spare = f"""
  spare:
    provider: openai
    base_url: {sim.base_url}
    model: gpt-5-nano
    key: {{env: SIM_KEY}}
    price: {{input: 3, output: 4}}
"""
        configure(home, sim.base_url, "{env: SIM_KEY}", spare)
        context = Context(environ={**environ, "SIM_KEY": KEY})
        settings = load_settings(context)
        self.home, self.warnings = home, list[str]()
        self.sim, self.spare = settings.profiles["sim"], settings.profiles["spare"]
        self._around = Surroundings(
            settings.folders, context.environ, context.clock, lambda _: None, self.warnings.append
        )

    def run(self) -> AbstractAsyncContextManager[Run]:
        """A run as a gateway opens it."""
        return open_run(self._around, many=True)


@pytest.fixture
def place(home: Path, environ: dict[str, str], sim: Simulator) -> Place:
    """Two configured profiles."""
    return Place(home, environ, sim)


async def ask(runner: Runner, text: str, profile: Profile | None = None) -> Answer:
    """The answer to a question that has a call of its own."""
    question = Question(messages=(Message("user", text),))
    handler = runner.handler(runner.budget.settle, exact=True, on_retry=lambda _: None)
    return await handler(runner.stamp(compose(question, profile or runner.profile, id=text)), None)


def test_a_profile_is_opened_once(place: Place) -> None:
    """Whoever asks it first, as itself or as a fallback, and at the same time: there is one way to
    it, so its limits and its breaker count all calls; and one cache. Another interface is another
    way."""
    spare = replace(place.spare, key=KeyPlaces(command=("echo", KEY)))  # takes a while

    async def play() -> None:
        async with place.run() as run:
            first, second, third = await asyncio.gather(
                run.runner(place.sim, (spare,)), run.runner(spare), run.runner(place.sim)
            )
            assert first.routes[1] is second.routes[0]
            assert first.routes[0] is third.routes[0]
            assert len(third.routes) == 1
            assert first.cache is second.cache
            other = await run.runner(replace(place.sim, api="responses"))
            assert other.routes[0].endpoint is not first.routes[0].endpoint

    asyncio.run(play())


def test_every_profile_has_its_own_price_in_one_ledger(place: Place) -> None:
    """Also one that is opened after calls were made, and one that is asked as a fallback: the rows
    have one run, and each what its own profile's tokens cost."""

    async def play() -> None:
        async with place.run() as run:
            await ask(await run.runner(place.sim), "a")
            await ask(await run.runner(place.spare), "b")

    asyncio.run(play())
    rows = calls_of(place.home)
    assert [row["profile"] for row in rows] == ["sim", "spare"]
    assert len({row["run_id"] for row in rows}) == 1
    for row, (read, wrote) in zip(rows, ((1, 2), (3, 4)), strict=True):
        pico = 10**6 * (read * row["input_tokens"] + wrote * row["output_tokens"])
        assert row["cost_pico"] == pico > 0


def test_a_model_of_the_callers_goes_the_same_way(place: Place, sim: Simulator) -> None:
    """A profile with another model shares the way, and is asked for that model: as a fallback,
    too, whichever of the two was opened first."""

    def down(call: Call) -> Fault | None:
        return errors.server_error() if call.ask and call.ask.model == place.sim.model else None

    async def play() -> None:
        sim.fault = down
        dearer = replace(place.spare, model="gpt-5")
        async with place.run() as run:
            plain = await run.runner(place.spare)
            runner = await run.runner(place.sim, (dearer,))
            assert runner.routes[1].limits is plain.routes[0].limits
            answer = await ask(runner, "a")
            assert answer.request is not None
            assert answer.request.target.model == "gpt-5"
            await ask(plain, "b")

    asyncio.run(play())
    assert [sent(sim, n)["model"] for n in (-2, -1)] == ["gpt-5", "gpt-5-nano"]


def test_each_profile_keeps_its_answers_or_does_not(place: Place, sim: Simulator) -> None:
    """A run of profiles that keep none makes no file. Beside them another one's answers are kept,
    and found by the next run without a look ahead."""
    private = replace(place.spare, cache=CachePolicy(enabled=False))
    file = place.home / ".cache/llmctl/cache.db"

    async def play(*profiles: Profile) -> list[str]:
        async with place.run() as run:
            return [(await ask(await run.runner(each), "a")).cache for each in profiles]

    assert asyncio.run(play(private)) == ["bypass"]
    assert not file.exists()
    assert asyncio.run(play(private, place.sim, private)) == ["bypass", "miss", "bypass"]
    assert asyncio.run(play(private, place.sim)) == ["bypass", "hit"]
    assert len(sim.calls) == 5


def test_a_profile_that_cannot_be_opened_spoils_no_other(place: Place) -> None:
    """Without its key it is refused every time, and left out as a fallback; the run goes on."""
    lost = replace(place.spare, key=KeyPlaces(env="NOT_SET"))

    async def play() -> None:
        async with place.run() as run:
            for _ in range(2):
                with pytest.raises(NoKeyError):
                    await run.runner(lost)
            runner = await run.runner(place.sim, (lost,))
            assert len(runner.routes) == 1
            assert (await ask(runner, "a")).text == "echo: a"

    asyncio.run(play())
    assert len(place.warnings) == 1
    assert place.warnings[0].startswith("the fallback spare is left out")


def test_what_others_see_of_a_run(place: Place, sim: Simulator) -> None:
    """Calls that wait for their turn; a circuit by provider and profile, open where one of the
    profile's interfaces is; nothing once all is over."""
    narrow = replace(place.spare, limits=Limits(concurrency=1))
    weak = replace(place.sim, breaker=BreakerPolicy(failures=1), retry=RetryPolicy(attempts=1))

    async def play() -> None:
        async with place.run() as run:
            assert run.status() == IDLE
            sim.latency = 1.0
            runner = await run.runner(narrow)
            calls = [asyncio.create_task(ask(runner, str(n))) for n in range(3)]
            async with asyncio.timeout(30):
                while run.status() != ProcessStatus(waiting=2):  # noqa: ASYNC110 - nobody tells
                    await asyncio.sleep(0.001)
            sim.latency = 0.0
            await asyncio.gather(*calls)
            assert run.status() == IDLE
            sim.fault = errors.status(500)
            await run.runner(replace(weak, api="responses"))
            with pytest.raises(ServerFailed):
                await ask(await run.runner(weak), "d")
            assert run.status() == ProcessStatus(circuits={"openai/sim": "open"})

    asyncio.run(play())
