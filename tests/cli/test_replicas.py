"""Several servers of one model, `base_url: [...]`, as the installed command meets them."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.cli.jsonl import prompts, read, write
from tests.conftest import KEY, LLMCTL, Run, configure, ledger
from tests.simulator import errors
from tests.simulator.loopback import closed_port
from tests.simulator.scripts import fail_first
from tests.simulator.server import Simulator

Servers = Callable[..., dict[str, str]]


@pytest.fixture
def at(home: Path, environ: dict[str, str]) -> Servers:
    """Configures a profile `sim` of these servers or base URLs, with further keys, and more of
    the file."""

    def point(*servers: Simulator | str, profile: str = "", more: str = "") -> dict[str, str]:
        urls = ", ".join(one if isinstance(one, str) else one.base_url for one in servers)
        configure(home, f"[{urls}]", "{env: SIM_KEY}", f"{profile}\n{more}")
        return {**environ, "SIM_KEY": KEY, "LLMCTL_STORE_KEY": "x" * 32}

    return point


@pytest.fixture
def silent() -> Iterator[list[str]]:
    """The base URLs of two servers that are not there, whose ports nobody else gets meanwhile."""
    with closed_port() as first, closed_port() as second:
        yield [f"http://{address}/v1" for address in (first, second)]


@pytest.fixture
def other() -> Iterator[Simulator]:
    """A second server."""
    with Simulator() as simulator:
        yield simulator


def test_rows_go_where_the_queue_is_short(
    at: Servers, run: Run, home: Path, tmp_path: Path, sim: Simulator, other: Simulator
) -> None:
    """Both servers work all the time, so a slow one gets fewer rows; the audit says of every row
    which server had it, and the cache gives all of them again."""
    sim.latency, other.latency = 0.2, 0.01
    env = at(sim, other, profile="    limits: {concurrency: 6}", more="audit: {}")
    source = write(tmp_path / "in.jsonl", prompts(60))
    done = run("batch", str(source), env=env)
    assert done.returncode == 0, done.stderr
    assert {row["id"] for row in read(tmp_path / "in.out.jsonl")} == {f"r{n}" for n in range(60)}
    slow, fast = len(sim.calls), len(other.calls)
    assert slow + fast == 60
    assert 3 <= slow < fast / 2
    lines = [
        json.loads(line)
        for path in (home / ".local/state/llmctl/audit").glob("*.jsonl")
        for line in path.read_text().splitlines()
    ]
    origins = [line["origin"] for line in lines if line.get("kind") == "call"]
    assert (origins.count(sim.origin), origins.count(other.origin)) == (slow, fast)
    again = run("batch", str(source), "-o", "again.jsonl", env=env)
    assert again.returncode == 0, again.stderr
    assert len(sim.calls) + len(other.calls) == 60


def test_a_server_that_is_killed_is_left_out_and_comes_back(
    at: Servers, home: Path, tmp_path: Path, other: Simulator
) -> None:
    """Every row is answered once, though a server ends in the middle of a batch; only what was in
    flight there is billed again. When it is back, calls go to it again; people are told of both."""
    rows, at_a_time = 360, 8
    gone, other.latency = Simulator(latency=0.05), 0.05
    source = write(tmp_path / "in.jsonl", prompts(rows))
    with ExitStack() as stack:
        with gone:
            policy = f"    limits: {{concurrency: {at_a_time}}}\n    breaker: {{open_for: 0.2}}"
            env = at(gone, other, profile=policy)
            batch = stack.enter_context(
                subprocess.Popen(
                    [LLMCTL, "batch", str(source)],
                    env=env,
                    cwd=tmp_path,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                )
            )
            gone.wait_for_calls(20)
        other.wait_for_calls(len(other.calls) + 20)  # it does all the work
        back = stack.enter_context(Simulator(latency=0.05, port=gone.port))
        back.wait_for_calls(10)
        _, said = batch.communicate(timeout=60)
    assert batch.returncode == 0, said
    answers = read(tmp_path / "in.out.jsonl")
    assert sorted(row["id"] for row in answers) == sorted(f"r{n}" for n in range(rows))
    assert all(row["text"] for row in answers)
    billed = sum(server.billed.requests for server in (gone, other, back))
    assert rows <= billed <= rows + at_a_time
    asked = sum(len(server.calls) for server in (gone, other, back))
    assert sum(row["attempts"] for row in ledger(home)) == asked  # none is counted that was refused
    place = f"127.0.0.1:{gone.port}"
    assert f"the server {place} is left out for 0.2 s" in said
    assert f"the server {place} is back" in said


def test_a_batch_outlives_an_outage_of_all_servers(
    at: Servers, run: Run, home: Path, tmp_path: Path, sim: Simulator, other: Simulator
) -> None:
    """While all servers fail the rows wait, as for a provider that is down, and are answered once
    the servers work again."""
    sim.fault, other.fault = (fail_first(5, errors.server_error()) for _ in range(2))
    env = at(sim, other, profile="    breaker: {failures: 2, open_for: 0.3}")
    source = write(tmp_path / "in.jsonl", prompts(30))
    done = run("batch", str(source), env=env)
    assert done.returncode == 0, done.stderr
    assert len(read(tmp_path / "in.out.jsonl")) == 30
    assert sum(row["attempts"] for row in ledger(home)) == len(sim.calls) + len(other.calls)


def test_when_no_server_answers_the_fallback_does(
    at: Servers, run: Run, home: Path, sim: Simulator, silent: list[str]
) -> None:
    """Without a connection to any server `ask` has its fallback's answer, and none without one:
    exit 5, with the address that was asked last."""
    spare = f"""
  spare: {{provider: openai, base_url: "{sim.base_url}", model: m, key: {{env: SIM_KEY}}}}
