"""`llmctl ask`, run as a process against a provider on loopback."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from pathlib import Path

import pytest

from tests.conftest import KEY, LLMCTL, Run, configure, ledger, sent
from tests.simulator import errors
from tests.simulator.faults import Ending, Hang, Refusal
from tests.simulator.reply import Reply
from tests.simulator.reply import Usage as Billed
from tests.simulator.scripts import Step, fail_first
from tests.simulator.server import Simulator
from tests.simulator.streams import CutStream, NoEnd


def test_the_answer_and_nothing_else_on_stdout(llmctl: Run) -> None:
    """Piped, stdout holds the answer byte for byte, and stderr nothing."""
    done = llmctl("ask", "hello there")
    assert (done.returncode, done.stdout, done.stderr) == (0, "echo: hello there", "")


def test_the_prompt(llmctl: Run, sim: Simulator) -> None:
    """Text on stdin, then the argument, make one prompt; none, or bytes that are no UTF-8, are
    exit 2 and nothing is sent."""
    empty, binary = llmctl("ask", stdin=" \n\t\n"), llmctl("ask", "x", stdin=b"\xff\xfe\x00")
    assert (empty.returncode, "prompt is empty" in empty.stderr) == (2, True)
    assert (binary.returncode, "UTF-8" in binary.stderr, len(sim.calls)) == (2, True, 0)
    llmctl("ask", "summarise", stdin="a long text\n")
    assert sent(sim)["messages"][-1]["content"] == "a long text\n\nsummarise"


def test_parameters_reach_the_provider(llmctl: Run, sim: Simulator) -> None:
    """System prompt, limits, temperature, options and model arrive under the API's names."""
    llmctl(
        "ask", "q", "-s", "be brief", "--max-tokens", "9", "-t", "0.5", "-m", "other",
        "--param", "top_p=0.25", "--param", "user=me", "--param", 'stop=["a"]',
    )  # fmt: skip
    body = sent(sim)
    assert body["messages"][0] == {"role": "system", "content": "be brief"}
    assert (body["max_tokens"], body["temperature"], body["model"]) == (9, 0.5, "other")
    assert (body["top_p"], body["user"], body["stop"]) == (0.25, "me", ["a"])
    assert sim.calls[0].api_key == KEY


def test_json_is_one_output_row(llmctl: Run, sim: Simulator) -> None:
    """With `--json` stdout is one row with the fields of a batch output row."""
    sim.reply = lambda _: Reply("hi", usage=Billed(input=100, output=50, cached=40, reasoning=30))
    row = json.loads(llmctl("ask", "q", "--json", "--tag", "team=a").stdout)
    assert list(row) == [
        "id", "index", "text", "parsed", "profile", "provider", "model", "finish_reason", "usage",
        "cost_usd", "cache", "attempts", "latency_ms", "call_id", "request_hash", "tags",
    ]  # fmt: skip
    assert row["text"] == "hi"
    assert row["usage"] == {
        "input_tokens": 100, "output_tokens": 50, "cached_input_tokens": 40,
        "cache_write_tokens": 0, "reasoning_tokens": 30, "estimated": False,
    }  # fmt: skip
    assert row["cost_usd"] == pytest.approx(0.0002)
    assert (row["cache"], row["attempts"], row["tags"]) == ("miss", 1, {"team": "a"})
    assert len(row["request_hash"]) == 64


def test_the_usage_line(llmctl: Run, sim: Simulator) -> None:
    """`-u` ends with target, tokens, price, time and cache state on stderr."""
    sim.reply = lambda _: Reply("hi", usage=Billed(input=312, output=48))
    done = llmctl("ask", "q", "-u")
    line = done.stderr.strip().splitlines()[-1]
    assert line.startswith("sim/gpt-5-mini · 312 in (0 cached) + 48 out · $0.00041 · ")
    assert line.endswith(" s · miss")


