"""Batches of any provider: files, jobs that advance without a clock, results, the bill.

    settings = BatchSettings(
        fates=(Fate(expire_after=37), Fate()),  # the first batch expires, later ones complete
        faults={"create": fail_first(1, Disconnect())},  # it is made, but nobody hears of it
    )
    with Simulator(batch=settings) as sim:  # the command runs against `sim.base_url`
        sim.wait_until(lambda: sim.batches.jobs)
        sim.batches.finish()  # or wait: by default the second poll of a batch ends it
        assert sim.batches.jobs[0].state == "expired"
        assert sim.batches.billed.repeated == 0  # no row's body was billed twice
        assert sim.batches.billed.per_key[content_key(body)] == 1

Each row is answered by the wire of its endpoint: `Simulator.reply` is asked, a content of its own
has a key of its own, and the bill is part of `Simulator.billed`. Files are kept on the disk.
"""

from __future__ import annotations

import mmap
import re
import time
from abc import ABC, abstractmethod
from array import array
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from functools import partial
from hashlib import blake2b
from random import Random
from tempfile import TemporaryFile
from typing import IO, ClassVar, Literal, Protocol
from urllib.parse import parse_qs

from .call import Call, Json
from .errors import JSON, Status
from .fault import Fault
from .http1 import Answer
from .record import Billed
from .reply import Problem, Usage
from .scripts import Step, pick
from .wires.wire import Wire, dump, load

Action = Literal["upload", "file", "create", "poll", "list", "cancel", "results", "delete"]
End = Literal["completed", "failed", "expired", "cancelled"]
State = Literal["validating", "running", "finalizing", "cancelling"] | End
Data = bytes | mmap.mmap

JSONL = ("content-type", "application/jsonl")
DAY = 24 * 3600
_FINALIZING = 0.75
_WAIT = 60.0


@dataclass(frozen=True, kw_only=True)
class Fate:
    """How a batch goes on and ends. Rows are numbered as they stand in the input, from 0.

    - `progress`, `to_end`: it ends after so many polls, calls of `advance` (`hand`), or seconds;
      infinity is a batch that is stuck. `advance` counts whatever the measure.
    - `expire_after`: it expires when so many rows are done.
    - `to_cancel`, `late`: how long it is `cancelling`, in the same measure, and how many more rows
      are done (and billed) after the cancel.
    - `invalid`: it fails validation at its first step, after create was answered; where a batch
      cannot fail as a whole, all its rows do.
    - `row`: the fault of each row, a script or None. `Status` faults are rows that failed.
    - `word`: how it ends in the provider's own words, in place of the usual one.
    - `drop`: rows that are never done and stand in no file. `double`: rows whose result comes
      twice (billed once). `unknown`: so many results of rows that nobody asked for.
    """

    progress: Literal["polls", "hand", "seconds"] = "polls"
    to_end: float = 2
    expire_after: int | None = None
    to_cancel: float = 1
    late: int = 0
    invalid: Problem | None = None
    row: Step = None
    word: str | None = None
    drop: Collection[int] = ()
    double: Collection[int] = ()
    unknown: int = 0


@dataclass(kw_only=True)
class BatchSettings:
    """How the provider treats batches; may be changed while it runs, from the next request on.

    - `fates`: of the first batch, the second, …; the last one is that of all further ones.
    - `faults`: by what a request is for, before `Simulator.fault`. `Disconnect`, `Hang` and
      `LostAnswer` spoil the answer of what was done; `Status` is a refusal, nothing was done.
    - `invisible`: so many creates of a file that was just uploaded cannot find it.
    - `queue_tokens`: input tokens that all batches of a model that have not ended may hold.
    - `results_origin`: where results are said to be, `http://…`; None: here.
    - `projects`: keys and their projects, `default` for others: each sees its own batches only.
    """

    fates: Sequence[Fate] = (Fate(),)
    faults: Mapping[Action, Step] = field(default_factory=dict)
    invisible: int = 0
    queue_tokens: int | None = None
    results_origin: str | None = None
    projects: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class LostAnswer(Fault):
    """An error status for what was done all the same."""

    status: int = 500
    problem: Problem = field(default_factory=lambda: Problem("The server had an error"))

    def answer(self, answer: Answer, wire: Wire) -> Answer:  # noqa: ARG002  (the seam passes it)
        """Give the error in place of the answer."""
        code, body = wire.refuse(self.status, self.problem)
        return Answer(code, (JSON,), (dump(body),))


class Refusal(Exception):
    """An endpoint's refusal, with nothing done."""

    def __init__(self, status: int, problem: Problem) -> None:
        super().__init__(problem.message)
        self.status, self.problem = status, problem


