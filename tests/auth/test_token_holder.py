"""A token that ends in the middle of a run: one fetch serves all calls, and none of them fails."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import pytest

from llmctl import redact
from llmctl.auth.key_auth import KeyAuth, bearer
from llmctl.auth.token_holder import AGAIN, EARLY, Token, TokenHolder
from llmctl.errors import AuthFailed, CallError, ConnectionFailed
from llmctl.guards.key_failover import key_failover
from llmctl.protocols import Emit
from llmctl.types import Answer, Request
from tests.support import FakeClock, request, response

LIFE = 3600.0


@dataclass
class Issuer:
    """Gives tokens that live `LIFE` seconds, `token-1` first; fails with `error` while it is set,
    and waits for `gate` where there is one."""

    clock: FakeClock
    life: float = LIFE
    error: CallError | None = None
    gate: asyncio.Event | None = None
    fetched: int = 0
    asked: asyncio.Event = field(default_factory=asyncio.Event)

    async def __call__(self) -> Token:
        """A new token."""
        self.fetched += 1
        self.asked.set()
        await (self.gate.wait() if self.gate else asyncio.sleep(0))
        if self.error is not None:
            raise self.error
        return Token(f"token-{self.fetched}", self.clock.wall() + self.life)


@pytest.fixture
def issuer() -> Issuer:
    """It answers at once."""
    return Issuer(FakeClock())


@pytest.fixture
def holder(issuer: Issuer) -> TokenHolder:
    """Holds none yet."""
    return TokenHolder(issuer, issuer.clock, "the issuer's credentials")


async def many(holder: TokenHolder, calls: int = 500) -> set[str]:
    """The tokens that so many calls at once get."""
    return set(await asyncio.gather(*(holder.current() for _ in range(calls))))


def test_one_fetch_for_all_calls(holder: TokenHolder, issuer: Issuer) -> None:
    """500 calls at once, before the first token and after the end of one, make one fetch each
    time."""

    async def work() -> None:
        assert await many(holder) == {"token-1"}
        issuer.clock.now += LIFE
        assert await many(holder) == {"token-2"}
        assert issuer.fetched == 2

    asyncio.run(work())


def test_it_is_fetched_before_it_ends(holder: TokenHolder, issuer: Issuer) -> None:
    """`EARLY` seconds before its end there is a new one; not earlier, and while one call waits for
    it the others go on with the old one."""

    async def work() -> None:
        await holder.current()
        issuer.clock.now += LIFE - EARLY - 1
        assert await many(holder) == {"token-1"}
        issuer.clock.now += 1
        issuer.gate = asyncio.Event()
        issuer.asked.clear()
        first = asyncio.create_task(holder.current())
        await issuer.asked.wait()
        async with asyncio.timeout(10):
            assert await many(holder) == {"token-1"}
        issuer.gate.set()
        assert await first == "token-2"
        assert (await many(holder), issuer.fetched) == ({"token-2"}, 2)

    asyncio.run(work())


@pytest.mark.parametrize(("life", "early", "due"), [(60, EARLY, 30), (3600, 1200, 2400)])
def test_how_early(issuer: Issuer, life: float, early: float, due: float) -> None:
    """A short token is renewed after half its life; who gives it may want that earlier."""
    issuer.life = life
    holder = TokenHolder(issuer, issuer.clock, "x", early)

    async def work() -> None:
        await holder.current()
        issuer.clock.now += due - 1
        assert await holder.current() == "token-1"
        issuer.clock.now += 1
        assert await holder.current() == "token-2"

    asyncio.run(work())


def test_a_token_that_holds_outlives_a_failing_refresh(holder: TokenHolder, issuer: Issuer) -> None:
    """No call fails while the old token holds, and the server is asked again every `AGAIN`
    seconds; from the end of the token on its failure is the calls' own."""

    async def work() -> None:
        await holder.current()
        issuer.error = ConnectionFailed("the token server is down")
        issuer.clock.now += LIFE - EARLY
        for asked in range(int(EARLY / AGAIN)):
            for _ in range(2):
                assert (await many(holder), issuer.fetched) == ({"token-1"}, 2 + asked)
            issuer.clock.now += AGAIN
        before = issuer.fetched
        failed = await asyncio.gather(
            *(holder.current() for _ in range(50)), return_exceptions=True
        )
        assert {type(error) for error in failed} == {ConnectionFailed}
        assert len({id(error) for error in failed}) == 50  # each call counts its own attempts
        assert issuer.fetched == before + 1
        issuer.error = None
        assert await many(holder) == {f"token-{before + 2}"}

    asyncio.run(work())