def test_an_unknown_price_is_not_zero(llmctl: Run, home: Path) -> None:
    """A model without a price prints `$?`, and `null` as JSON."""
    path = home / ".config/llmctl/config.yaml"
    path.write_text(path.read_text().replace("    price: {input: 1, output: 2}\n", ""))
    assert " · $? · " in llmctl("ask", "q", "-u").stderr
    assert json.loads(llmctl("ask", "r", "--json").stdout)["cost_usd"] is None


def test_a_dry_run_sends_nothing(llmctl: Run, sim: Simulator) -> None:
    """`--dry-run` names tokens, worst price and cache state, and leaves no ledger row."""
    done = llmctl("ask", "hello there", "--max-tokens", "100", "--dry-run", "--json")
    plan = json.loads(done.stdout)
    assert (done.returncode, len(sim.calls)) == (0, 0)
    assert plan["input_tokens"] > 2
    assert plan["worst_case_usd"] == pytest.approx((plan["input_tokens"] + 200) / 1e6)
    assert plan["cached"] is False
    said = llmctl("ask", "hello " * 1500, "--max-tokens", "4000", "--dry-run").stdout
    assert re.search(r"tokens   1,5\d\d in \(.*\), 4,000 out at most\n", said)


@pytest.mark.parametrize(
    ("fault", "code", "said"),
    [
        (errors.unauthorized(), 4, "401"),
        (errors.out_of_quota(), 5, "429"),
        (errors.server_error(), 5, "500"),
        (errors.context_too_long(), 1, "400"),
        (Refusal(), 1, ""),
    ],
)
def test_exit_codes_of_failures(
    llmctl: Run, sim: Simulator, fault: Step, code: int, said: str
) -> None:
    """Each kind of failure has its exit code, one sentence on stderr, and no traceback."""
    sim.fault = fault
    done = llmctl("ask", "q")
    assert (done.returncode, done.stdout) == (code, "")
    assert said in done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: ")
    assert "Traceback" not in done.stderr


def test_a_failed_call_is_an_error_row(llmctl: Run, sim: Simulator) -> None:
    """With `--json` stdout has one line, the error row that a batch would write."""
    sim.fault = errors.server_error()
    done = llmctl("ask", "q", "--json")
    assert done.returncode == 5
    row = json.loads(done.stdout)
    assert list(row) == [
        "id", "index", "error", "attempts", "call_id", "request_hash", "cost_usd",
    ]  # fmt: skip
    assert (row["error"]["type"], row["error"]["http_status"], row["attempts"]) == (
        "server",
        500,
        4,
    )


@pytest.mark.parametrize(
    ("fault", "limits"), [(errors.server_error(), 0), (errors.rate_limited(), 2)]
)
def test_passing_failures_are_survived(
    llmctl: Run, sim: Simulator, home: Path, fault: Step, limits: int
) -> None:
    """Two 500s or 429s and then an answer: exit 0, said on stderr, all in the ledger (A117)."""
    sim.fault = fail_first(2, fault)
    done = llmctl("ask", "q")
    assert (done.returncode, done.stdout) == (0, "echo: q")
    assert done.stderr.count("trying again") == 2
    (row,) = ledger(home)
    assert (row["attempts"], row["rate_limits"]) == (3, limits)


def test_nobody_waits_beyond_total(run: Run, home: Path, environ: dict[str, str]) -> None:
    """A53: `ask` begins no attempt later than `timeout: {total}` after its first, whatever
    `attempts` and the provider say."""
    with Simulator(fault=errors.rate_limited(2)) as sim:
        configure(home, sim.base_url, "{env: SIM_KEY}", "    timeout: {total: 3}")
        done = run("ask", "q", env={**environ, "SIM_KEY": KEY})
        assert (done.returncode, len(sim.calls)) == (5, 2), done.stderr


