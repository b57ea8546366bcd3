"""`llmctl batch --list`, `--status` and `--adopt`: providers' batches told of from any shell."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable
from contextlib import closing
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import httpx2
import pytest

from llmctl.storage.batch_jobs import KEPT, BatchJob, BatchJobs, BatchJobsPeek
from llmctl.storage.files import LockedFile
from llmctl.storage.ledger import open_ledger
from tests.cli.terminal import on_a_terminal
from tests.conftest import Run
from tests.simulator import errors
from tests.simulator.batches import Fate
from tests.simulator.reply import Problem
from tests.simulator.server import Simulator
from tests.support import done

FIELDS = [
    "intent", "output", "profile", "provider", "batch", "state", "word", "rows", "done", "failed",
    "made", "checked", "note", "command",
]  # fmt: skip
HOUR = 3600 * 1000

MakeJob = Callable[..., BatchJob]


@pytest.fixture
def ledger(home: Path) -> Path:
    """Where the user's ledger is; there is none yet."""
    return home / ".local/state/llmctl/ledger.db"


@pytest.fixture
def make(tmp_path: Path, sim: Simulator) -> MakeJob:
    """Make a batch of ten rows of `in.jsonl`; a later one is newer."""
    now, made = round(time.time() * 1000), iter(range(100))

    def job(**changes: Any) -> BatchJob:
        number = next(made)
        usual: dict[str, Any] = {
            "intent": f"01J{number:023d}",
            "output": str(tmp_path / "in.out.jsonl"),
            "input": "in.jsonl",
            "run_id": "run-1",
            "profile": "sim",
            "provider": "openai",
            "adapter": "openai",
            "base_url": sim.base_url,
            "model": "gpt-5-mini",
            "wire_path": "/chat/completions",
            "rows": 10,
            "size": 1000,
            "tokens": 100,
            "made_ms": now - 3 * HOUR + number,
        }
        return BatchJob(**{**usual, **changes})

    return job


def record(ledger: Path, jobs: Iterable[BatchJob]) -> None:
    """Put batches on record, as the engine does."""
    with closing(open_ledger(ledger, "run-1", "ann")) as opened:
        for job in jobs:
            done(BatchJobs(opened.database).seal, job, [])


def on_record(ledger: Path) -> list[BatchJob]:
    """All batches on record, newest first."""
    with BatchJobsPeek(ledger) as peek:
        return peek.jobs()


def submitted(sim: Simulator, rows: int = 10) -> str:
    """The id of a new batch at the provider."""
    body = {"model": "gpt-5-mini", "messages": [{"role": "user", "content": "hello"}]}
    line = {"method": "POST", "url": "/v1/chat/completions", "body": body}
    data = b"".join(
        json.dumps({"custom_id": f"r{n}", **line}).encode() + b"\n" for n in range(rows)
    )
    post = partial(httpx2.post, headers={"authorization": "Bearer k"}, timeout=5)
    form, files = {"purpose": "batch"}, {"file": ("in.jsonl", data)}
    file = post(f"{sim.base_url}/files", data=form, files=files).raise_for_status().json()["id"]
    order = {"input_file_id": file, "endpoint": "/v1/chat/completions", "completion_window": "24h"}
    made = post(f"{sim.base_url}/batches", json=order).raise_for_status().json()
    return str(made["id"])


def asked(sim: Simulator) -> int:
    """How many requests the provider got."""
    return len(sim.calls)