"""
    env = at(*silent, profile="    fallback: [spare]", more=spare)
    done = run("ask", "hello", env=env)
    assert (done.returncode, done.stdout) == (0, "echo: hello"), done.stderr
    file = home / ".config/llmctl/config.yaml"
    file.write_text(file.read_text().replace("    fallback: [spare]", ""))
    done = run("ask", "something else", env=env)
    assert done.returncode == 5
    assert "no connection to 127.0.0.1" in done.stderr


def test_free_questions_go_to_a_server_that_is_there(
    at: Servers, run: Run, home: Path, sim: Simulator, silent: list[str]
) -> None:
    """`keys check` and `models` ask the next server where the first one is down; exit 5 where none
    is there."""
    gone, another = silent
    env = at(gone, sim)
    for command in (("keys", "check", "sim"), ("models", "-p", "sim")):
        done = run(*command, env=env)
        assert done.returncode == 0, done.stderr + done.stdout
    file = home / ".config/llmctl/config.yaml"
    file.write_text(file.read_text().replace(sim.base_url, another))
    assert run("models", "-p", "sim", env=env).returncode == 5


def test_a_stored_key_is_sent_to_no_other_server(
    keyed: dict[str, str], run: Run, home: Path, sim: Simulator, other: Simulator
) -> None:
    """A key that is stored for one origin is no key of a list with another: exit 4 says where it
    belongs and what to do, and nothing is sent. A list within its origin has it."""
    run("keys", "set", "sim", env=keyed, stdin=KEY)
    file = home / ".config/llmctl/config.yaml"
    text = file.read_text()
    file.write_text(text.replace(sim.base_url, f"[{sim.base_url}, {other.base_url}]"))
    done = run("ask", "hello", env=keyed)
    assert done.returncode == 4
    assert f"belongs to {sim.origin} and is not sent" in done.stderr
    assert f"such as {other.origin}; name a key for all of them" in done.stderr
    assert sim.calls == other.calls == []
    file.write_text(text.replace(sim.base_url, f"[{sim.base_url}, {sim.origin}/v2]"))
    done = run("ask", "hello", env=keyed)
    assert done.returncode == 0, done.stderr
    assert sim.calls[0].api_key == KEY


def test_the_list_of_profiles_says_how_many_servers(
    at: Servers, run: Run, sim: Simulator, other: Simulator
) -> None:
    """The table names the first server and counts the others."""
    table = run("profiles", "list", env=at(sim, other)).stdout
    assert f"127.0.0.1:{sim.port} and 1 more" in table