@pytest.mark.parametrize("fault", [CutStream(pieces=2), NoEnd(missing=4)])
def test_a_broken_stream_is_not_a_short_success(
    llmctl: Run, sim: Simulator, home: Path, fault: Step
) -> None:
    """A stream that breaks after its first token: what came is kept, exit 5, not tried again."""
    sim.fault = fault
    done = llmctl("ask", "one two three four", "--stream")
    assert done.returncode == 5
    assert done.stdout
    assert "broke off" in done.stderr
    assert len(sim.calls) == 1
    row = ledger(home)[0]
    assert (row["status"], row["estimated"], row["uncertain"]) == ("interrupted", 1, 1)


@pytest.mark.parametrize("streamed", ["--stream", "--no-stream"])
def test_an_empty_answer_is_none(llmctl: Run, sim: Simulator, home: Path, streamed: str) -> None:
    """Cases 1 and 2: asked once more, exit 1 with a sentence, both bills on record, nothing kept;
    one that is answered the second time costs both."""
    usage = Billed(input=100, output=50)
    sim.reply = lambda _: Reply(" \n", usage=usage)
    done = llmctl("ask", "q", streamed)
    assert (done.returncode, done.stdout.strip(), len(sim.calls)) == (1, "", 1 + ("no" in streamed))
    assert "the answer is empty" in done.stderr
    sim.reply = lambda _: Reply("", usage=usage)
    done = llmctl("ask", "q", streamed)
    before = len(sim.calls)
    assert (done.returncode, done.stdout) == (1, "")
    row = ledger(home)[-1]
    assert (row["attempts"], row["input_tokens"], row["cost_pico"]) == (2, 200, 400_000_000)
    assert not row["uncertain"]
    texts = iter(["", "at last"])
    sim.reply = lambda _: Reply(next(texts), usage=usage)
    done = llmctl("ask", "q", streamed)
    assert (done.returncode, done.stdout, len(sim.calls)) == (0, "at last", before + 2)
    assert ledger(home)[-1]["cost_pico"] == 400_000_000


def test_an_answer_that_was_cut_says_so(llmctl: Run, sim: Simulator) -> None:
    """Case 5: one line on stderr, the text on stdout, exit 0."""
    for finish, said in (("length", "--max-tokens"), ("content_filter", "filter")):
        sim.fault = Ending(finish=finish, text="some")  # type: ignore[arg-type]
        done = llmctl("ask", finish)
        assert (done.returncode, done.stdout) == (0, "some")
        assert said in done.stderr
        assert len(done.stderr.splitlines()) == 1


