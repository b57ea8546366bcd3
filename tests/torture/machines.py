"""T26: machines that share a Redis which is killed.

Two batches and a gateway spend one budget while Redis is killed (SIGKILL) and started again, over
and over: every row is answered, the budget is kept to the cent, and Redis knows of what the
machines' ledgers do, to the picodollar. In full, also: a limit of 30,000 requests a minute is kept
by two batches in any 60 s; and without Redis for longer than is waited for, a
batch ends with 74 and is resumed, and the gateway answers 503 until Redis is back.
"""

from __future__ import annotations

import random
import shutil
import sqlite3
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import httpx2

from tests.cli.machines import Machine, machines
from tests.gateway.serving import Gateway, serving
from tests.redis_server import RedisServer
from tests.simulator.call import Call
from tests.simulator.reply import Reply, Usage
from tests.simulator.server import Simulator
from tests.torture.judge import Size, UnableError

_CENT = 10**10  # picodollars
_MINUTE = 60.0
_PATIENCE = 60.0  # seconds that an outage is waited for
_COST = "price: {input: 0, output: 1000}\nparams: {max_tokens: 10}\n"  # a cent an answer


def run(size: Size) -> str:
    """120 rows on each machine, or 2,000, and three kills, or thirty; one line."""
    if shutil.which("redis-server") is None:
        raise UnableError("Debian's redis-server is not installed")
    said = [_killed(size)]
    if size.full:
        said += [_limited(), _without()]
    return f"T26 machines: {'; '.join(said)}"


@contextmanager
def _site(profile: str, rows: int, more: str = "", **sim: float) -> Iterator[_Site]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with Simulator(**sim) as provider, RedisServer(folder / "redis") as redis:  # type: ignore[arg-type]
            made = machines(folder, 3)
            for n, machine in enumerate(made):
                machine.configure(provider, redis.url, profile, more)
                machine.write([f"{n} asks {row}" for row in range(rows)])
            yield _Site(provider, redis, made)


class _Site:
    def __init__(self, sim: Simulator, redis: RedisServer, made: list[Machine]) -> None:
        self.sim, self.redis, self.machines = sim, redis, made


def _a_cent(_: Call) -> Reply:
    return Reply("x", usage=Usage(5, 10))


def _ask(client: httpx2.Client, text: str) -> int:
    body = {"model": "sim", "messages": [{"role": "user", "content": text}]}
    return client.post("/v1/chat/completions", json=body, timeout=2 * _PATIENCE).status_code


def _killed(size: Size) -> str:
    rows, kills, chance = size.of(120, 2_000), size.of(3, 30), random.Random(size.seed)
    # The rows fit to the cent, with ten calls of the gateway; an eleventh does not.
    budget = f"budgets: [{{name: team, limit_usd: {(2 * rows + 10) / 100}, period: month}}]\n"
    profile = f"{_COST}limits: {{concurrency: 20}}"
    with _site(profile, rows, budget, latency=0.2) as site:
        site.sim.reply = _a_cent
        one, two, third = site.machines
        with serving(third.environ) as gateway, gateway.client() as client:
            batches = [machine.start("batch", "in.jsonl", "-q") for machine in (one, two)]
            statuses: list[int] = []

            def ask() -> None:
                statuses.extend(_ask(client, f"gateway {n}") for n in range(10))

            asking = threading.Thread(target=ask)
            asking.start()
            site.sim.record.wait_until(lambda: {"0", "1"} <= _who(site.sim), 30)
            for _ in range(kills):
                time.sleep(chance.uniform(0.1, 0.6))  # a moment like any other
                site.redis.kill()
                time.sleep(chance.uniform(0.05, 0.5))
                site.redis.start()
            for process in batches:
                _, problem = process.communicate(timeout=600)
                assert process.returncode == 0, problem
            asking.join()
            assert statuses == [200] * 10, statuses
            status = _ask(client, "one too many")
            assert status == 402, (status, *_in_redis(site.redis), "".join(gateway.lines))
        assert [machine.answered() for machine in (one, two)] == [rows, rows]
        bills = site.sim.billed.requests
        assert bills == 2 * rows + 10
        assert _in_redis(site.redis) == (bills * _CENT, 0)
        spent = sum(_in_ledger(machine) for machine in site.machines)
        assert spent == bills * _CENT
    return (
        f"Redis killed {kills} times under two batches and a gateway, {bills:,} calls billed and "
        "settled, nothing above the budget"
    )


def _who(sim: Simulator) -> set[str]:
    """The machines whose batches have sent something: without Redis none begins."""
    return {call.ask.last[0] for call in sim.calls if call.ask}


def _in_redis(redis: RedisServer) -> tuple[int, int]:
    """Picodollars spent and held of the budget."""
    (key,) = redis.ask("KEYS", "*:window:*")
    spent, held = redis.ask("HMGET", key, "spent", "held")
    return int(spent), int(held)


def _in_ledger(machine: Machine) -> int:
    path = machine.home / ".local/state/llmctl/ledger.db"
    with closing(sqlite3.connect(path)) as connection:
        (spent,) = connection.execute(
            "SELECT sum(cost_pico + uncertain_pico) FROM calls"
        ).fetchone()
    return int(spent)


def _limited() -> str:
    rpm, rows = 30_000, 20_000
    profile = f"limits: {{rpm: {rpm}, concurrency: 100}}\ncache: {{enabled: false}}"
    with _site(profile, rows, latency=0.05) as site:
        batches = [machine.start("batch", "in.jsonl", "-q") for machine in site.machines[:2]]
        for process in batches:
            _, problem = process.communicate(timeout=600)
            assert process.returncode == 0, problem
        times = sorted(call.received for call in site.sim.calls)
    most, first = 0, 0
    for last, at in enumerate(times):
        while at - times[first] >= _MINUTE:
            first += 1
        most = max(most, last - first + 1)
    assert most <= rpm, most
    return f"at most {most:,} of {rpm:,} requests in any minute"


def _without() -> str:
    rows = 60
    with _site(f"{_COST}limits: {{concurrency: 4}}", rows, latency=0.2) as site:
        one, _, third = site.machines
        with serving(third.environ) as gateway, gateway.client() as client:
            batch = one.start("batch", "in.jsonl", "-q")
            site.sim.record.wait_until(lambda: site.sim.record.requests >= 8, 30)
            site.redis.kill()
            _, problem = batch.communicate(timeout=2 * _PATIENCE)
            assert batch.returncode == 74, problem
            sent = site.sim.record.requests
            assert sent <= 12
            assert _ask(client, "nobody may") == 503
            assert site.sim.record.requests == sent
            site.redis.start()
            _served(gateway, client)
            done = one.run("batch", "in.jsonl", "-q")
            assert (done.returncode, one.answered()) == (0, rows), done.stderr
    return "an outage ended a batch with 74, which was resumed, and the gateway said 503 meanwhile"


def _served(gateway: Gateway, client: httpx2.Client) -> None:
    until = time.monotonic() + 30
    while _ask(client, "again") != 200:
        assert time.monotonic() < until, "".join(gateway.lines)
        time.sleep(0.2)
