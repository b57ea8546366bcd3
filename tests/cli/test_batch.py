"""`llmctl batch`, run as a process against a provider on loopback."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.jsonl import prompts, read, write
from tests.conftest import LLMCTL, Run, sent
from tests.simulator import errors
from tests.simulator.faults import Body
from tests.simulator.reply import Reply
from tests.simulator.reply import Usage as Billed
from tests.simulator.scripts import for_prompt
from tests.simulator.server import Simulator


@pytest.fixture
def ten(tmp_path: Path) -> Path:
    """An input of ten rows."""
    return write(tmp_path / "in.jsonl", prompts(10))


def test_every_row_has_an_answer(llmctl: Run, ten: Path, tmp_path: Path, sim: Simulator) -> None:
    """Ten rows make ten answers beside the input, no errors file, exit 0, and nothing on stdout."""
    done = llmctl("batch", str(ten))
    assert (done.returncode, done.stdout) == (0, "")
    rows = read(tmp_path / "in.out.jsonl")
    assert {r["id"]: r["text"] for r in rows} == {f"r{n}": f"echo: say {n}" for n in range(10)}
    assert {r["index"] for r in rows} == set(range(10))
    assert not (tmp_path / "in.out.errors.jsonl").exists()
    assert "10 rows: 10 answered, 0 failed" in done.stderr
    assert sim.billed.requests == 10


def test_the_summary_object(llmctl: Run, ten: Path) -> None:
    """With `--json` stdout holds the summary with the fields that scripts rely on."""
    done = llmctl("batch", str(ten), "--json", "-q")
    summary = json.loads(done.stdout)
    assert list(summary) == [
        "rows", "ok", "failed", "skipped", "cached", "deduplicated", "requests", "retries",
        "input_tokens", "output_tokens", "cost_usd", "elapsed_s", "exit_code",
    ]  # fmt: skip
    assert (summary["rows"], summary["ok"], summary["requests"]) == (10, 10, 10)
    assert summary["cost_usd"] == pytest.approx(
        (summary["input_tokens"] + 2 * summary["output_tokens"]) / 1e6
    )
    assert done.stderr == ""


def test_what_is_no_answer_is_an_error_row(
    llmctl: Run, ten: Path, tmp_path: Path, sim: Simulator
) -> None:
    """Cases 1, 2 and 4: an empty answer, and one that ended for a reason of its own, are error
    rows with their bill and text, asked once more, counted in the summary, and not kept."""
    odd = {"say 3": Reply("", word="stop"), "say 4": Reply("half", word="unheard_of")}
    odd["say 5"] = Reply("", finish="length", usage=Billed(input=10, output=16, reasoning=16))
    odd["say 6"] = Reply("cut", finish="content_filter")
    sim.reply = lambda call: odd.get(call.ask.last if call.ask else "", "fine")
    done = llmctl("batch", str(ten))
    assert done.returncode == 1
    failed = {row["id"]: row for row in read(tmp_path / "in.out.errors.jsonl")}
    assert {row["error"]["type"] for row in failed.values()} == {"bad_response"}
    assert {name: row["attempts"] for name, row in failed.items()} == {"r3": 2, "r4": 2, "r5": 1}
    assert (failed["r4"]["text"], "unheard_of" in failed["r4"]["error"]["message"]) == (
        "half",
        True,
    )
    assert "16 tokens went into reasoning" in failed["r5"]["error"]["message"]
    assert failed["r5"]["cost_usd"] == pytest.approx(42 / 1e6)
    assert "3 answers were none, or empty" in done.stderr
    assert "1 answer was cut off by a content filter" in done.stderr
    sim.reply = lambda _: "fine"
    assert llmctl("batch", str(ten)).returncode == 0
    assert len(read(tmp_path / "in.out.jsonl")) == 10


def test_half_of_a_surrogate_pair_is_read_once_and_resumed(
    llmctl: Run, ten: Path, tmp_path: Path, sim: Simulator
) -> None:
    """Case 10: with the body kept, too, the line can be read again, and nobody asks twice."""
    body = (
        b'{"choices":[{"message":{"content":"fine \\ud83d","x":NaN},"finish_reason":"stop"}],'
        b'"usage":{"prompt_tokens":9,"completion_tokens":3}}'
    )
    sim.fault = Body(body=body)
    for _ in range(2):
        done = llmctl("batch", str(ten), "--format", "openai")
        assert done.returncode == 0, done.stderr
    rows = read(tmp_path / "in.out.jsonl")
    assert {r["response"]["body"]["choices"][0]["message"]["content"] for r in rows} == {
        "fine \ufffd"
    }
    assert len(sim.calls) == 10


def test_again_sends_nothing(llmctl: Run, ten: Path, sim: Simulator) -> None:
    """A second run of the same command finds every row answered and makes no call."""
    llmctl("batch", str(ten))
    done = llmctl("batch", str(ten), "--json")
    assert json.loads(done.stdout)["skipped"] == 10
    assert done.returncode == 0
    assert len(sim.calls) == 10


def test_failed_rows_are_tried_again(
    llmctl: Run, ten: Path, tmp_path: Path, sim: Simulator
) -> None:
    """A failed row stands in the errors file alone; the next run sends only that row."""
    sim.fault = for_prompt("say 3", errors.status(400))
    done = llmctl("batch", str(ten))
    assert done.returncode == 1
    failed = read(tmp_path / "in.out.errors.jsonl")
    assert [r["id"] for r in failed] == ["r3"]
    assert list(failed[0]) == [
        "id", "index", "error", "attempts", "call_id", "request_hash", "cost_usd",
    ]  # fmt: skip
    assert list(failed[0]["error"]) == [
        "type", "message", "http_status", "retryable", "provider_request_id",
    ]  # fmt: skip
    assert failed[0]["error"]["type"] == "invalid_request"
    assert "r3" not in {r["id"] for r in read(tmp_path / "in.out.jsonl")}
    sim.fault = None
    before = len(sim.calls)
    assert llmctl("batch", str(ten)).returncode == 0
    assert len(sim.calls) == before + 1
    assert len(read(tmp_path / "in.out.jsonl")) == 10
    assert not (tmp_path / "in.out.errors.jsonl").exists()


def test_a_changed_question_is_not_taken_for_answered(
    llmctl: Run, ten: Path, tmp_path: Path, sim: Simulator
) -> None:
    """A known id with another prompt or model is exit 2, naming the row; `--restart` redoes all."""
    llmctl("batch", str(ten))
    write(ten, [{**row, "prompt": "new"} if row["id"] == "r4" else row for row in prompts(10)])
    done = llmctl("batch", str(ten))
    assert done.returncode == 2
    assert "r4" in done.stderr
    assert "--restart" in done.stderr
    assert llmctl("batch", str(ten), "-m", "other").returncode == 2
    assert len(sim.calls) == 10
    assert llmctl("batch", str(ten), "--restart").returncode == 0
    assert len(read(tmp_path / "in.out.jsonl")) == 10


def test_nothing_is_sent_when_the_input_is_wrong(
    llmctl: Run, tmp_path: Path, sim: Simulator
) -> None:
    """Bad rows are listed by line number, exit 2, nothing sent, no output made."""
    path = tmp_path / "bad.jsonl"
    path.write_bytes(
        b'{"id":"a","prompt":"x"}\n{"id":"a","prompt":"y"}\nnot json\n{"id":"c"}\n\xff\n'
    )
    done = llmctl("batch", str(path))
    assert (done.returncode, len(sim.calls)) == (2, 0)
    for line in (2, 3, 4, 5):
        assert f"bad.jsonl:{line}:" in done.stderr
    assert "4 problems" in done.stderr
    assert not (tmp_path / "bad.out.jsonl").exists()


def test_a_problem_of_many_rows_is_said_once(llmctl: Run, tmp_path: Path) -> None:
    """With the lines of the first 20, and how many problems there are."""
    rows = [{"text": "x"}] * 2 + [{"prompt": 1}] + [{"text": "y"}] * 1500
    path = write(tmp_path / "bad.jsonl", rows)
    said = llmctl("batch", str(path)).stderr.replace(f"{tmp_path}/", "").splitlines()
    assert said[0] == "error: bad.jsonl: 1,503 problems, nothing was sent"
    assert [line.partition(": ")[0] for line in said[1:4:2]] == ["bad.jsonl:1", "bad.jsonl:3"]
    assert said[2] == f"  the same in lines 2, {', '.join(map(str, range(4, 21)))}"
    assert said[4:] == ["… and 1,483 more"]


def test_where_rows_go_to_stdout_an_error_does_not(llmctl: Run, tmp_path: Path) -> None:
    """With `-o - --json` the error's object is on stderr, as the summary would be."""
    path = write(tmp_path / "bad.jsonl", [{"id": "a"}])
    done = llmctl("batch", str(path), "-o", "-", "--json")
    assert (done.returncode, done.stdout) == (2, "")
    assert json.loads(done.stderr.splitlines()[0])["error"]["type"] == "input"