def test_a_refused_token(holder: TokenHolder, issuer: Issuer) -> None:
    """Refused right after its fetch there is no other to use: what it may do is at fault. Later,
    however many calls say so, one new one is fetched; where that fails, there is none."""

    async def refused(value: str | None) -> set[bool]:
        return set(await asyncio.gather(*(holder.refused(value) for _ in range(50))))

    async def work() -> None:
        await holder.current()
        assert (await refused("token-1"), issuer.fetched) == ({False}, 1)
        assert (await refused(None), issuer.fetched) == ({False}, 1)
        issuer.clock.now += AGAIN
        assert (await refused("token-1"), issuer.fetched) == ({True}, 2)
        assert (await refused("token-1"), issuer.fetched) == ({True}, 2)
        assert await holder.current() == "token-2"
        issuer.clock.now += AGAIN
        issuer.error = AuthFailed("no more", sent=False)
        assert (await refused("token-2"), issuer.fetched) == ({False}, 3)
        assert await holder.current() == "token-2"

    asyncio.run(work())


def test_calls_that_are_refused_together_all_go_on(holder: TokenHolder, issuer: Issuer) -> None:
    """500 calls whose token the provider took back answer with one new token; one that is not
    let in at all is sent once."""
    accepted: set[str] = {"token-2"}
    sent: list[str] = []

    async def call(_: Request, __: Emit | None) -> Answer:
        used = await holder.current()
        sent.append(used)
        await asyncio.sleep(0)
        if used not in accepted:
            raise AuthFailed("refused")
        return response()

    guard = key_failover(call, KeyAuth(bearer, holder))

    async def work() -> None:
        await holder.current()
        issuer.clock.now += AGAIN
        await asyncio.gather(*(guard(request(), None) for _ in range(500)))

    asyncio.run(work())
    assert (issuer.fetched, sent.count("token-2")) == (2, 500)

    accepted, sent[:] = set(), []
    holder = TokenHolder(issuer, issuer.clock, "x")
    guard = key_failover(call, KeyAuth(bearer, holder))

    async def alone() -> None:
        await guard(request(), None)

    with pytest.raises(AuthFailed):
        asyncio.run(alone())
    assert len(sent) == 1


def test_a_cancelled_call_takes_no_other_with_it(holder: TokenHolder, issuer: Issuer) -> None:
    """The call that began the fetch is cancelled: the others get its token."""

    async def work() -> None:
        issuer.gate = asyncio.Event()
        first = asyncio.create_task(holder.current())
        await issuer.asked.wait()
        others = [asyncio.create_task(holder.current()) for _ in range(50)]
        await asyncio.sleep(0)
        first.cancel()
        issuer.gate.set()
        assert set(await asyncio.gather(*others)) == {"token-1"}
        assert first.cancelled()
        assert issuer.fetched == 1

    asyncio.run(work())


def test_one_event_loop_after_the_other(holder: TokenHolder, issuer: Issuer) -> None:
    """A command may run several: also after one that ended in the middle of a fetch."""
    assert asyncio.run(many(holder)) == {"token-1"}
    issuer.clock.now += LIFE

    async def ends_early() -> None:
        issuer.gate, issuer.asked = asyncio.Event(), asyncio.Event()
        waiting = [asyncio.create_task(holder.current()) for _ in range(50)]
        await issuer.asked.wait()
        waiting[0].cancel()

    asyncio.run(ends_early())
    issuer.gate = None
    assert asyncio.run(many(holder)) == {"token-3"}


def test_only_tokens_that_may_be_in_use_are_looked_for(
    holder: TokenHolder, issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The newest and the one before are cut out of foreign text; a gateway that runs for weeks does
    not look for all that it ever had."""
    monkeypatch.setattr(redact, "_KNOWN", set())

    async def work() -> None:
        for _ in range(20):
            await holder.current()
            issuer.clock.now += LIFE

    asyncio.run(work())
    assert sorted(redact._KNOWN) == ["token-19", "token-20"]


def test_no_token_is_shown() -> None:
    """Not by what describes one."""
    assert "token-1" not in repr(Token("token-1", 0.0))
