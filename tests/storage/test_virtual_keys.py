"""Virtual keys in their file: found by digest, refused everywhere as soon as they are revoked."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from decimal import Decimal
from pathlib import Path

import pytest

from llmctl.config.settings import Allowance, Caps, Rate
from llmctl.errors import InputError
from llmctl.storage.database import DamagedError
from llmctl.storage.virtual_keys import LOOK, Token, TokenStore
from tests.support import FakeClock

ANN = Token(
    "ann",
    "ann@example.com",
    1_800_000_000.0,
    team="backend",
    profiles=("fast", "claude"),
    caps=Caps((Rate(60, "minute"),), (), (Allowance(Decimal("0.10"), "day"),)),
    weight=3,
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the tokens will be."""
    return tmp_path / "state" / "tokens.db"


@pytest.fixture
def clock() -> FakeClock:
    """A clock that stands still."""
    return FakeClock()


@pytest.fixture
def store(path: Path, clock: FakeClock) -> Iterator[TokenStore]:
    """A store without a token."""
    with closing(TokenStore(path, clock)) as opened:
        yield opened


@pytest.fixture
def other(path: Path, clock: FakeClock) -> Iterator[TokenStore]:
    """The same file as another process opens it."""
    with closing(TokenStore(path, clock)) as opened:
        yield opened


def state(store: TokenStore, secret: str, clock: FakeClock) -> str:
    """What becomes of a secret."""
    token = store.find(secret)
    return "unknown" if token is None else token.state(clock.wall())


def test_looking_creates_nothing(store: TokenStore, path: Path) -> None:
    """Without a file nobody has a token, and there is no file afterwards."""
    assert store.find("lk-x") is None
    assert store.all() == []
    assert not store.any_active()
    assert not path.parent.exists()


def test_a_token_comes_back_as_it_was(store: TokenStore, other: TokenStore) -> None:
    """All of it, in other processes too, amounts of money to the digit."""
    secret = store.create(ANN)
    assert other.find(secret) == ANN
    assert other.all() == [ANN]
    assert other.any_active()
    for wrong in (secret[:-1], secret + "A", secret.upper(), "lk-", "", "lk-\udcff"):
        assert other.find(wrong) is None


def test_the_secret_is_nowhere(store: TokenStore, path: Path) -> None:
    """256 random bits behind `lk-`, of which the files hold no byte."""
    secrets = [store.create(Token(f"t{n}", "u", 0.0)) for n in range(20)]
    assert len(set(secrets)) == 20
    assert {len(secret) for secret in secrets} == {46}
    kept = b"".join(file.read_bytes() for file in path.parent.iterdir())
    assert not any(secret[3:].encode() in kept for secret in secrets)


def test_a_revoked_token_is_refused_by_others_at_their_next_look(
    store: TokenStore, other: TokenStore, clock: FakeClock
) -> None:
    """Other processes look every half second; the one that revokes is no exception."""
    secret = store.create(ANN)
    assert state(other, secret, clock) == "active"
    store.revoke(["ann", "nobody"])
    clock.now += LOOK
    assert state(other, secret, clock) == state(store, secret, clock) == "revoked"
    assert not other.any_active()


def test_a_file_that_is_removed_or_put_back_counts(
    store: TokenStore, other: TokenStore, clock: FakeClock, path: Path
) -> None:
    """Tokens of a file that is gone are none, those of the one in its place are."""
    secret = store.create(ANN)
    store.close()
    assert state(other, secret, clock) == "active"
    aside = path.with_name("aside")
    path.rename(aside)
    clock.now += LOOK
    assert state(other, secret, clock) == "unknown"
    aside.rename(path)
    clock.now += LOOK
    assert state(other, secret, clock) == "active"


def test_a_token_ends_at_its_moment(store: TokenStore, clock: FakeClock) -> None:
    """From the second on that it names."""
    secret = store.create(Token("brief", "u", clock.wall(), expires=clock.wall() + 10))
    clock.now += 9.9
    assert state(store, secret, clock) == "active"
    clock.now += 0.1
    assert state(store, secret, clock) == "expired"


def test_a_name_in_force_is_not_given_twice(store: TokenStore, clock: FakeClock) -> None:
    """It is once its token is revoked; the former secret stays refused."""
    former = store.create(ANN)
    with pytest.raises(InputError, match="tokens rotate ann"):
        store.create(ANN)
    assert state(store, former, clock) == "active"
    store.revoke(["ann"])
    secret = store.create(ANN)
    clock.now += LOOK
    assert state(store, secret, clock) == "active"
    assert state(store, former, clock) == "unknown"


def test_a_rotated_token_has_both_secrets_for_a_while(
    store: TokenStore, other: TokenStore, clock: FakeClock
) -> None:
    """The former one is accepted for the grace and not longer; a second rotation gives it no
    more, and revoking refuses all."""
    first = store.create(ANN)
    second = store.rotate("ann", 60.0)
    clock.now += 59
    assert [state(other, each, clock) for each in (first, second)] == ["active", "active"]
    third = store.rotate("ann", 60.0)
    clock.now += 1
    found = [state(other, each, clock) for each in (first, second, third)]
    assert found == ["expired", "active", "active"]
    store.revoke(["ann"])
    clock.now += LOOK
    assert {state(other, each, clock) for each in (first, second, third)} == {"revoked"}


def test_when_it_was_used_is_written_once_a_minute(
    store: TokenStore, other: TokenStore, clock: FakeClock
) -> None:
    """The first use at once, those of the next minute together, the last ones at the end; a
    rotation or a revocation does not lose it."""
    secret = store.create(ANN)

    async def use(times: int) -> None:
        for _ in range(times):
            token = store.find(secret)
            assert token is not None
            store.note_use(token)
            clock.now += 1
            await asyncio.sleep(0)
        if store._noting is not None:
            await store._noting

    begin = clock.wall()
    asyncio.run(use(30))
    assert other.all()[0].last_used == begin
    store.rotate("ann", 3600.0)
    store.revoke(["ann"])
    assert other.all()[0].last_used == begin
    store.close()
    assert other.all()[0].last_used == begin + 29


def test_a_damaged_file_lets_nobody_in(store: TokenStore, clock: FakeClock, path: Path) -> None:
    """Not even those it was read for before."""
    secret = store.create(ANN)
    assert state(store, secret, clock) == "active"
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("UPDATE tokens SET token = '{'")
    clock.now += LOOK
    for _ in range(2):
        with pytest.raises(DamagedError, match=r"tokens\.db"):
            store.find(secret)