def test_stdin_to_stdout(llmctl: Run, sim: Simulator) -> None:
    """`batch - -o -` reads stdin and writes rows, and nothing else, to stdout; a failed row is a
    JSON line on stderr."""
    sim.fault = for_prompt("say 1", errors.status(400))
    text = "".join(json.dumps(row) + "\n" for row in prompts(3))
    done = llmctl("batch", "-", "-o", "-", "-q", stdin=text)
    assert done.returncode == 1
    assert {json.loads(line)["id"] for line in done.stdout.splitlines()} == {"r0", "r2"}
    assert json.loads(done.stderr.splitlines()[0])["id"] == "r1"


def test_csv_with_a_template(llmctl: Run, tmp_path: Path) -> None:
    """A CSV file and a template make a prompt of each record; `--id-field` names its id."""
    path = tmp_path / "in.csv"
    path.write_text('sku,text\nA1,"good, really"\nA2,bad\n', encoding="utf-8")
    done = llmctl("batch", str(path), "--template", "Judge: {{ text }}", "--id-field", "sku")
    assert done.returncode == 0, done.stderr
    assert {r["id"]: r["text"] for r in read(tmp_path / "in.out.jsonl")} == {
        "A1": "echo: Judge: good, really",
        "A2": "echo: Judge: bad",
    }
    missing = llmctl("batch", str(path), "--template", "{{ txt }}", "--restart")
    assert missing.returncode == 2
    assert "txt" in missing.stderr


