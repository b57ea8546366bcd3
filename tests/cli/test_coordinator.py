"""`coordinator: redis://…`: several machines with one limit, one budget and one set of answers."""

from __future__ import annotations

import json
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from llmctl.token_bucket import request_bucket
from tests.cli.machines import Machine, ended, machines
from tests.gateway.serving import serving
from tests.keys.openbao import closed_port
from tests.redis_server import RedisServer, needs_redis
from tests.simulator.call import Call
from tests.simulator.errors import rate_limited
from tests.simulator.fault import Fault
from tests.simulator.reply import Reply, Usage
from tests.simulator.server import Simulator

DEAR = "price: {input: 0, output: 1000}\nparams: {max_tokens: 20}\nlimits: {concurrency: 25}"
"""Every answer of 20 tokens costs $0.02, which is all that it may."""

CHEAP = "price: {input: 0, output: 1}\nparams: {max_tokens: 20}\nlimits: {concurrency: 1}"

BUDGET = "budgets: [{name: team, limit_usd: 1, period: month}]\n"


def all_it_may(_: Call) -> Reply:
    """An answer of 20 tokens."""
    return Reply("x", usage=Usage(5, 20))


def test_a_budget_is_one_for_two_batches_and_a_gateway(
    redis: RedisServer, sim: Simulator, tmp_path: Path
) -> None:
    """A dollar pays for fifty calls of two cents, whoever makes them, and for no more; every
    machine knows it, and says that it is a budget of all."""
    sim.reply, sim.latency = all_it_may, 0.02
    three = machines(tmp_path, 3)
    for n, machine in enumerate(three):
        machine.configure(sim, redis.url, DEAR, BUDGET)
        machine.write([f"{n} asks {row}" for row in range(30)])
    with serving(three[2].environ) as gateway, gateway.client() as client:
        batches = [machine.start("batch", "in.jsonl") for machine in three[:2]]

        def ask(row: int) -> int:
            body = {"model": "sim", "messages": [{"role": "user", "content": f"gateway {row}"}]}
            return client.post("/v1/chat/completions", json=body).status_code

        with ThreadPoolExecutor(8) as pool:
            statuses = [*pool.map(ask, range(30))]
        codes = [ended(process)[0] for process in batches]
        usage = client.get("/usage").json()
    assert sim.billed.requests == 50
    assert statuses.count(200) + sum(machine.answered() for machine in three[:2]) == 50
    assert 3 in codes or statuses.count(402)
    assert usage["caps_of"] == "all machines"
    (budget,) = json.loads(three[1].run("cost", "check", "--json").stdout)["budgets"]
    assert (budget["used_usd"], budget["all_machines"]) == (1, True)
    assert budget["cost_usd"] < 1
    said = three[0].run("cost", "check").stdout
    assert "on all machines, by the coordinator; on this one $" in said


def test_identical_rows_of_two_machines_are_billed_once(
    redis: RedisServer, sim: Simulator, tmp_path: Path
) -> None:
    """A hundred of them, asked on both at the same time; later ones come from this machine's own
    cache, also when Redis has forgotten."""
    two = machines(tmp_path, 2)
    sim.latency = 0.3
    for machine in two:
        machine.configure(sim, redis.url)
        machine.write(["the same question"] * 100)
    codes = [
        ended(process)[0] for process in [machine.start("batch", "in.jsonl") for machine in two]
    ]
    assert codes == [0, 0]
    assert [machine.answered() for machine in two] == [100, 100]
    assert sim.billed.requests == 1


def test_a_limit_is_one_for_two_machines(
    redis: RedisServer, sim: Simulator, tmp_path: Path
) -> None:
    """2,400 a minute are forty a second for both together, in no stretch of time more than the
    bucket lets through."""
    two, rpm = machines(tmp_path, 2), 2400
    for n, machine in enumerate(two):
        machine.configure(sim, redis.url, f"limits: {{rpm: {rpm}, concurrency: 20}}")
        machine.write([f"{n} asks {row}" for row in range(40)])
    batches = [machine.start("batch", "in.jsonl") for machine in two]
    assert [ended(process)[0] for process in batches] == [0, 0]
    times, bucket = sorted(call.received for call in sim.calls), request_bucket(rpm)
    late = 0.25  # seconds that a call may be on its way longer than one before it
    for n, first in enumerate(times):
        for m in range(n + 1, len(times)):
            assert m - n + 1 <= bucket.burst + bucket.rate * (times[m] - first + late) + 1
    assert len(times) == 80
    assert (len(times) - bucket.burst) / (
        times[-1] - times[0]
    ) >= 0.5 * bucket.rate  # on a busy machine