def not_found(what: str) -> Refusal:
    """404: no such file or batch, or it is another project's."""
    return Refusal(404, Problem(f"No such {what}", "invalid_request_error", "no_such_object"))


def invalid(message: str, param: str | None = None) -> Refusal:
    """400."""
    return Refusal(400, Problem(message, "invalid_request_error", param=param))


def content_key(body: Json) -> str:
    """The key of a row's body on the bill: that of the same body sent online as compact JSON."""
    return blake2b(dump(body), digest_size=8).hexdigest()


class Spool:
    """Bytes on the way to the disk."""

    def __init__(self) -> None:
        self._file: IO[bytes] = TemporaryFile()  # noqa: SIM115  (closed by `done`)
        self.lines = 0

    def line(self, line: bytes) -> None:
        """Add a line."""
        self._file.write(line + b"\n")
        self.lines += 1

    def done(self) -> Data:
        """Everything so far, without a place in memory; nothing can be added later."""
        with self._file as file:
            file.flush()
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if file.tell() else b""


def quarters(data: Data) -> tuple[bytes, ...]:
    """The bytes in four pieces, so that `Hang(pieces=2)` stops a download half-way."""
    step = len(data) // 4 + 1
    return tuple(data[start : start + step] for start in range(0, len(data), step))


def stored(data: bytes | memoryview) -> Data:
    """The same bytes, on the disk."""
    if not data:
        return b""
    with TemporaryFile() as file:
        file.write(data)
        file.flush()
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def json_lines(values: Iterable[Json]) -> Data:
    """The same as lines of a file."""
    spool = Spool()
    for value in values:
        spool.line(dump(value))
    return spool.done()


class Lines(Sequence[bytes]):
    """The lines of a file by their numbers; empty ones are none."""

    def __init__(self, data: Data) -> None:
        self._data = data
        self._bounds = array("Q")
        start = 0
        while start < len(data):
            end = data.find(b"\n", start)
            end = len(data) if end < 0 else end
            if data[start:end].strip():
                self._bounds.extend((start, end))
            start = end + 1

    @property
    def size(self) -> int:
        """All bytes of the file."""
        return len(self._data)

    def __len__(self) -> int:
        return len(self._bounds) // 2

    def __getitem__(self, number: int) -> bytes:  # type: ignore[override]  # no slices
        return self._data[self._bounds[2 * number] : self._bounds[2 * number + 1]]


@dataclass(slots=True)
class File:
    """A file as a provider keeps it; `hidden` creates more do not see it."""

    id: str
    name: str
    purpose: str
    project: str
    created: int
    data: Data
    hidden: int = 0


@dataclass(frozen=True, slots=True)
class Row:
    """A row of a batch: where its body would be sent online."""

    custom_id: str
    path: str
    body: Json


@dataclass(slots=True)
class Job:
    """A batch. `said` is what create asked for, `path` and `headers` those of that request.

    `input_tokens` are counted when it is made; `counts` (`succeeded`, `errored`, `expired`,
    `cancelled`), `usage`, `output` and `errors` (None: no such file) when it has ended.
    """

    number: int
    id: str
    dialect: Dialect
    project: str
    path: str
    headers: Mapping[str, str]
    said: Json
    lines: Lines
    fate: Fate
    created: int
    started: float
    model: str = ""
    input_tokens: int = 0
    problems: list[tuple[Problem, int | None]] = field(default_factory=list)
    steps: float = 0
    cancelled_at: float | None = None
    cancelling: int | None = None
    finished: int = 0
    end: End | None = None
    ended: int | None = None
    counts: Counter[str] = field(default_factory=Counter)
    usage: Usage = field(default_factory=lambda: Usage(0))
    output: File | None = None
    errors: File | None = None
    deleted: bool = False

    @property
    def total(self) -> int:
        """How many rows it has."""
        return len(self.lines)

    @property
    def progress(self) -> float:
        """How far it is, in the measure of its fate."""
        by_time = self.fate.progress == "seconds"
        return self.steps + (time.monotonic() - self.started if by_time else 0)

    @property
    def state(self) -> State:
        """Where it is."""
        if self.end is not None:
            return self.end
        if self.cancelled_at is not None:
            return "cancelling"
        part = self.progress / self.fate.to_end
        return "validating" if part <= 0 else "running" if part < _FINALIZING else "finalizing"

    @property
    def done(self) -> int:
        """How many rows are done."""
        if self.end is not None or self.cancelled_at is not None:
            return self.finished
        most = self.total if self.fate.expire_after is None else self.fate.expire_after
        return min(self.total, int(most * min(1.0, self.progress / (self.fate.to_end or 1))))

    def word(self, usual: Mapping[str, str]) -> str:
        """The provider's word for its state, where that is not its own name."""
        ended = self.end is not None and self.end != "failed"
        return (self.fate.word if ended else None) or usual.get(self.state, self.state)

    def results(self) -> list[Json]:
        """All lines of its output."""
        return list(map(load, Lines(self.output.data))) if self.output else []

    def rows(self) -> Iterator[Row]:
        """All its rows in their order."""
        return (self.dialect.row(self, load(line)) for line in self.lines)