def test_openai_lines_go_out_as_they_are(llmctl: Run, tmp_path: Path, sim: Simulator) -> None:
    """The body of an OpenAI batch line is sent unchanged, to its own endpoint."""
    chat = {
        "model": "m1",
        "messages": [{"role": "user", "content": "x"}],
        "tools": [],
        "logprobs": True,
    }
    embed = {"model": "e1", "input": "some text"}
    path = write(
        tmp_path / "in.jsonl",
        [
            {"custom_id": "c", "method": "POST", "url": "/v1/chat/completions", "body": chat},
            {"custom_id": "e", "method": "POST", "url": "/v1/embeddings", "body": embed},
        ],
    )
    done = llmctl("batch", str(path), "--format", "openai")
    assert done.returncode == 0, done.stderr
    assert {c.path: c.body for c in sim.calls} == {
        "/v1/chat/completions": chat,
        "/v1/embeddings": embed,
    }
    rows = {r["custom_id"]: r for r in read(tmp_path / "in.out.jsonl")}
    assert set(rows["c"]) == {"id", "custom_id", "response", "error"}
    assert rows["c"]["response"]["status_code"] == 200
    assert rows["c"]["response"]["body"]["choices"][0]["message"]["content"] == "echo: x"
    assert rows["e"]["response"]["body"]["data"][0]["embedding"]
    assert llmctl("batch", str(path), "--format", "openai").returncode == 0
    assert len(sim.calls) == 2


def test_raw_rows_keep_their_whole_answer(llmctl: Run, tmp_path: Path) -> None:
    """In llmctl's own format a passed-through row also carries the provider's body."""
    body = {"model": "e1", "input": "some text"}
    line = {"custom_id": "e", "method": "POST", "url": "/v1/embeddings", "body": body}
    assert llmctl("batch", str(write(tmp_path / "in.jsonl", [line]))).returncode == 0
    assert read(tmp_path / "in.out.jsonl")[0]["body"]["data"][0]["embedding"]


def test_ordered(llmctl: Run, tmp_path: Path, sim: Simulator) -> None:
    """With `--ordered` the output ends in input order, whatever order the answers came in."""
    path = write(tmp_path / "in.jsonl", prompts(60))
    sim.fault = lambda call: (
        errors.status(500) if int(call.prompt.split()[-1]) % 3 == 0 and call.attempt == 1 else None
    )
    done = llmctl("batch", str(path), "--ordered", "--concurrency", "20")
    assert done.returncode == 0, done.stderr
    assert [r["index"] for r in read(tmp_path / "in.out.jsonl")] == list(range(60))


def test_limit_takes_the_first_rows(llmctl: Run, ten: Path, tmp_path: Path, sim: Simulator) -> None:
    """`--limit 3` answers the first three rows; a larger limit later goes on from there."""
    llmctl("batch", str(ten), "--limit", "3")
    assert {r["id"] for r in read(tmp_path / "in.out.jsonl")} == {"r0", "r1", "r2"}
    llmctl("batch", str(ten), "--limit", "5")
    assert len(sim.calls) == 5


def test_concurrency_is_a_ceiling(llmctl: Run, tmp_path: Path, sim: Simulator) -> None:
    """No more calls are in flight than asked for, and as many as that are used."""
    sim.latency = 0.02
    path = write(tmp_path / "in.jsonl", prompts(40))
    llmctl("batch", str(path), "--concurrency", "7")
    assert sim.record.max_in_flight == 7


def test_identical_rows_are_sent_once(llmctl: Run, tmp_path: Path, sim: Simulator) -> None:
    """Rows that ask the same are answered by one call; each has its own record."""
    sim.latency = 0.05
    path = write(tmp_path / "in.jsonl", [{"id": str(n), "prompt": "same"} for n in range(12)])
    done = llmctl("batch", str(path), "--json", "--concurrency", "6")
    summary = json.loads(done.stdout)
    assert len(sim.calls) == 1
    assert (summary["ok"], summary["requests"]) == (12, 1)
    assert summary["deduplicated"] + summary["cached"] == 11
    assert len(read(tmp_path / "in.out.jsonl")) == 12