def test_interrupting_keeps_what_was_printed_and_the_ledger_row(
    run: Run, configured: dict[str, str], sim: Simulator, home: Path, tmp_path: Path
) -> None:
    """Ctrl-C in mid-stream: exit 130, the text so far on stdout, an estimated ledger row, and what
    the model may have thought before it spoke counts until it is released (case 50)."""
    sim.fault = Hang(pieces=3)
    words = ("--stream", "--max-tokens", "9000", "--budget", "1")
    process = subprocess.Popen(
        [LLMCTL, "ask", "one two three four five", *words],
        env=configured, cwd=tmp_path, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    first = process.stdout.read(1)
    process.send_signal(signal.SIGINT)
    rest, problem = process.communicate(timeout=20)
    assert process.returncode == 130, problem
    assert b"Traceback" not in problem
    assert first + rest
    row = ledger(home)[0]
    assert (row["status"], row["estimated"]) == ("cancelled", 1)
    assert 0 < row["output_tokens"] < 100
    assert 18_000_000_000 < row["cost_pico"] + row["uncertain_pico"] < 18_100_000_000
    done = run("cost", "release", "--all", env=configured)
    assert "released 1 call: $0.01" in done.stdout
    assert ledger(home)[0]["uncertain_pico"] == 0


def test_a_reader_that_goes_away_leaves_a_ledger_row(
    configured: dict[str, str], sim: Simulator, home: Path, tmp_path: Path
) -> None:
    """When stdout's reader ends early, no noise is made and the ledger still has its row."""
    sim.reply = lambda _: "word " * 20_000
    sim.stream_interval = 0.0
    process = subprocess.Popen(
        [LLMCTL, "ask", "q", "--stream"],
        env=configured, cwd=tmp_path, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.read(1)
    process.stdout.close()
    problem = process.stderr.read()
    process.stderr.close()
    assert process.wait(timeout=20) == 0, problem
    assert problem == b""
    assert len(ledger(home)) == 1


def test_a_full_disk_behind_stdout_is_an_error(configured: dict[str, str], tmp_path: Path) -> None:
    """When stdout cannot be written, the exit code says that the disk refused it."""
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [LLMCTL, "ask", "q"], env=configured, cwd=tmp_path, stdin=subprocess.DEVNULL,
            stdout=full, stderr=subprocess.PIPE, timeout=20, check=False,
        )  # fmt: skip
    assert done.returncode == 74
    assert b"stdout cannot be written" in done.stderr
    assert b"Traceback" not in done.stderr


def test_conversations_continue(llmctl: Run, sim: Simulator) -> None:
    """`-c` sends what was said before, and the conversation grows."""
    llmctl("ask", "first", "-s", "be kind")
    llmctl("ask", "second", "-c")
    llmctl("ask", "third", "-c")
    said = [m["content"] for m in sent(sim, 2)["messages"]]
    assert said == ["be kind", "first", "echo: first", "second", "echo: second", "third"]


def test_no_history_leaves_nothing_to_continue(llmctl: Run) -> None:
    """With `--no-history` nothing is kept, and `-c` then says so with exit 2."""
    llmctl("ask", "first", "--no-history")
    done = llmctl("ask", "second", "-c")
    assert done.returncode == 2
    assert "no conversation to continue" in done.stderr


def test_without_anything_the_three_ways_on_are_named(run: Run) -> None:
    """No profile, no key, no model: exit 4, what was looked for, and three ways on."""
    done = run("ask", "hello")
    assert (done.returncode, done.stdout) == (4, "")
    for way in ("OPENAI_API_KEY", "base_url", "llmctl local install"):
        assert way in done.stderr


def test_a_prompt_that_cannot_fit_is_refused_unsent(
    llmctl: Run, sim: Simulator, home: Path
) -> None:
    """Too long for the window: exit 2, both numbers named, nothing sent."""
    path = home / ".config/llmctl/config.yaml"
    path.write_text(path.read_text() + "    context: 1000\n")
    done = llmctl("ask", "word " * 900, "--max-tokens", "200")
    assert (done.returncode, len(sim.calls)) == (2, 0)
    assert "1,000" in done.stderr or "1000" in done.stderr
    assert "200" in done.stderr


def test_private_files(llmctl: Run, home: Path) -> None:
    """Whatever the umask, state and cache are 0600 in 0700 folders, and no key is in them."""
    before = os.umask(0)
    try:
        llmctl("ask", "q")
    finally:
        os.umask(before)
    files = [p for d in (".local", ".cache") for p in (home / d).rglob("*") if "llmctl" in str(p)]
    assert any(p.name == "ledger.db" for p in files)
    for path in files:
        assert path.stat().st_mode & 0o777 == (0o700 if path.is_dir() else 0o600), path
        assert path.is_dir() or KEY.encode() not in path.read_bytes()


def test_redirects_are_not_followed(llmctl: Run, sim: Simulator) -> None:
    """A redirect to a second host is an error, and that host receives nothing."""
    with Simulator() as other:
        sim.fault = errors.Redirect(location=other.base_url)
        done = llmctl("ask", "q")
        assert done.returncode == 1
        assert "redirect" in done.stderr
        assert other.record.requests == 0


def test_the_plan_needs_no_key(run: Run, environ: dict[str, str]) -> None:
    """Case 35: `--dry-run` asks nobody and exits 0 without a key; `--exact` asks the provider."""
    plan = ("ask", "hi", "-p", "openai", "--dry-run")
    assert run(*plan, env=environ).returncode == 0
    assert run(*plan, "--exact", env=environ).returncode == 4