class Dialect(ABC):
    """What a row and its result look like on a wire, and what its batches do in their own way.

    `ordered`: results come in the input's order. `parted`: failed rows have a file of their own.
    `one_model`: all rows must have the same. `max_rows`, `max_bytes`: more is a batch that is not
    valid.
    `late`: rows that are not valid fail the batch after create was answered, not by a 400;
    `late_quota`: so do too many queued tokens, not by a 429. `fails`: a batch can fail as a whole.
    """

    ordered: ClassVar[bool] = False
    parted: ClassVar[bool] = True
    one_model: ClassVar[bool] = False
    max_rows: ClassVar[int] = 50_000
    max_bytes: ClassVar[int] = 200_000_000
    late: ClassVar[bool] = True
    late_quota: ClassVar[bool] = False
    fails: ClassVar[bool] = True

    @abstractmethod
    def row(self, job: Job, line: Json) -> Row:
        """Read a row. ValueError, KeyError or TypeError when it is none."""

    @abstractmethod
    def result(self, job: Job, row: Row, answer: Answer) -> bytes:
        """The line of a row that was answered; a status of 400 and above is a failure."""

    @abstractmethod
    def unfinished(self, job: Job, row: Row) -> bytes | None:
        """The line of a row that was not done before the end (`job.end`), or None."""


class RowAnswerer(Protocol):
    """Answers rows as online calls are, and knows what they ask for."""

    def prepare(self, call: Call) -> Wire | None:
        """Read what a row asks for into `call.ask`; the wire it is for, or None."""

    def answer_row(self, call: Call, fault: Fault | None) -> Answer:
        """Answer and bill a row."""

    def input_tokens(self, call: Call) -> int:
        """The tokens of what it says to the model."""