def test_a_429_pauses_every_machine(redis: RedisServer, sim: Simulator, tmp_path: Path) -> None:
    """Within a second, though the profile has no limit a minute."""
    two, refused = machines(tmp_path, 2), list[float]()

    def once(call: Call) -> Fault | None:
        # In the middle of both: each has sent some already.
        asked = {(seen.ask.last if seen.ask else "")[:1] for seen in sim.calls}
        if refused or len(asked) < 2 or len(sim.calls) < 20:
            return None
        refused.append(call.received)
        return rate_limited(2.5)

    sim.fault, sim.latency = once, 0.05
    for n, machine in enumerate(two):
        machine.configure(sim, redis.url, "limits: {concurrency: 2}\nretry: {max_wait: 5}")
        machine.write([f"{n} asks {row}" for row in range(40)])
    batches = [machine.start("batch", "in.jsonl") for machine in two]
    assert [ended(process)[0] for process in batches] == [0, 0]
    ((moment),) = refused
    after = [call.received - moment for call in sim.calls if call.received > moment]
    assert not [seconds for seconds in after if 1.1 < seconds < 2.4]
    assert len([seconds for seconds in after if seconds >= 2.4]) > 10


@pytest.mark.parametrize("command", [("ask", "hello"), ("batch", "in.jsonl")])
def test_nothing_is_sent_without_the_coordinator(
    sim: Simulator, tmp_path: Path, command: tuple[str, ...]
) -> None:
    """One sentence that names it and what to do, and exit 74."""
    (machine,) = machines(tmp_path, 1)
    port = closed_port()
    machine.configure(sim, f"redis://127.0.0.1:{port}")
    machine.write(["hello"])
    done = machine.run(*command)
    assert done.returncode == 74
    assert len(done.stderr.strip().splitlines()) == 1
    assert "the coordinator, redis://127.0.0.1:" in done.stderr
    assert f"(no connection to 127.0.0.1:{port})" in done.stderr
    assert "see that it runs" in done.stderr
    assert not sim.calls


def test_an_outage_is_told_and_an_interrupt_ends_the_wait(sim: Simulator, tmp_path: Path) -> None:
    """One warning when Redis does not answer, one when it does again; Ctrl-C in a second outage
    ends the run at once, and the same command goes on."""
    needs_redis()
    (machine,) = machines(tmp_path, 1)
    sim.latency = 0.05
    with RedisServer(tmp_path / "redis") as server, ExitStack() as stack:
        machine.configure(sim, server.url, CHEAP, BUDGET)
        machine.write([f"asks {row}" for row in range(30)])
        said = list[str]()
        batch = machine.start("batch", "in.jsonl")
        stack.callback(batch.kill)

        def told(words: str) -> float:
            """Seconds until it says so."""
            began = time.monotonic()
            assert batch.stderr is not None
            for line in batch.stderr:
                said.append(line)
                if words in line:
                    return time.monotonic() - began
            raise AssertionError("".join(said))

        sim.wait_for_calls(3, timeout=30)
        for again in (True, False):
            server.kill()
            assert told("does not answer: waiting up to 60 s") < 5
            if again:
                server.start()
                told("answers again")
        began = time.monotonic()
        batch.send_signal(signal.SIGINT)
        code, rest = ended(batch)
        assert time.monotonic() - began < 5  # a second, on a machine that is not busy
        assert code == 130, rest
        assert "".join(said).count("warning:") == 3
        assert "warning:" not in rest
        server.start()
        done = machine.run("batch", "in.jsonl")
        assert done.returncode == 0, done.stderr
    assert machine.answered() == sim.billed.requests == 30


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("redis://h:1/x", "NUMBER is the database's, not redis://h:1/x"),
        ("http://h:1", "must be redis://HOST:PORT/NUMBER, or rediss:// (TLS), not http://h:1"),
    ],
)
def test_an_address_of_no_redis_is_shown_with_what_it_must_be(
    sim: Simulator, tmp_path: Path, address: str, words: str
) -> None:
    """Exit 2; one that may hold a password is not shown."""
    (machine,) = machines(tmp_path, 1)
    machine.configure(sim, address)
    done = machine.run("ask", "hello")
    assert (done.returncode, sim.calls) == (2, [])
    assert words in done.stderr
    machine.configure(sim, address.replace("//", "//:canary@"))
    done = machine.run("ask", "hello")
    assert done.returncode == 2
    assert "canary" not in done.stderr


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--appendonly", "no"), "`appendonly yes`"),
        (
            ("--maxmemory", "50mb", "--maxmemory-policy", "allkeys-lru"),
            "`maxmemory-policy noeviction`",
        ),
    ],
)
def test_a_redis_that_forgets_is_refused(
    sim: Simulator, tmp_path: Path, flags: tuple[str, ...], words: str
) -> None:
    """Exit 2, with what to set there; unless the configuration says that it may forget."""
    needs_redis()
    (machine,) = machines(tmp_path, 1)
    with RedisServer(tmp_path / "redis", *flags) as server:
        machine.configure(sim, server.url)
        done = machine.run("ask", "hello")
        assert (done.returncode, sim.calls) == (2, [])
        assert words in done.stderr
        if words != "`appendonly yes`":
            return
        machine.configure(sim, f"{{url: '{server.url}', volatile: true}}")
        done = machine.run("ask", "hello")
        assert (done.returncode, done.stdout.strip()) == (0, "echo: hello"), done.stderr