def test_too_many_errors_stop_the_run(llmctl: Run, tmp_path: Path, sim: Simulator) -> None:
    """Beyond `--max-errors` nothing more is sent, and the rest is recorded as not sent."""
    sim.fault = errors.status(400)
    path = write(tmp_path / "in.jsonl", prompts(100))
    done = llmctl("batch", str(path), "--concurrency", "2", "--max-errors", "4%")
    assert done.returncode == 1
    assert 5 <= len(sim.calls) <= 6
    failed = read(tmp_path / "in.out.errors.jsonl")
    assert len(failed) == 100
    assert [r["error"]["type"] for r in failed].count("cancelled") == 100 - len(sim.calls)


def test_cut_off_answers_are_told(llmctl: Run, ten: Path, sim: Simulator) -> None:
    """Answers cut at the limit are answers, and the summary counts them."""
    sim.reply = lambda _: Reply("half", finish="length")
    done = llmctl("batch", str(ten))
    assert done.returncode == 0
    assert "10 answers were cut off" in done.stderr


def test_rows_say_what_the_profile_does_not(llmctl: Run, tmp_path: Path, sim: Simulator) -> None:
    """A row's own system, model, limits, options and tags win over flags and profile."""
    row = {
        "id": "a", "prompt": "p", "system": "own", "model": "m2", "max_tokens": 7,
        "temperature": 0.1, "options": {"seed": 5}, "tags": {"k": "row"},
    }  # fmt: skip
    path = write(tmp_path / "in.jsonl", [row, {"id": "b", "prompt": "p"}])
    llmctl("batch", str(path), "-s", "flag", "--tag", "k=flag", "--tag", "j=1")
    body = {b["model"]: b for b in (sent(sim, 0), sent(sim, 1))}
    assert body["m2"]["messages"][0]["content"] == "own"
    assert (body["m2"]["max_tokens"], body["m2"]["temperature"], body["m2"]["seed"]) == (7, 0.1, 5)
    assert body["gpt-5-mini"]["messages"][0]["content"] == "flag"
    tags = {r["id"]: r["tags"] for r in read(tmp_path / "in.out.jsonl")}
    assert tags == {"a": {"k": "row", "j": "1"}, "b": {"k": "flag", "j": "1"}}


def test_rpm_holds(llmctl: Run, tmp_path: Path, sim: Simulator) -> None:
    """`--rpm` spaces the calls out: at 1,200 a minute none come faster than 50 ms apart."""
    path = write(tmp_path / "in.jsonl", prompts(30))
    llmctl("batch", str(path), "--rpm", "1200")
    times = sorted(c.received for c in sim.calls)
    # Six may go at once, the others one by one; the last to arrive may have hurried.
    assert times[-1] - times[0] >= 1.0