def test_all_batches_are_listed(
    llmctl: Run, make: MakeJob, ledger: Path, tmp_path: Path, sim: Simulator
) -> None:
    """The newest comes first, those that are done for 30 days; the provider is not asked, nothing
    is written, and the exit code is 0."""
    old = round(time.time() * 1000) - KEPT - HOUR
    elsewhere = str(tmp_path.parent / "other.jsonl")
    jobs = [
        make(state="done", made_ms=old),
        make(state="running", batch="batch_old", made_ms=old, output=elsewhere),
        make(state="done", batch="batch_done", cancelled=True),
        make(),
        make(state="creating"),
        make(state="running", batch="batch_1", done=3, failed=1, rows=1200),
    ]
    record(ledger, reversed(jobs))  # sealing forgets what is too old
    before = ledger.read_bytes()
    shown = llmctl("batch", "--list")
    assert (shown.returncode, shown.stderr) == (0, "")
    head, *lines = shown.stdout.splitlines()
    assert head.split() == ["MADE", "(UTC)", "OUTPUT", "PROFILE", "BATCH", "STATE", "ROWS"]
    day = datetime.fromtimestamp(jobs[5].made_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M")
    assert lines[0].startswith(f"{day}  in.out.jsonl ")
    ends = [
        "sim batch_1 running 4/1,200",
        "sim - submission uncertain 0/10",
        "sim - not submitted yet 0/10",
        "sim batch_done done, cancelled 0/10",
        f"{elsewhere} sim batch_old running 0/10",
    ]
    for line, end in zip(lines, ends, strict=True):
        assert " ".join(line.split()).endswith(end)
    assert (asked(sim), ledger.read_bytes()) == (0, before)
    rows = json.loads(llmctl("batch", "--list", "--json").stdout)
    assert [row["batch"] for row in rows] == ["batch_1", None, None, "batch_done", "batch_old"]
    assert list(rows[0]) == FIELDS


def test_without_batches_one_line_says_so(
    llmctl: Run, ledger: Path, tmp_path: Path, sim: Simulator
) -> None:
    """Exit 0, an empty list for programs, and no ledger is made."""
    for option in ("--list", "--status"):
        shown = llmctl("batch", option)
        assert (shown.returncode, shown.stdout, shown.stderr.count("\n")) == (0, "", 1)
        assert llmctl("batch", option, "--json").stdout == "[]\n"
        assert llmctl("batch", "missing.jsonl", option).returncode == 2
    assert not ledger.exists()
    assert (asked(sim), [*tmp_path.glob("*.jsonl")]) == (0, [])


def test_a_damaged_ledger_is_no_empty_list(llmctl: Run, ledger: Path) -> None:
    """It exits 74 and says so, instead of telling that there are no batches."""
    ledger.parent.mkdir(parents=True, mode=0o700)
    ledger.write_bytes(b"no database" * 1000)
    for option in ("--list", "--status"):
        shown = llmctl("batch", option)
        assert (shown.returncode, "is damaged" in shown.stderr) == (74, True)


@pytest.mark.parametrize("columns", [80, 200])
def test_a_list_fits_the_terminal(
    configured: dict[str, str], make: MakeJob, ledger: Path, tmp_path: Path, columns: int
) -> None:
    """No line is longer than the terminal, and the ends of all columns are there."""
    batch = "batch_67890abcdef1234567890abcdef12345"
    record(ledger, [make(state="running", batch=batch, output="/data/team/answers-of-may.jsonl")])
    environ = {**configured, "NO_COLOR": "1"}
    code, shown, _ = on_a_terminal(environ, tmp_path, "batch", "--list", columns=columns)
    lines = shown.decode().splitlines()
    assert (code, max(map(len, lines)) <= columns, "ROWS" in lines[0]) == (0, True, True)
    assert (batch in shown.decode()) == (columns == 200)
    assert "0/10" in lines[1]


def test_status_asks_the_provider(llmctl: Run, make: MakeJob, ledger: Path, sim: Simulator) -> None:
    """One question for each batch that runs; what the provider says is shown, with the command
    that fetches, put on record, and exit 6 while a batch is open."""
    refused = Problem("the file\nis empty", code="empty_file")
    sim.batch.fates = (Fate(to_end=4), Fate(to_end=1), Fate(invalid=refused))
    slow, quick, bad, read = submitted(sim, 8), submitted(sim), submitted(sim), submitted(sim)
    record(ledger, [
        make(state="running", batch=slow, rows=8),
        make(state="running", batch=quick),
        make(state="running", batch=bad),
        make(state="fetched", batch=read, done=10),
        make(),
        make(state="done"),
    ])  # fmt: skip
    before = asked(sim)
    shown = llmctl("batch", "--status")
    assert (shown.returncode, asked(sim) - before) == (6, 3)
    command = "llmctl batch in.jsonl --engine provider -o in.out.jsonl -p sim"
    assert shown.stdout.splitlines() == [
        "in.out.jsonl, profile sim",
        "  not submitted yet, 0/10 rows, 3 h old",
        f"  {read}: fetched, not all rows read, 10/10 rows, 3 h old",
        f"  {bad}: ended, not fetched yet (failed), 0/10 rows, 3 h old",
        "    the file is empty",
        f"  {quick}: ended, not fetched yet (completed), 10/10 rows, 3 h old",
        f"  {slow}: running (in_progress), 2/8 rows, 3 h old",
        f"  fetch: {command}",
    ]
    assert "--template" in shown.stderr
    found = json.loads(llmctl("batch", "--status", "--json", "-q").stdout)
    assert list(found[0]) == FIELDS
    assert [(row["state"], row["word"], row["done"]) for row in found] == [
        ("sealed", "", 0),
        ("fetched", "", 10),
        ("ended", "failed", 0),
        ("ended", "completed", 10),
        ("running", "in_progress", 4),
    ]
    assert {row["command"] for row in found} == {command}
    kept = {job.batch: job for job in on_record(ledger)}[slow]
    assert (kept.word, kept.done, kept.state) == ("in_progress", 4, "running")
    assert time.time() - (kept.checked_ms or 0) / 1000 < 60


def test_status_of_one_input(llmctl: Run, make: MakeJob, ledger: Path, tmp_path: Path) -> None:
    """INPUT's OUTPUT, or that of `-o`, links followed and a table by its lines, chooses the
    batches; where none of them is open, exit 0."""
    record(ledger, [
        make(),
        make(output=str(tmp_path / "b c.jsonl"), input="a b.jsonl"),
        make(output=str(tmp_path / "c.jsonl"), state="done"),
    ])  # fmt: skip
    (tmp_path / "in.jsonl").touch()
    (tmp_path / "link.jsonl").symlink_to(tmp_path / "b c.jsonl")

    def outputs(*arguments: str) -> tuple[int, list[str]]:
        shown = llmctl("batch", *arguments, "--status", "--json")
        return shown.returncode, [Path(row["output"]).name for row in json.loads(shown.stdout)]

    assert outputs() == (6, ["b c.jsonl", "in.out.jsonl"])
    assert outputs("in.jsonl") == (6, ["in.out.jsonl"])
    assert outputs("-o", "link.jsonl") == outputs("in.jsonl", "-o", "b c.csv")
    assert outputs("-", "-o", "b c.jsonl") == (6, ["b c.jsonl"])
    assert outputs("in.jsonl", "-o", "c.jsonl") == (0, [])
    assert llmctl("batch", "-", "--status").returncode == 2
    shown = llmctl("batch", "-o", "b c.jsonl", "--status").stdout
    assert "llmctl batch 'a b.jsonl' --engine provider -o 'b c.jsonl' -p sim\n" in shown


def test_status_of_what_cannot_be_asked(
    llmctl: Run, make: MakeJob, ledger: Path, home: Path, sim: Simulator
) -> None:
    """A profile that is gone or leads elsewhere, a missing key and a provider that fails are said
    beside what was known last, with its age; the others are asked all the same, exit 6."""
    ago = round(time.time() * 1000) - HOUR
    batch = submitted(sim)
    last = {"state": "running", "word": "in_progress", "done": 7, "checked_ms": ago}
    record(ledger, [
        make(**last, batch="batch_gone", profile="gone"),
        make(**last, batch="batch_moved", note="kept\nlong", base_url="https://example.com/v1?code=hidden"),
        make(**last, batch="batch_keyless", profile="keyless"),
        make(**last, batch="batch_unknown"),
        make(**last, batch=batch),
    ])  # fmt: skip
    path = home / ".config/llmctl/config.yaml"
    keyless = f"  keyless: {{provider: openai, base_url: {sim.base_url}, key: {{env: NO_KEY}}}}\n"
    path.write_text(path.read_text() + keyless)
    shown = llmctl("batch", "--status")
    assert shown.returncode == 6
    assert f"  {batch}: running (in_progress), 5/10 rows" in shown.stdout
    for name, why in {
        "batch_gone": "there is no profile gone any more",
        "batch_moved": "the profile sim leads elsewhere now, and the batch is at https://example.com/v1",
        "batch_keyless": "NO_KEY",
        "batch_unknown": "No such batch",
    }.items():
        _, _, told = shown.stdout.partition(
            f"  {name}: running (in_progress), 7/10 rows, 3 h old\n"
        )
        note = told.splitlines()[0]
        assert why in note
        also = "; kept long" if name == "batch_moved" else ""
        assert note.endswith("; shown is what was known 1 h ago" + also)
    assert "hidden" not in shown.stdout
    kept = {job.batch: job for job in on_record(ledger)}["batch_unknown"]
    assert (kept.done, kept.checked_ms) == (7, ago)


def test_status_without_a_provider(
    llmctl: Run, make: MakeJob, ledger: Path, sim: Simulator
) -> None:
    """A provider that fails is no error of the command: what was known is shown, exit 6, and one
    question was asked."""
    sim.batch.faults = {"poll": errors.status(500)}
    record(ledger, [make(state="running", batch=submitted(sim), done=2)])
    before = asked(sim)
    shown = llmctl("batch", "--status", "--json")
    assert (shown.returncode, asked(sim) - before) == (6, 1)
    (row,) = json.loads(shown.stdout)
    assert (row["state"], row["done"], row["checked"]) == ("running", 2, None)
    assert row["note"].endswith("; shown is what was known 3 h ago")


def test_an_uncertain_submission_says_what_to_do(
    llmctl: Run, make: MakeJob, ledger: Path, sim: Simulator
) -> None:
    """The batches that it may have made are named, and both ways on; nobody is asked."""
    record(ledger, [make(state="creating", note="batch_1 batch_2", profile="gone")])
    shown = llmctl("batch", "--status")
    assert (shown.returncode, asked(sim)) == (6, 0)
    _, state, note, _ = shown.stdout.splitlines()
    assert state == "  submission uncertain, 0/10 rows, 3 h old"
    for words in ("batch_1 or batch_2", "run the command again", "--adopt ID", "--adopt none"):
        assert words in note


def test_a_batch_is_adopted(llmctl: Run, make: MakeJob, ledger: Path, tmp_path: Path) -> None:
    """The ID becomes the batch of the uncertain submission alone, which runs; the output is not
    made for it."""
    others = [make(), make(state="creating", output=str(tmp_path / "b.jsonl"))]
    record(ledger, [*others, make(state="creating", note="batch_7 batch_8", sent_ms=5)])
    shown = llmctl("batch", "in.jsonl", "--adopt", "batch_7")
    assert shown.returncode == 0
    assert shown.stdout == (
        "batch_7 is the batch of 10 rows; fetch: "
        "llmctl batch in.jsonl --engine provider -o in.out.jsonl -p sim\n"
    )
    job, *rest = on_record(ledger)
    assert (job.state, job.batch, job.note, job.sent_ms) == ("running", "batch_7", "", 5)
    assert rest == others[::-1]
    assert not (tmp_path / "in.out.jsonl").exists()
    again = llmctl("batch", "in.jsonl", "--adopt", "batch_7")
    assert (again.returncode, "no uncertain submission" in again.stderr) == (2, True)


def test_a_submission_that_made_none_is_made_again(
    llmctl: Run, make: MakeJob, ledger: Path, tmp_path: Path
) -> None:
    """`--adopt none` puts it back to where nothing was sent, its file kept."""
    record(ledger, [make(state="creating", sent_ms=5, file="file-1", note="batch_7")])
    (tmp_path / "in.out.jsonl").write_text("{}\n")
    shown = llmctl("batch", "-o", "in.out.jsonl", "--adopt", "none", "--json")
    (row,) = json.loads(shown.stdout)
    assert (shown.returncode, list(row), row["state"]) == (0, FIELDS, "sealed")
    (job,) = on_record(ledger)
    assert (job.state, job.batch, job.sent_ms, job.file) == ("sealed", None, None, "file-1")
    assert job.note == ""
    assert (tmp_path / "in.out.jsonl").read_text() == "{}\n"


def test_what_cannot_be_adopted(llmctl: Run, make: MakeJob, ledger: Path, tmp_path: Path) -> None:
    """Exit 2, and nothing has changed, for what is no ID, an ID that another batch has, no
    uncertain submission, and several of which the ID may be any; one that it was found for is
    chosen."""

    def refused(*arguments: str) -> str:
        before = on_record(ledger)
        shown = llmctl("batch", *arguments)
        assert (shown.returncode, on_record(ledger)) == (2, before)
        return shown.stderr

    assert "no uncertain submission" in refused("in.jsonl", "--adopt", "batch_1")
    assert not ledger.exists()
    record(ledger, [
        make(state="running", batch="batch_1"),
        make(state="creating", note="batch_2"),
        make(state="creating", output=str(tmp_path / "b.jsonl")),
    ])  # fmt: skip
    for word in ("", " ", "batch 2", "batch_2\n", " batch_2"):
        assert "wants the provider's id" in refused("in.jsonl", "--adopt", word)
    assert "on record as another batch" in refused("in.jsonl", "--adopt", "batch_1")
    assert "no uncertain submission" in refused("other.jsonl", "--adopt", "batch_2")
    assert "INPUT" in refused("--adopt", "batch_2")
    assert "exclude each other" in refused("in.jsonl", "--adopt", "batch_2", "--list")
    record(ledger, [make(state="creating", note="batch_3")])
    for word in ("none", "batch_4"):
        assert "2 submissions" in refused("in.jsonl", "--adopt", word)
    assert llmctl("batch", "in.jsonl", "--adopt", "batch_2").returncode == 0
    assert [job.batch for job in on_record(ledger)] == [None, None, "batch_2", "batch_1"]


def test_a_running_command_finds_out_for_itself(
    llmctl: Run, make: MakeJob, ledger: Path, tmp_path: Path
) -> None:
    """While another process holds the output, `--adopt` exits 75 and changes nothing."""
    record(ledger, [make(state="creating")])
    with LockedFile.open(tmp_path / "in.out.jsonl"):
        shown = llmctl("batch", "in.jsonl", "--adopt", "batch_1")
    assert (shown.returncode, "another llmctl holds" in shown.stderr) == (75, True)
    assert [job.state for job in on_record(ledger)] == ["creating"]


def test_a_batch_wants_an_input(llmctl: Run) -> None:
    """Without INPUT, and without a question about batches, the argument is said to be missing."""
    shown = llmctl("batch", "-o", "out.jsonl")
    assert (shown.returncode, shown.stderr) == (
        2,
        "error: missing argument 'INPUT' (see `llmctl batch -h`)\n",
    )
