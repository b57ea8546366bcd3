"""Output of a batch: the line of a call, durable appending, repair of a torn end, file names."""

from __future__ import annotations

import asyncio
import contextlib
import csv
import io
import os
import re
import select
import stat
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack
from decimal import Decimal
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import Any, BinaryIO, Literal

import orjson

from llmctl.batch.input import ACCEPTED, MAX_LINE, START, Mark
from llmctl.errors import CallError, DiskError, InputError
from llmctl.redact import printable_json
from llmctl.storage.files import (
    LockedFile,
    disk,
    disk_error,
    replacing,
    sync_file,
    sync_folder,
    write_all,
)
from llmctl.threads import start
from llmctl.types import Answer, CallRecord, RouteDecision

Format = Literal["llmctl", "openai"]

STDOUT = "-"


def default_output(input: str) -> str:
    """`NAME.out.jsonl` beside INPUT; stdout for stdin. Raises `InputError` for no file's name."""
    if input == STDOUT:
        return STDOUT
    path = Path(input)
    if path.name in {"", ".."}:
        raise InputError(f"{input or 'INPUT'} is not a file: INPUT is {ACCEPTED}")
    name = re.sub(r"(?<=.)\.(jsonl(\.gz)?|csv)$", "", path.name, flags=re.IGNORECASE)
    return str(path.with_name(f"{name}.out.jsonl"))


def errors_path(output: Path) -> Path:
    """Where the rows that failed are written: `.errors.jsonl` in place of `.jsonl`."""
    return output.with_name(f"{output.name.removesuffix('.jsonl')}.errors.jsonl")


def is_csv(output: str) -> bool:
    """Whether OUTPUT is a table, made at the end of the JSON Lines beside it."""
    return output.lower().endswith(".csv")


def lines_path(input: str, output: str) -> str:
    """Where the lines of OUTPUT stand: there, or beside a table (`NAME.jsonl`, or `NAME.out.jsonl`
    where the former is the input)."""
    if not is_csv(output):
        return output
    path = f"{output[:-4]}.jsonl"
    with contextlib.suppress(OSError, ValueError):  # one of them does not exist
        if Path(path).samefile(input):
            return default_output(output)
    return path


def check_output(input: str, output: str) -> Path | None:
    """The path to write the lines to, links followed; None for stdout.

    Raises `InputError` for one that cannot serve, or that would destroy the input.
    """
    if output == STDOUT:
        return None
    table, output = Path(output), lines_path(input, output)
    try:
        path = Path(os.path.realpath(output))
        kind = path.stat().st_mode if path.exists() else stat.S_IFREG
        folder = path.parent.is_dir()
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise InputError(f"cannot write to {output}: {why}") from error
    wrong = None
    if not stat.S_ISREG(kind):
        wrong = "it is a folder" if stat.S_ISDIR(kind) else "it is not a regular file"
    elif not output.lower().endswith(".jsonl"):
        wrong = "OUTPUT ends in .jsonl or .csv"
    elif not folder:
        wrong = f"there is no folder {path.parent}, create it first"
    elif table.is_dir():
        wrong = f"{table.name} is a folder"
    for victim in (path, errors_path(path), table):
        with contextlib.suppress(OSError):  # one of them does not exist
            if not wrong and victim.samefile(input):
                named = "" if victim.name == Path(output).name else f" as {victim.name}"
                wrong = f"it would overwrite the input{named}"
    if wrong:
        raise InputError(f"cannot write to {output}: {wrong}; name another with -o, or - (stdout)")
    return path


OPENAI_ID = "batch_req_"  # of OpenAI's batch lines; ours go on with the request hash


def record(call: CallRecord, format: Format) -> bytes:
    """The line, with its line feed, for a call that has ended."""
    fields = _openai(call) if format == "openai" else _row(call)
    try:
        return orjson.dumps(fields, option=orjson.OPT_APPEND_NEWLINE)
    except TypeError:
        # Half a surrogate pair in a provider's text: not worth losing a paid answer for.
        return orjson.dumps(_mended(fields), option=orjson.OPT_APPEND_NEWLINE)