def test_a_dumb_ci_shell(configured: dict[str, str], ten: Path, tmp_path: Path) -> None:
    """Without any terminal, and with stdin closed, a batch runs and prints no control sequence."""
    done = subprocess.run(
        ["/bin/sh", "-c", f"exec {LLMCTL} batch {ten} <&-"],
        env={**configured, "TERM": "dumb", "CI": "true"}, cwd=tmp_path,
        capture_output=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert b"\x1b" not in done.stderr + done.stdout
    assert (tmp_path / "in.out.jsonl").exists()


def test_parameters_of_the_command_line(llmctl: Run, tmp_path: Path, sim: Simulator) -> None:
    """Case 46: `--max-tokens`, `-t`, `--param`, `-s @FILE` and `--schema JSON` hold for every row
    that does not say otherwise itself, with a template too."""
    (tmp_path / "system.txt").write_text("be brief\n", encoding="utf-8")
    own = {"max_tokens": 5, "temperature": 0, "system": "own", "options": {"top_p": 0.5}}
    rows = write(tmp_path / "in.jsonl", [{"prompt": "a"}, {"prompt": "b", **own}])
    given = ["--max-tokens", "9", "-t", "0.5", "--param", "top_p=0.25", "--param", "user=me"]
    given += ["-s", "@system.txt", "--concurrency", "1", "-m", "other"]
    assert llmctl("batch", str(rows), *given).returncode == 0
    first, second = sent(sim, 0), sent(sim, 1)
    assert (first["max_tokens"], first["temperature"], first["top_p"]) == (9, 0.5, 0.25)
    assert first["messages"][0] == {"role": "system", "content": "be brief\n"}
    assert (second["max_tokens"], second["temperature"], second["top_p"]) == (5, 0, 0.5)
    assert (second["user"], second["messages"][0]["content"]) == ("me", "own")
    schema = '{"type": "object"}'
    out = ["-o", "t.jsonl", "--schema", schema]
    llmctl("batch", str(rows), "--template", "{{ prompt }}", *given, *out)
    assert (sent(sim, 2)["max_tokens"], sent(sim, 2)["user"]) == (9, "me")
    assert sent(sim, 2)["response_format"]["json_schema"]["schema"] == json.loads(schema)


def test_a_file_for_the_command_line_that_is_not_there(llmctl: Run, tmp_path: Path) -> None:
    """Case 48: `-s @FILE` and `--schema` of a file that is missing, and a schema that is no JSON,
    are exit 2 and named."""
    rows = write(tmp_path / "in.jsonl", prompts(1))
    for option, value, said in (
        ("-s", "@nope", "system prompt nope"),
        ("--schema", "nope", "schema nope"),
        ("--schema", '{"a"', "--schema is not valid JSON"),
    ):
        done = llmctl("batch", str(rows), option, value)
        assert (done.returncode, said in done.stderr) == (2, True)


def test_kept_fields(llmctl: Run, tmp_path: Path) -> None:
    """Case 45: `--keep` repeats fields of the input row, as JSON Lines and as CSV have them; a
    field that no row has is exit 2 before anything is sent."""
    rows = [{"id": "a", "prompt": "p", "label": 1, "n": {"m": []}}, {"id": "b", "prompt": "q"}]
    path = write(tmp_path / "in.jsonl", rows)
    llmctl("batch", str(path), "--keep", "label,n", "--ordered")
    found = [row["input"] for row in read(tmp_path / "in.out.jsonl")]
    assert found == [{"label": 1, "n": {"m": []}}, {}]
    llmctl("batch", str(path), "--keep", "all", "--ordered", "-o", "all.jsonl")
    assert [row["input"] for row in read(tmp_path / "all.jsonl")] == rows
    done = llmctl("batch", str(path), "--keep", "labl", "-o", "new.jsonl")
    assert (done.returncode, "'labl' (--keep)" in done.stderr) == (2, True)
    assert not (tmp_path / "new.jsonl").exists()
    (tmp_path / "in.csv").write_text("id,text,max_tokens\na,one,7\n", encoding="utf-8")
    llmctl("batch", "in.csv", "--template", "{{ text }}", "--keep", "text,max_tokens")
    assert read(tmp_path / "in.out.jsonl")[0]["id"] == "a"


def test_a_table(llmctl: Run, tmp_path: Path, sim: Simulator) -> None:
    """Case 45: an OUTPUT in .csv is a table of all answers, made of the lines beside it at the end,
    also of a run that failed in part or had nothing to send; any other ending is exit 2."""
    rows = [{"id": f"r{n}", "prompt": f'say "{n}",\nplease', "x": n, "y": "=1"} for n in range(3)]
    path = write(tmp_path / "in.jsonl", rows)
    sim.fault = for_prompt(str(rows[1]["prompt"]), errors.status(400))
    done = llmctl("batch", str(path), "-o", "out.csv", "--ordered", "--keep", "x,y")
    assert (done.returncode, "→ out.csv" in done.stderr) == (1, True)
    assert "out.errors.jsonl" in done.stderr

    def table() -> list[dict[str, str]]:
        with (tmp_path / "out.csv").open(encoding="utf-8", newline="") as file:
            csv.field_size_limit(1 << 20)  # other tests lower it
            return list(csv.DictReader(file))

    assert [row["id"] for row in table()] == ["r0", "r2"]
    assert [row["id"] for row in read(tmp_path / "out.jsonl")] == ["r0", "r2"]
    sim.fault = None
    assert llmctl("batch", str(path), "-o", "out.csv", "--ordered", "--keep", "x,y").returncode == 0
    assert [row["text"] for row in table()] == [f"echo: {row['prompt']}" for row in rows]
    first = table()[0]
    assert (first["index"], first["input.x"], first["usage.estimated"]) == ("0", "0", "false")
    assert first["input.y"] == "'=1"  # no formula for a spreadsheet
    before = len(sim.calls)
    (tmp_path / "out.csv").unlink()
    assert llmctl("batch", str(path), "-o", "out.csv").returncode == 0
    assert (len(table()), len(sim.calls)) == (3, before)
    refused = llmctl("batch", str(path), "-o", "out.txt")
    assert (refused.returncode, "ends in .jsonl or .csv" in refused.stderr) == (2, True)


@pytest.mark.parametrize("mask", [0o022, 0o077])
def test_outputs_follow_the_umask(
    configured: dict[str, str], tmp_path: Path, sim: Simulator, mask: int
) -> None:
    """Case 45: OUTPUT, its table and its errors file have the mode that any new file would get;
    state stays private."""
    path = write(tmp_path / "in.jsonl", prompts(2))
    sim.fault = for_prompt("say 1", errors.status(400))
    command = [str(LLMCTL), "batch", str(path), "-o", "x.csv", "-q"]
    subprocess.run(command, cwd=tmp_path, env=configured, umask=mask, timeout=60, check=False)
    for name in ("x.csv", "x.jsonl", "x.errors.jsonl"):
        assert (tmp_path / name).stat().st_mode & 0o777 == 0o666 & ~mask
    state = Path(configured["HOME"]) / ".local/state/llmctl"
    assert (state / "ledger.db").stat().st_mode & 0o777 == 0o600


def test_samples(llmctl: Run, tmp_path: Path, sim: Simulator) -> None:
    """Case 42: rows that ask the same at a temperature above 0 are samples with an answer each, in
    a later batch the same ones out of the cache; `--dedupe`, or a temperature of 0, makes them
    one."""
    texts = iter(f"answer {n}" for n in range(100))
    sim.reply = lambda _: Reply(next(texts))
    rows = [{"id": f"r{n}", "prompt": "say", "model": "other", "temperature": 1} for n in range(3)]
    path = write(tmp_path / "in.jsonl", rows)
    plan = json.loads(llmctl("batch", str(path), "--dry-run", "--json").stdout)
    assert (plan["to_send"], plan["duplicates"]) == (3, 0)
    done = llmctl("batch", str(path), "--json", "--concurrency", "3")
    assert json.loads(done.stdout)["requests"] == 3
    first = {row["id"]: row["text"] for row in read(tmp_path / "in.out.jsonl")}
    assert len(set(first.values())) == 3
    llmctl("batch", str(path), "-o", "again.jsonl")
    assert {row["id"]: row["text"] for row in read(tmp_path / "again.jsonl")} == first
    assert len(sim.calls) == 3
    for name, more in (("d", ["--dedupe"]), ("t", [])):
        asked = [{**row, "temperature": 0 if name == "t" else 0.5} for row in rows]
        path = write(tmp_path / f"{name}.jsonl", asked)
        summary = json.loads(llmctl("batch", str(path), "--json", *more).stdout)
        assert (summary["ok"], summary["requests"]) == (3, 1)


def test_the_time_is_over(llmctl: Run, ten: Path, tmp_path: Path, sim: Simulator) -> None:
    """After `--max-time` nothing new is sent: what is in flight finishes, each other row has an
    error record, exit 1; the same command goes on."""
    sim.latency = 0.4
    done = llmctl("batch", str(ten), "--max-time", "2s", "--concurrency", "1", "--json")
    answered, failed = read(tmp_path / "in.out.jsonl"), read(tmp_path / "in.out.errors.jsonl")
    assert (done.returncode, len(answered) + len(failed)) == (1, 10)
    assert len(answered) == len(sim.calls) == sim.billed.requests
    assert 0 < len(failed) < 10
    assert {row["error"]["type"] for row in failed} == {"cancelled"}
    assert "--max-time" in done.stderr
    sim.latency = 0.0
    assert llmctl("batch", str(ten)).returncode == 0
    assert llmctl("batch", str(ten), "--max-time", "7").returncode == 2


def test_an_empty_input(llmctl: Run, run: Run, tmp_path: Path) -> None:
    """Case 48: an input without rows is exit 2, as is one that is not there, before anything is
    said of keys."""
    path = write(tmp_path / "in.jsonl", [])
    done = llmctl("batch", str(path), "-q")
    assert (done.returncode, "has no rows" in done.stderr) == (2, True)
    missing = run("batch", "nofile.jsonl")
    assert (missing.returncode, "there is no file nofile.jsonl" in missing.stderr) == (2, True)


Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start(configured: dict[str, str], tmp_path: Path) -> Start:
    """Start a batch, two rows at a time, that is still under way on return."""

    def begin(*words: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [LLMCTL, "batch", *words, "--concurrency", "2"], env=configured, cwd=tmp_path,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    return begin


@pytest.mark.parametrize("what", ["output", "errors", "ledger"])
@pytest.mark.parametrize("replaced", [False, True])
def test_a_file_that_vanishes_ends_the_run(
    start: Start, ten: Path, home: Path, sim: Simulator, what: str, *, replaced: bool
) -> None:
    """Case 59: 74, and nothing more is sent, when OUTPUT, its errors or the ledger is removed or
    replaced meanwhile; what was put in its place is left alone."""
    victim = {
        "output": ten.with_name("in.out.jsonl"),
        "errors": ten.with_name("in.out.errors.jsonl"),
        "ledger": home / ".local/state/llmctl/ledger.db",
    }[what]
    sim.hold()
    with start(str(ten)) as batch:
        sim.wait_for_calls(2)
        victim.rename(victim.with_name("moved"))
        if replaced:
            victim.write_bytes(b"mine")
        sim.release()
        _, said = batch.communicate(timeout=60)
    assert batch.returncode == 74, said
    assert f"{victim} was removed or replaced" in said
    assert what == "errors" or len(sim.calls) <= 4  # which is looked at when a row has failed
    assert (victim.read_bytes() if victim.exists() else b"mine") == b"mine"


def test_an_input_that_changes_is_never_done(start: Start, ten: Path, sim: Simulator) -> None:
    """Case 58: rows that were added while the run was under way have no record: exit 2."""
    sim.hold()
    with start(str(ten)) as batch:
        sim.wait_for_calls(2)
        with ten.open("a", encoding="utf-8") as file:
            file.write('{"id": "new", "prompt": "new"}\n')
        sim.release()
        _, said = batch.communicate(timeout=60)
    assert batch.returncode == 2, said
    assert "was changed while it was being read" in said
    assert len(read(ten.with_name("in.out.jsonl"))) == 10


@pytest.mark.parametrize("row", [0, 9])
def test_an_edit_that_keeps_size_and_time_is_seen(
    start: Start, ten: Path, sim: Simulator, row: int
) -> None:
    """Case 58: whether the row is still to be sent, which it then is not, or has its answer
    already: exit 2."""
    sim.hold()
    with start(str(ten)) as batch:
        sim.wait_for_calls(2)
        before = ten.stat()
        with ten.open("r+b") as file:
            file.seek(ten.read_bytes().index(b"say %d" % row))
            file.write(b"SAY")
        os.utime(ten, ns=(before.st_atime_ns, before.st_mtime_ns))
        sim.release()
        _, said = batch.communicate(timeout=60)
    assert (batch.returncode, "was changed while it was being read" in said) == (2, True)
    assert not any(call.ask and call.ask.last.startswith("SAY") for call in sim.calls)


def test_a_renamed_input_is_the_same(start: Start, ten: Path, sim: Simulator) -> None:
    """Case 58's neighbour: a new name changes no row."""
    sim.hold()
    with start(str(ten)) as batch:
        sim.wait_for_calls(2)
        ten.rename(ten.with_name("moved.jsonl"))
        sim.release()
        _, said = batch.communicate(timeout=60)
    assert batch.returncode == 0, said


@pytest.mark.parametrize(
    "words", [["--ordered"], ["-o", "out.csv"], ["-o", "out.csv", "--ordered"]]
)
def test_copies_of_a_killed_run_are_swept_by_the_next(
    llmctl: Run, configured: dict[str, str], ten: Path, tmp_path: Path, words: list[str]
) -> None:
    """Case 64: killed before the rename, the sorted or CSV copy of the answers goes as the next
    run takes the output's lock, whether or not that one makes another."""
    (tmp_path / "sitecustomize.py").write_text(
        """
import os
replace = os.replace
def kill(source, target):
    if "in.out" in str(target) or "out.csv" in str(target):
        os.kill(os.getpid(), 9)
    replace(source, target)
os.replace = kill
""",
        encoding="utf-8",
    )
    killed = llmctl("batch", str(ten), *words, env={**configured, "PYTHONPATH": str(tmp_path)})
    assert killed.returncode == -9
    assert len(list(tmp_path.glob(".*"))) == 1
    words = [word for word in words if word != "--ordered"]
    assert llmctl("batch", str(ten), *words, "--limit", "1").returncode == 0
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("ends", [False, True])
@pytest.mark.parametrize("http", ["pooled", "standard"])
def test_a_stopped_program_blames_nobody(
    start: Start, ten: Path, home: Path, sim: Simulator, http: str, *, ends: bool
) -> None:
    """Case 74: a batch that was stopped (SIGSTOP) for longer than `timeout.total` takes the answers
    that came meanwhile, and where connections ended it asks again: no attempt fails, and no outage
    is said."""
    config = home / ".config/llmctl/config.yaml"
    knobs = ["timeout: {connect: 1, first_byte: 1, total: 1}", "breaker: {failures: 1}"]
    knobs += ["retry: {attempts: 1, max_wait: 0.01}"]
    knobs += ["http: standard"] if http == "standard" else []
    kept = config.read_text().replace("    retry: {max_wait: 0.01}\n", "")
    config.write_text(kept + "".join(f"    {knob}\n" for knob in knobs))
    sim.hold()
    with start(str(ten)) as batch:
        sim.wait_for_calls(2)
        batch.send_signal(signal.SIGSTOP)
        if ends:
            sim.drop_connections()
        sim.release()
        time.sleep(1.5)  # for which it is stopped
        batch.send_signal(signal.SIGCONT)
        _, said = batch.communicate(timeout=60)
    assert batch.returncode == 0, said
    assert len(sim.calls) == 10 + 2 * ends
    assert "down" not in said


def test_restart_destroys_nothing_before_something_was_sent(
    llmctl: Run, configured: dict[str, str], ten: Path, sim: Simulator
) -> None:
    """Case 60: without a key, or a budget for the first row, the answers are still there."""
    output = ten.with_name("in.out.jsonl")
    assert llmctl("batch", str(ten)).returncode == 0
    before = output.read_bytes()
    keyless = {name: value for name, value in configured.items() if name != "SIM_KEY"}
    words = ("batch", str(ten), "--restart", "--no-cache")
    assert llmctl(*words, env=keyless).returncode == 4
    assert output.read_bytes() == before
    assert llmctl(*words, "--budget", "0.00000001").returncode == 3
    assert output.read_bytes() == before
    assert llmctl(*words).returncode == 0
    assert (len(read(output)), sim.billed.requests) == (10, 20)
    assert output.read_bytes() != before


def test_an_errors_file_belongs_to_one_run(
    llmctl: Run, start: Start, ten: Path, sim: Simulator
) -> None:
    """Case 61: what is not of llmctl stays there (2); while a run has the file no other may (75);
    an output whose name ends in nothing that llmctl writes is refused (2)."""
    errors = ten.with_name("in.out.errors.jsonl")
    errors.write_text("mine\n", encoding="utf-8")
    done = llmctl("batch", str(ten))
    assert (done.returncode, errors.read_text(encoding="utf-8")) == (2, "mine\n")
    assert llmctl("batch", str(ten), "-o", str(ten.with_name("out"))).returncode == 2
    assert sim.calls == []
    errors.unlink()
    sim.hold()
    with start(str(ten)) as batch:
        sim.wait_for_calls(2)
        assert llmctl("batch", str(ten), "-o", str(errors)).returncode == 75
        sim.release()
        batch.communicate(timeout=60)
    assert batch.returncode == 0


@pytest.mark.parametrize(
    "words",
    [
        "batch - -o - < {ten} >&-",
        "batch - -o - < {ten} 2>&-",
        "batch {ten} --json >&-",
        "ask hello < /dev/null >&-",
        "batch - -o - < {ten} 1< /dev/null",
    ],
)
def test_closed_streams(
    configured: dict[str, str], ten: Path, tmp_path: Path, sim: Simulator, words: str
) -> None:
    """Case 62: 74 before anything is sent where the answer, or an error, could not be written."""
    line = f"exec {LLMCTL} {words.format(ten=ten)}"
    done = subprocess.run(
        ["/bin/sh", "-c", line], env=configured, cwd=tmp_path, timeout=60, check=False,
        capture_output=True,
    )  # fmt: skip
    assert done.returncode == 74, done.stderr
    assert sim.calls == []
    assert len(read(ten)) == 10


@pytest.mark.parametrize("http", ["pooled", "standard"])
def test_a_lack_of_descriptors_is_not_the_providers(
    llmctl: Run, configured: dict[str, str], ten: Path, home: Path, tmp_path: Path, http: str
) -> None:
    """Case 36: connections that this machine cannot open (EMFILE) are waited for: no attempt is
    lost, no circuit opens, no row fails."""
    config = home / ".config/llmctl/config.yaml"
    kept = config.read_text().replace("{max_wait: 0.01}", "{attempts: 1, max_wait: 0.01}")
    kept += "    breaker: {failures: 1}\n" + "    http: standard\n" * (http == "standard")
    config.write_text(kept)
    (tmp_path / "sitecustomize.py").write_text(
        """
import errno, socket
left = 6
class Limited(socket.socket):
    def __init__(self, family=-1, type=-1, proto=-1, fileno=None):
        global left
        left -= fileno is None
        if fileno is None and left >= 0:
            raise OSError(errno.EMFILE, "Too many open files")
        super().__init__(family, type, proto, fileno)
socket.socket = Limited
""",
        encoding="utf-8",
    )
    done = llmctl("batch", str(ten), "-v", env={**configured, "PYTHONPATH": str(tmp_path)})
    assert done.returncode == 0, done.stderr
    assert "raise `ulimit -n`" in done.stderr
    assert "down" not in done.stderr


@pytest.mark.parametrize("allowed", range(12))
def test_threads_that_cannot_start(
    configured: dict[str, str], ten: Path, tmp_path: Path, sim: Simulator, allowed: int
) -> None:
    """Case 65: a run whose threads the system refuses ends in words before anything is sent; one
    that has them all needs no more, also under limits."""
    (tmp_path / "sitecustomize.py").write_text(
        f"""
import threading
left = {allowed}
start = threading.Thread.start
def limited(self):
    global left
    left -= 1
    if left < 0:
        raise RuntimeError("can't start new thread")
    start(self)
threading.Thread.start = limited
""",
        encoding="utf-8",
    )
    done = subprocess.run(
        [LLMCTL, "batch", str(ten), "--rpm", "6000"],
        env={**configured, "PYTHONPATH": str(tmp_path)}, cwd=tmp_path, timeout=60, check=False,
        capture_output=True, text=True,
    )  # fmt: skip
    if done.returncode == 0:
        assert (len(sim.calls), "more threads" in done.stderr) == (10, False)
        return
    assert (done.returncode, sim.calls) == (2, [])
    assert "start no more threads" in done.stderr