class Batches:
    """All files and batches of a simulator; its state belongs to the server's thread.

    `billed` is the bill of all rows of batches, `files` are by their ids, `jobs` in the order
    they were made.
    """

    def __init__(self, settings: BatchSettings) -> None:
        self.settings = settings
        self.answerer: RowAnswerer
        self.in_loop: Callable[[Callable[[], object]], bool] = lambda _: False
        self.billed = Billed()
        self.files: dict[str, File] = {}
        self.jobs: list[Job] = []
        self._answered = 0

    def advance(self, steps: float = 1, job: Job | None = None) -> None:
        """Let a batch (None: every one) go on by so many polls or seconds; from any thread."""
        self._do(partial(self._advance, steps, job))

    def finish(self, job: Job | None = None) -> None:
        """Let a batch (None: every one) come to its end; from any thread."""
        self._do(partial(self._advance, float("inf"), job))

    def keep(self, data: bytes | memoryview | Data, name: str, purpose: str, project: str) -> File:
        """Keep a file."""
        kept = data if isinstance(data, mmap.mmap) else stored(data)
        number = len(self.files) + 1
        hidden = self.settings.invisible if purpose == "batch" else 0
        now = int(time.time())
        file = File(f"file-{number:08d}", name, purpose, project, now, kept, hidden)
        self.files[file.id] = file
        return file

    def file(self, id: str, project: str) -> File:
        """Find a file; `Refusal` when there is none for this project."""
        file = self.files.get(id)
        if file is None or file.project != project:
            raise not_found(f"File object: {id}")
        return file

    def input_file(self, id: str, project: str) -> File:
        """Find a file for a new batch; `Refusal` with 400 when it is not visible yet."""
        file = self.files.get(id)
        if file is None or file.project != project or file.hidden > 0:
            if file is not None:
                file.hidden -= 1
            message = f"Cannot find file {id}, or organization does not have access to it."
            raise invalid(message, "input_file_id")
        return file

    def create(self, call: Call, dialect: Dialect, data: Data, prefix: str, project: str) -> Job:
        """Make a batch of JSON lines; `Refusal` with 429 when the queue is full."""
        number = len(self.jobs)
        fates = self.settings.fates
        fate = fates[min(number, len(fates) - 1)]
        said = {name: value for name, value in (call.body or {}).items() if name != "requests"}
        job = Job(
            number,
            f"{prefix}{number + 1:08d}",
            dialect,
            project,
            call.path,
            call.headers,
            said,
            Lines(data),
            fate,
            int(time.time()),
            time.monotonic(),
        )
        self._validate(job)
        if job.problems and not dialect.late:
            raise Refusal(400, job.problems[0][0])
        if fate.invalid is not None and dialect.fails:
            job.problems.append((fate.invalid, None))
        elif fate.invalid is not None:
            job.fate = replace(fate, row=Status(status=400, problem=fate.invalid))
        if not job.problems and (problem := self._over_quota(job)) is not None:
            if not dialect.late_quota:
                raise Refusal(429, problem)
            job.problems.append((problem, None))
        self.jobs.append(job)
        self._refresh(job)
        return job

    def job(self, id: str, project: str, *, polled: bool = False) -> Job:
        """Find a batch, and count a poll of it; `Refusal` when there is none for this project."""
        found = (j for j in self.jobs if j.id == id and j.project == project and not j.deleted)
        job = next(found, None)
        if job is None:
            raise not_found(f"batch: {id}")
        if polled and job.fate.progress == "polls":
            job.steps += 1
        self._refresh(job)
        return job

    def newest(self, project: str) -> list[Job]:
        """All batches of a project, the newest first; looking at the list is no poll."""
        found = [job for job in reversed(self.jobs) if job.project == project and not job.deleted]
        for job in found:
            self._refresh(job)
        return found

    def cancel(self, job: Job) -> None:
        """Begin to cancel a batch, or do nothing when it has ended."""
        if job.end is None and job.cancelled_at is None:
            job.finished = min(job.total, job.done + job.fate.late)
            job.cancelled_at, job.cancelling = job.progress, int(time.time())
            self._refresh(job)

    def _do(self, work: Callable[[], object]) -> None:
        done: Future[None] = Future()

        def both() -> None:
            try:
                work()
            except Exception as error:  # noqa: BLE001  (raised in the thread that asked)
                done.set_exception(error)
            else:
                done.set_result(None)

        if not self.in_loop(both):
            both()
        done.result(_WAIT)

    def _advance(self, steps: float, job: Job | None) -> None:
        for each in self.jobs if job is None else [job]:
            each.steps += steps
            self._refresh(each)

    def _refresh(self, job: Job) -> None:
        if job.end is not None:
            return
        if job.problems:
            if job.progress > 0:
                job.end, job.ended = "failed", int(time.time())
        elif job.cancelled_at is not None:
            # Infinity minus infinity is no number: `finish` ends what is being cancelled, too.
            since = job.progress - job.cancelled_at
            if since >= job.fate.to_cancel or job.progress == float("inf"):
                self._end(job, "cancelled")
        elif job.progress >= job.fate.to_end:
            expires = job.fate.expire_after
            job.finished = job.total if expires is None else min(job.total, expires)
            self._end(job, "completed" if expires is None else "expired")

    def _validate(self, job: Job) -> None:
        seen: set[str] = set()
        most, size = job.dialect.max_rows, job.dialect.max_bytes
        if not job.lines or len(job.lines) > most or job.lines.size > size:
            message = f"A batch has 1 to {most} rows in at most {size} bytes"
            code = "invalid_file" if job.lines else "empty_file"
            job.problems.append((Problem(message, code=code), None))
            return
        for number, line in enumerate(job.lines, 1):
            try:
                row = job.dialect.row(job, load(line))
                call = self._call(job, row)
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                said = Problem(f"This line is not parseable: {error}", code="invalid_json_line")
                job.problems.append((said, number))
                continue
            if row.custom_id in seen:
                said = Problem(
                    f"The custom_id '{row.custom_id}' was used before", code="duplicate_custom_id"
                )
                job.problems.append((said, number))
            seen.add(row.custom_id)
            if self.answerer.prepare(call) is not None and call.ask is not None:
                job.model = job.model or call.ask.model
                if job.dialect.one_model and call.ask.model != job.model:
                    said = Problem("All rows must have one model", code="mismatched_model")
                    job.problems.append((said, number))
                job.input_tokens += self.answerer.input_tokens(call)

    def _over_quota(self, job: Job) -> Problem | None:
        most = self.settings.queue_tokens
        if most is None:
            return None
        for each in self.jobs:
            self._refresh(each)
        queued = sum(
            each.input_tokens
            for each in self.jobs
            if each.end is None and not each.problems and each.model == job.model
        )
        if queued + job.input_tokens <= most:
            return None
        message = (
            f"Enqueued token limit reached for {job.model}. Limit: {most:,} enqueued tokens. "
            "Please try again once some in_progress batches have been completed."
        )
        code = "token_limit_exceeded" if job.dialect.late_quota else "rate_limit_exceeded"
        return Problem(message, code=code)

    def _call(self, job: Job, row: Row) -> Call:
        raw = dump(row.body)
        key = blake2b(raw, digest_size=8).hexdigest()
        call = Call("POST", row.path, "", job.headers, raw, key, 0, time.monotonic(), body=row.body)
        call.index = self._answered
        call.attempt = self.billed.per_key[key] + 1 if key in self.billed.per_key else 1
        return call

    def _end(self, job: Job, end: End) -> None:
        job.end, job.ended = end, int(time.time())
        fate, dialect = job.fate, job.dialect
        order = list(range(job.total))
        if not dialect.ordered:
            Random(job.number).shuffle(order)
        output, errors = Spool(), Spool()
        example: tuple[Row, Answer] | None = None
        for place, number in enumerate(order):
            if number in fate.drop:
                continue
            row = dialect.row(job, load(job.lines[number]))
            if place < job.finished:
                answer = self._answer(job, row)
                good = answer.status < 400
                line: bytes | None = dialect.result(job, row, answer)
                example = (row, answer) if good else example
            else:
                good, line = False, dialect.unfinished(job, row)
                job.counts["expired" if end == "expired" else "cancelled"] += 1
            spool = output if good or not dialect.parted else errors
            for _ in range(2 if number in fate.double else 1):
                if line is not None:
                    spool.line(line)
        for number in range(fate.unknown if example else 0):
            row, answer = example or (Row("", "", {}), Answer(200, (), ()))
            unasked = Row(f"unknown-{number}", row.path, row.body)
            output.line(dialect.result(job, unasked, answer))
        job.output = self._kept(job, output, "output")
        job.errors = self._kept(job, errors, "error")

    def _kept(self, job: Job, spool: Spool, name: str) -> File | None:
        data = spool.done()
        if not data:
            return None
        return self.keep(data, f"{job.id}_{name}.jsonl", "batch_output", job.project)

    def _answer(self, job: Job, row: Row) -> Answer:
        call = self._call(job, row)
        self._answered += 1
        self.answerer.prepare(call)
        answer = self.answerer.answer_row(call, pick(job.fate.row, call))
        job.counts["succeeded" if answer.status < 400 else "errored"] += 1
        if call.billed is not None:
            self.billed.add(call.key, call.billed)
            job.usage = job.usage + call.billed
        return answer