def _row(call: CallRecord) -> dict[str, Any]:
    """The output row of an answer, or the error row of a failure.

    Tool calls and citations are there where there are any; the provider's `body` where a text is
    not all of the answer; the `text` of a failure where there is one that was paid for; `masked`,
    the identifiers by kind that were found in what was asked, where there were any; `route`, where
    it was sent and why, where there was a choice: its cost is that of all calls of the row then;
    `degraded` and `age_s` (seconds) where the provider was down.
    """
    result, request, usage = call.result, call.request, call.usage
    name = {"id": request.id, "index": request.index}
    counts = request.masked.counts if request.masked else {}
    masked = {"masked": dict(counts)} if counts else {}
    key = {"call_id": request.call_id, "request_hash": request.row_key}
    cost: dict[str, Any] = {"cost_usd": dollars(call.row_cost), **_route(result.route)}
    if (made := result.summary) is not None:
        cost["summarised"] = {"chunks": made.chunks, "cost_usd": dollars(made.cost)}
    if isinstance(result, CallError):
        paid = {} if result.text is None else {"text": result.text}
        error = {"error": result.fields, **paid, "attempts": result.attempts}
        return {**name, **error, **key, **cost, **masked}
    more: dict[str, Any] = {"tool_calls": result.tool_calls, "citations": result.citations}
    if result.body is not None and (request.wants_body or result.beyond_text):
        more["body"] = _one_line(result.body)
    repeated = {} if request.kept is None else {"input": dict(request.kept)}
    return {
        **name,
        "text": result.text,
        "parsed": result.parsed,
        "profile": result.target.profile,
        "provider": result.target.provider,
        "model": result.model,
        "finish_reason": result.finish,
        "usage": {
            "input_tokens": usage.input,
            "output_tokens": usage.output,
            "cached_input_tokens": usage.cached_input,
            "cache_write_tokens": usage.cache_write,
            "reasoning_tokens": usage.reasoning,
            "estimated": usage.estimated,
        },
        **cost,
        "cache": result.cache,
        **semantic_source(result),
        **({"degraded": result.degraded} if result.degraded else {}),
        **({} if result.age is None else {"age_s": round(result.age)}),
        "attempts": result.attempts,
        "latency_ms": round(result.latency * 1000),
        **key,
        "tags": dict(request.tags),
        **masked,
        **({"engine": "provider"} if call.in_batch else {}),
        **repeated,
        **{name: value for name, value in more.items() if value},
    }


def _route(route: RouteDecision | None) -> dict[str, Any]:
    """What a row says of where it was sent."""
    if route is None:
        return {}
    score = None if route.score is None else round(route.score, 4)
    said = {"to": route.to, "by": route.by, "score": score, "checked": route.checked or None}
    return {"route": said}


def semantic_source(answer: Answer) -> dict[str, Any]:
    """Where the answer of another question came from, as the row says it."""
    if answer.cache != "semantic" and not answer.source:
        return {}
    score = None if answer.score is None else round(answer.score, 4)
    return {"cache_score": score, "cache_source": answer.source}


def dollars(cost: Decimal | None) -> orjson.Fragment | None:
    """A JSON number with exactly the amount's digits; None when it is unknown."""
    if cost is None:
        return None
    return orjson.Fragment(format((cost or Decimal(0)).normalize(), "f"))