def test_a_password_comes_from_its_place_and_is_never_shown(sim: Simulator, tmp_path: Path) -> None:
    """A variable, or an address that is secret as a whole; what is wrong with it is said without
    it."""
    needs_redis()
    (machine,) = machines(tmp_path, 1)
    secret = "redis-canary-4711"
    with RedisServer(tmp_path / "redis", "--requirepass", secret) as server:
        keyed = f"{{url: '{server.url}', key: {{env: REDIS_PASSWORD}}}}"
        whole = "{secret_url: {env: REDIS_URL}}"
        address = server.url.replace("//", f"//:{secret}@")
        refused = "it refused the password of $REDIS_PASSWORD"
        for place, variables, code, words in (
            (keyed, {"REDIS_PASSWORD": secret}, 0, ""),
            (whole, {"REDIS_URL": address}, 0, ""),
            (keyed, {"REDIS_PASSWORD": f"{secret}-wrong"}, 74, refused),
            (server.url, {}, 74, "it wants a password: `coordinator: {url: "),
            (keyed, {}, 4, "REDIS_PASSWORD"),
            (whole, {"REDIS_URL": address.replace("redis:", "rds:")}, 2, "no address"),
        ):
            machine.configure(sim, place)
            done = machine.run("ask", "hello", "--refresh", "-vv", **variables)
            assert done.returncode == code, done.stderr
            assert words in done.stderr
            assert secret not in done.stdout + done.stderr
    state = b"".join(p.read_bytes() for p in machine.home.rglob("*") if p.is_file())
    assert secret.encode() not in state


def test_what_nobody_knows_counts_everywhere_until_it_is_released(
    redis: RedisServer, sim: Simulator, tmp_path: Path
) -> None:
    """A process is killed with calls under way: both machines count them in full, and what
    `cost release` says of them on one of them counts on both."""
    two = machines(tmp_path, 2)
    for machine in two:
        machine.configure(sim, redis.url, DEAR, BUDGET)
        machine.write([f"asks {row}" for row in range(10)])
    sim.hold()
    batch = two[0].start("batch", "in.jsonl")
    sim.record.wait_until(lambda: sim.record.requests == 10, 30)
    batch.kill()
    ended(batch)
    sim.release()

    def used(machine: Machine) -> float:
        (budget,) = json.loads(machine.run("cost", "check", "--json").stdout)["budgets"]
        assert budget["all_machines"]
        amount: float = budget["used_usd"]
        return amount

    assert used(two[1]) == 0.2
    done = two[0].run("cost", "release", "--all", "--billed", "0.001")
    assert done.returncode == 0, done.stderr
    assert [used(machine) for machine in two] == [0.01, 0.01]


def test_a_group_on_two_machines_sends_each_row_once(
    redis: RedisServer, sim: Simulator, tmp_path: Path
) -> None:
    """`batch --join` by two machines that see the same files: each row is sent by one of them, also
    where no answers are kept."""
    two = machines(tmp_path, 2)
    for machine in two:
        machine.configure(sim, redis.url, "cache: {enabled: false}\nlimits: {concurrency: 4}")
    shared = two[0].write([f"say {n}" for n in range(120)])
    output = tmp_path / "out.jsonl"
    sim.hold()
    both = [machine.start("batch", str(shared), "-o", str(output), "--join") for machine in two]
    sim.wait_for_calls(8, timeout=60)
    sim.release()
    for code, said in map(ended, both):
        assert code == 0, said
    assert sorted(call.prompt for call in sim.calls) == sorted(f"say {n}" for n in range(120))
    assert len(output.read_text(encoding="utf-8").splitlines()) == 120