class Endpoint(Wire):
    """An endpoint of batches or files: `at` are its method and what its path ends with."""

    billing = "free"
    at: ClassVar[tuple[str, str]]
    action: ClassVar[Action]

    def serves(self, method: str, path: str) -> bool:
        """Whether a request to this path is for this endpoint."""
        return method == self.at[0] and re.search(self.at[1] + "$", path) is not None

    def serve(self, call: Call, batches: Batches) -> Answer:
        """Do what is asked, and answer. `Refusal` when nothing is done."""
        return Answer(200, (JSON,), (dump(self.done(call, batches)),))

    def done(self, call: Call, batches: Batches) -> Json:
        """Do what is asked; the body of the answer."""
        raise NotImplementedError

    def named(self, call: Call) -> str:
        """The id in the path, where `at` has a group for it."""
        found = re.search(self.at[1] + "$", call.path)
        return found[1] if found else ""

    def project(self, call: Call, batches: Batches) -> str:
        """The project of the key."""
        return batches.settings.projects.get(self.key(call.headers) or "", "default")


def number(call: Call, name: str, usual: int) -> int:
    """A number in the query; the `usual` one when it is not there."""
    return int(parse_qs(call.query).get(name, [str(usual)])[0])


def multipart(call: Call) -> dict[str, tuple[str, memoryview]]:
    """The parts of a form: by their names, the file's name (or an empty text) and the bytes."""
    found = re.search(r'boundary="?([^";]+)', call.headers.get("content-type", ""))
    if found is None:
        raise invalid("the body is no multipart/form-data")
    mark = b"--" + found[1].encode()
    raw, parts = memoryview(call.raw), {}
    start = call.raw.find(mark)
    while start >= 0 and (end := call.raw.find(b"\r\n" + mark, start)) >= 0:
        blank = call.raw.find(b"\r\n\r\n", start)
        head = call.raw[start:blank].decode()
        name = re.search(r'\bname="([^"]*)"', head)
        filename = re.search(r'\bfilename="([^"]*)"', head)
        if name is not None:
            parts[name[1]] = filename[1] if filename else "", raw[blank + 4 : end]
        start = end + 2
    return parts