def _openai(call: CallRecord) -> dict[str, Any]:
    """OpenAI's batch result line (platform.openai.com/docs/api-reference/batch).

    Its `id` holds the request hash: the next run knows by it what was asked. An answer whose own
    body was not kept (it came as a stream) becomes a chat completion.
    """
    request, result, usage = call.request, call.result, call.usage
    error: dict[str, Any] | None = None
    body: Any
    if isinstance(result, CallError):
        error = {"code": result.row_type, "message": result.message}
        if result.text is not None:
            error["text"] = result.text
        body = {"error": {**error, "type": result.row_type, "param": None}}
        status = result.http_status
    else:
        status = result.status
        # OpenAI knows no reason `other`; a client's enum would refuse it.
        finish = "stop" if result.finish == "other" else result.finish
        message: dict[str, Any] = {"role": "assistant", "content": result.text}
        if result.tool_calls:
            message["tool_calls"] = result.tool_calls
        body = {
            "id": f"chatcmpl-{request.call_id}",
            "object": "chat.completion",
            "created": int(call.started),
            "model": result.model,
            "choices": [{"index": 0, "message": message, "finish_reason": finish}],
            "usage": {
                "prompt_tokens": usage.input,
                "completion_tokens": usage.output,
                "total_tokens": usage.input + usage.output,
            },
        }
        if result.body is not None:
            body = _one_line(result.body)
    answered_as = result.provider_request_id or request.call_id
    response = {"status_code": status, "request_id": answered_as, "body": body}
    return {
        "id": OPENAI_ID + request.row_key,
        "custom_id": request.id,
        "response": None if status is None else response,
        "error": error,
    }


def _one_line(body: bytes) -> orjson.Fragment:
    """The body, byte for byte but for line breaks, which in JSON only stand between tokens."""
    return orjson.Fragment(body.strip().replace(b"\r", b" ").replace(b"\n", b" "))


def _mended(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, dict):
        return {_mended(name): _mended(item) for name, item in value.items()}
    return [_mended(item) for item in value] if isinstance(value, list | tuple) else value


AnswerLine = tuple[str, bytes, int]
"""An answer's id, the first 16 bytes of its request's fingerprint, and where its line begins."""

_LIMIT = 4 * MAX_LINE  # an answer holds the provider's body, and its text once more
_START = b'{"id":'
_FIELDS: dict[Format, tuple[str, str, str, type]] = {
    "llmctl": ("id", "request_hash", "text", str),
    "openai": ("custom_id", "id", "response", dict),
}
"""The fields of an answer's id, its request's fingerprint and its content, with that one's type."""


class OutputScan:
    """One reading of an OUTPUT, or of its errors file: gives its answers, or failures; `torn` is
    then the bytes of a half-written last line, 0 where there is none, and `lines` how many come
    before it. `failure` is the type of the failure given last. `since`: bytes and lines before
    what is read.

    Raises `InputError` naming the line for any other damage and for lines of another format.
    """

    def __init__(
        self,
        reader: BinaryIO,
        path: Path,
        format: Format,
        *,
        errors: bool = False,
        since: Mark = START,
    ) -> None:
        self._reader = reader
        self._path = path
        self._format: Format = format
        self._errors = errors
        self._start, self.lines = since
        self.torn = 0
        self.failure = ""

    def __iter__(self) -> Iterator[AnswerLine]:
        start = self._start
        while line := self._reader.readline(_LIMIT):
            if not line.isspace():
                try:
                    row = orjson.loads(line)
                    name, digest = _identify(row, self._format, errors=self._errors)
                    if self._errors:
                        error = row["error"]
                        self.failure = error["type" if self._format == "llmctl" else "code"]
                except (KeyError, TypeError, ValueError, AttributeError) as error:
                    if _is_torn(line, error, self._reader):
                        self.torn = len(line)
                        return
                    what = _complaint(line, error, self._format)
                    raise InputError(
                        f"{self._path}:{self.lines + 1}: {what}: nothing was sent; name another "
                        "output with -o, or start over with --restart"
                    ) from error
                yield name, digest, start
            start += len(line)
            self.lines += 1


def _is_torn(line: bytes, error: Exception, reader: BinaryIO) -> bool:
    """Whether a line that could not be read is the last one, of a write that was interrupted.

    That leaves the beginning of a line of ours, or zeros. Anything else may be a file that was
    named by mistake: not ours to cut.
    """
    ours = line[: len(_START)] == _START[: len(line)] or not line.strip(b"\0\n")
    return isinstance(error, orjson.JSONDecodeError) and ours and not reader.read(1)


def _identify(row: Any, format: Format, *, errors: bool = False) -> tuple[str, bytes]:
    """The id and digest of an answer, or of a failure. Raises anything for a row that is none in
    this format."""
    name, key, content, kind = _FIELDS[format]
    if errors:
        content, kind = "error", dict
    digest = row[key].removeprefix(OPENAI_ID)
    if type(row[name]) is not str or type(row[content]) is not kind or len(digest) != 64:
        raise KeyError
    return row[name], bytes.fromhex(digest[:32])


def _complaint(line: bytes, error: Exception, format: Format) -> str:
    """Why a line cannot be an answer."""
    if isinstance(error, orjson.JSONDecodeError):
        return f"damaged ({error.msg})"
    other: Format = "openai" if format == "llmctl" else "llmctl"
    with contextlib.suppress(KeyError, TypeError, ValueError, AttributeError):
        _identify(orjson.loads(line), other)
        return f"written with --format {other}"
    return "not an answer that llmctl wrote"


def repair(output: LockedFile, torn: int) -> None:
    """Cut off the `torn` bytes of a half-written last line, or give a whole one its line feed.

    Durable on return. Raises `DiskError`.
    """
    if torn or not output.size:
        output.truncate(output.size - torn)
        return
    with disk("mend", output.path), output.reader() as reader:
        reader.seek(-1, os.SEEK_END)
        if reader.read(1) != b"\n":
            # No object is the beginning of another: the answer is whole, and paid for.
            write_all(output.fd, b"\n")
            sync_file(output.fd)


def reorder(output: LockedFile, starts: Iterable[int]) -> None:
    """Rewrite the output with its lines in the order of `starts`, atomically.

    The file at `output.path` is a new one then: the lock on the old one protects nothing any
    more. Raises `DiskError`, with the output as it was.
    """
    with disk("read", output.path), output.reader() as old:
        mode = stat.S_IMODE(os.fstat(output.fd).st_mode)
        with replacing(output.path, mode=mode) as new:
            for start in starts:
                old.seek(start)
                new.write(old.readline())


def drop_failures(errors: ErrorsFile, answered: Callable[[str], bool], format: Format) -> None:
    """Remove the failures of rows that are `answered` by now, atomically. Raises `DiskError`."""
    path = errors.file.path
    with disk("read", path), errors.file.reader() as old:
        failed = [name for name, _, _ in OutputScan(old, path, format, errors=True)]
        if not any(map(answered, failed)):
            return
        old.seek(0)
        kept = [line for name, line in zip(failed, old, strict=False) if not answered(name)]
    with disk("write to", path):
        errors.file.truncate(0)
        write_all(errors.file.fd, b"".join(kept))
        sync_file(errors.file.fd)


def write_table(output: Path, path: Path) -> None:
    """Write the rows of `output` as CSV to `path`, atomically; a column for every field, named
    `usage.input_tokens` where it is inside another. Raises `DiskError`."""

    def rows() -> Iterator[dict[str, Any]]:
        with output.open("rb") as lines:
            for line in lines:
                if not line.isspace():
                    yield dict(_cells(orjson.loads(line)))

    with disk("read", output):
        columns = list(dict.fromkeys(name for row in rows() for name in row))
        with replacing(path, mode=stat.S_IMODE(output.stat().st_mode)) as file:
            text = io.TextIOWrapper(file, "utf-8", newline="")
            writer = csv.DictWriter(text, columns, lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows())
            text.detach()


def _cells(row: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """A row's fields, and one level of those inside: lists and deeper objects as JSON."""
    for name, value in row.items():
        inside = value if isinstance(value, dict) and name != "body" else {}
        fields = [(f"{name}.{key}", item) for key, item in inside.items()]
        for key, item in fields if inside else [(name, value)]:
            if isinstance(item, dict | list | bool):
                yield key, orjson.dumps(item).decode()
            elif isinstance(item, str) and item.startswith(("=", "+", "-", "@", "\t", "\r")):
                yield key, f"'{item}"  # a spreadsheet would take it for a formula
            else:
                yield key, item


def append(file: LockedFile, data: bytes) -> None:
    """Write to the end of the file and sync.

    After a failure (`DiskError`) the file ends with the last complete append, as far as the disk
    lets us. A failed sync is as final as a failed write: the system may have thrown the data away,
    and would report the next sync as a success. A file that was moved gets the data before that is
    an error: it was paid for.
    """
    length = file.size
    try:
        write_all(file.fd, data)
        sync_file(file.fd)
    except OSError as error:
        with contextlib.suppress(OSError):
            os.ftruncate(file.fd, length)
        raise disk_error(error, "write to", file.path) from error
    file.check_in_place()


class ErrorsFile(AbstractContextManager["ErrorsFile"]):
    """The errors file of a run, locked while it is open, and removed at the end if it is empty.
    What an earlier run wrote stays until `clear`. `shared`: the lock is a group's, and the file
    holds what others of it wrote.

    Raises `InputError` for a file that llmctl did not write, `BusyError`, and `DiskError`.
    """

    def __init__(self, path: Path, *, shared: bool = False) -> None:
        foreign = InputError(
            f"{path}, where rows that fail are written, holds something else: move it away, or "
            "name another output with -o"
        )
        if path.exists() and not path.is_file():
            raise foreign
        self._shared = shared
        self.file = LockedFile.open(path, private=False, shared=shared)
        with ExitStack() as stack:
            stack.push(self)
            with disk("read", path), self.file.reader() as reader:
                if not shared and not _holds_errors(reader):
                    raise foreign
            stack.pop_all()

    def clear(self) -> None:
        """Throw away what an earlier run wrote. Raises `DiskError`."""
        if self.file.size:
            self.file.truncate(0)

    def share(self) -> bool:
        """Share the lock from now on; see `LockedFile.relock`. Raises `DiskError`."""
        self._shared = True
        return self.file.relock(shared=True)

    def __exit__(self, *_: object) -> None:
        with self.file, contextlib.suppress(DiskError):  # an empty file more is no harm
            empty = self.file.fd >= 0 and not self.file.size
            if empty and (not self._shared or self.file.relock(shared=False)):
                self.file.check_in_place()
                with disk("remove", self.file.path):
                    self.file.path.unlink()


def _holds_errors(reader: BinaryIO) -> bool:
    """Whether the file holds nothing but rows that failed, of either format."""
    while line := reader.readline(_LIMIT):
        if line.isspace():
            continue
        try:
            row = orjson.loads(line)
            key = row["request_hash"] if "request_hash" in row else row["id"]
            if len(key.removeprefix(OPENAI_ID)) != 64 or not isinstance(row["error"], dict):
                return False
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            return _is_torn(line, error, reader)
    return True


def write_stream(fd: int, name: str, data: bytes) -> None:
    """Write lines of JSON to a pipe or a terminal, unsynced, waiting for its reader.

    Raises `BrokenPipeError` when the reader has gone, `DiskError` when what stands behind it is
    full; `name` is what the message calls it.
    """
    if os.isatty(fd):
        data = printable_json(data.decode()).encode()
    rest = memoryview(data)
    while rest:
        try:
            rest = rest[os.write(fd, rest) :]
        except BlockingIOError:  # whoever made the pipe made it non-blocking
            select.select([], [fd], [])
        except BrokenPipeError:
            raise
        except OSError as error:
            raise disk_error(error, "write to", name) from error


class LineWriter:
    """Appends the lines of many tasks by `commit`, in the order they came, in groups.

    One thread commits what has come together while it was busy with the lines before, so that a
    sync (about a millisecond) serves many lines. The first failure is final: it goes to everyone
    who waits and to every later `append`.
    """

    def __init__(self, commit: Callable[[bytes], None]) -> None:
        self._commit = commit
        self._queue: SimpleQueue[tuple[bytes, asyncio.Future[None]] | None] = SimpleQueue()
        self._failure: Exception | None = None
        # A daemon: a disk or a pipe that hangs must not keep the program from ending.
        start(threading.Thread(target=self._work, name="llmctl-output", daemon=True))

    async def append(self, line: bytes) -> None:
        """Return when the line is committed; raise what made that impossible."""
        if self._failure is not None:
            raise self._failure
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue.put((line, done))
        await done

    async def close(self) -> None:
        """Commit what waits, then end the thread."""
        with contextlib.suppress(Exception):  # whoever appended has heard of it
            await self.append(b"")
        self._queue.put(None)

    def _work(self) -> None:
        while (item := self._queue.get()) is not None:
            group = [item]
            while not self._queue.empty() and (item := self._queue.get()) is not None:
                group.append(item)
            data = b"".join([line for line, _ in group])
            if data and self._failure is None:
                try:
                    self._commit(data)
                except Exception as error:  # noqa: BLE001 - those who wait must hear of it
                    self._failure = error
            waiting = [done for _, done in group]
            with contextlib.suppress(RuntimeError):  # the loop may be gone: then nobody waits
                waiting[0].get_loop().call_soon_threadsafe(_resolve, waiting, self._failure)
            if item is None:
                return


def _resolve(waiting: Iterable[asyncio.Future[None]], failure: Exception | None) -> None:
    for done in waiting:
        if not done.done():  # else cancelled
            done.set_exception(failure) if failure else done.set_result(None)


Writers = tuple[Callable[[bytes], None], Callable[[bytes], None]]
"""What appends lines to the output, and to the errors file; durable on return."""


class BatchOutput:
    """An observer that writes every call's line to `output`, or to `errors` if it failed.

    Durable on return. Without an output the lines go to stdout and stderr. With `restart` what the
    output holds is thrown away, once something was sent. `writers` append to both files where those
    are a group's. Raises `DiskError` or `BrokenPipeError`.
    """

    def __init__(
        self,
        output: LockedFile | None,
        errors: ErrorsFile | None,
        format: Format,
        *,
        restart: bool = False,
        writers: Writers | None = None,
    ) -> None:
        self._format: Format = format
        self._output = output
        self._files = [output, None if errors is None else errors.file]
        self.to_truncate = restart and output is not None
        if writers is not None:
            write_answers, write_errors = writers
        elif output is None or errors is None:
            write_answers, write_errors = (
                partial(write_stream, 1, "stdout"),
                partial(write_stream, 2, "stderr"),
            )
        else:
            errors.clear()
            sync_folder(output.path.parent)  # a file whose name is lost is lost
            write_answers, write_errors = partial(append, output), partial(append, errors.file)
        self._answers = LineWriter(write_answers)
        self._errors = LineWriter(write_errors)

    async def __call__(self, call: CallRecord) -> None:
        """Append the line of the call."""
        result = call.result
        if isinstance(result, Answer) or result.sent:
            self.start_over()
        await (self._answers if call.ok else self._errors).append(record(call, self._format))

    def start_over(self) -> None:
        """Throw away what the output holds, where that was asked for, once."""
        if self.to_truncate and self._output:
            self.to_truncate = False
            self._output.truncate(0)

    def check_in_place(self) -> None:
        """Raise `DiskError` when one of the files was removed or replaced."""
        for file in self._files:
            if file is not None:
                file.check_in_place()

    async def flush(self) -> None:
        """Return when what waits is committed; raises what made that impossible."""
        await asyncio.gather(self._answers.append(b""), self._errors.append(b""))

    async def close(self) -> None:
        """Commit what waits."""
        await self._answers.close()
        await self._errors.close()
