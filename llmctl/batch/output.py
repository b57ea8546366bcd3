"""Output of a batch: the line of a call, durable appending, repair of a torn end, file names."""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import stat
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from decimal import Decimal
from functools import partial
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, BinaryIO, Literal

import orjson

from llmctl.batch.input import MAX_LINE
from llmctl.errors import CallError, InputError
from llmctl.storage.files import (
    LockedFile,
    disk,
    disk_error,
    replacing,
    sync_file,
    sync_folder,
    write_all,
)
from llmctl.types import Answer, CallRecord

Format = Literal["llmctl", "openai"]

STDOUT = "-"


def default_output(input: str) -> str:
    """`NAME.out.jsonl` beside INPUT; stdout for stdin."""
    if input == STDOUT:
        return STDOUT
    path = Path(input)
    name = path.name
    for ending in (".jsonl.gz", ".jsonl", ".csv"):
        if name.lower().endswith(ending) and len(name) > len(ending):
            name = name[: -len(ending)]
            break
    return str(path.with_name(f"{name}.out.jsonl"))


def errors_path(output: Path) -> Path:
    """Where the rows that failed are written: `.errors.jsonl` in place of `.jsonl`."""
    name = output.name.removesuffix(".jsonl")
    return output.with_name(f"{name}.errors.jsonl")


def check_output(input: str, output: str) -> Path | None:
    """The path to write to, links followed; None for stdout.

    Raises `InputError` for one that cannot serve, or that would destroy the input.
    """
    if output == STDOUT:
        return None
    try:
        path = Path(os.path.realpath(output))
        kind = path.stat().st_mode if path.exists() else stat.S_IFREG
        folder = path.parent.is_dir()
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise InputError(f"cannot write to {output}: {why}") from error
    if stat.S_ISDIR(kind):
        raise InputError(f"the output {output} is a folder: name a file, or - for stdout")
    if not stat.S_ISREG(kind):
        raise InputError(f"the output {output} is not a regular file: use -o - for stdout")
    if path.name.lower().endswith(".gz"):
        raise InputError(f"cannot append to {output}: the output is plain .jsonl")
    if not folder:
        raise InputError(f"there is no folder {path.parent} for the output: create it first")
    for victim in (path, errors_path(path)):
        if input != STDOUT and _same(victim, Path(input)):
            raise InputError(
                f"the run would overwrite its input {input} as {victim.name}: "
                "name another output with -o"
            )
    return path


def _same(one: Path, other: Path) -> bool:
    """Whether both paths lead to one file, whatever they are called."""
    try:
        return one.samefile(other)
    except OSError:
        return os.path.realpath(one) == os.path.realpath(other)


OPENAI_ID = "batch_req_"
"""What OpenAI's batch line ids begin with; ours go on with the request hash, for resuming."""

_ZERO = orjson.Fragment("0")
_FINISH = {"other": "stop"}  # OpenAI knows no such reason; a client's enum would refuse it


def record(call: CallRecord, format: Format) -> bytes:
    """The line, with its line feed, for a call that has ended."""
    if format == "openai":
        return _line(_openai(call))
    return _line(row(call))


def row(call: CallRecord) -> dict[str, Any]:
    """The output row of an answer, or the error row of a failure, as orjson can dump it.

    A row that was passed through raw also carries the provider's `body`: tool calls and
    embeddings have no other place.
    """
    result, request = call.result, call.request
    if isinstance(result, CallError):
        return _error_row(call, result)
    usage = call.usage
    fields: dict[str, Any] = {
        "id": request.id,
        "index": request.index,
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
        "cost_usd": dollars(call.cost),
        "cache": result.cache,
        "attempts": result.attempts,
        "latency_ms": round(result.latency * 1000),
        "call_id": request.call_id,
        "request_hash": request.fingerprint,
        "tags": dict(request.tags),
    }
    if request.raw is not None and result.body is not None:
        fields["body"] = _one_line(result.body)
    return fields


def dollars(cost: Decimal | None) -> orjson.Fragment | None:
    """A JSON number with exactly the amount's digits; None when it is unknown."""
    if cost is None:
        return None
    return orjson.Fragment(format(cost.normalize(), "f")) if cost else _ZERO


def _error_row(call: CallRecord, error: CallError) -> dict[str, Any]:
    request = call.request
    return {
        "id": request.id,
        "index": request.index,
        "error": {
            "type": error.row_type,
            "message": error.message,
            "http_status": error.http_status,
            "retryable": error.retryable,
            "provider_request_id": error.provider_request_id,
        },
        "attempts": error.attempts,
        "call_id": request.call_id,
        "request_hash": request.fingerprint,
        "cost_usd": dollars(call.cost),
    }


def _openai(call: CallRecord) -> dict[str, Any]:
    """OpenAI's batch result line (platform.openai.com/docs/api-reference/batch).

    Its `id` holds the request hash: the next run knows by it what was asked.
    """
    request, result = call.request, call.result
    line = {"id": OPENAI_ID + request.fingerprint, "custom_id": request.id}
    if isinstance(result, CallError):
        failure = {"code": result.row_type, "message": result.message}
        if result.http_status is None:
            return {**line, "response": None, "error": failure}
        body: Any = {"error": {**failure, "type": result.row_type, "param": None}}
        status, request_id = result.http_status, result.provider_request_id
        error: dict[str, Any] | None = failure
    else:
        body = _one_line(result.body) if result.body is not None else _completion(call, result)
        status, request_id, error = result.status, result.provider_request_id, None
    response = {"status_code": status, "request_id": request_id or request.call_id, "body": body}
    return {**line, "response": response, "error": error}


def _completion(call: CallRecord, result: Answer) -> dict[str, Any]:
    """A chat completion for an answer whose own body was not kept (it came as a stream)."""
    usage = call.usage
    return {
        "id": f"chatcmpl-{call.request.call_id}",
        "object": "chat.completion",
        "created": int(call.started),
        "model": result.model,
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": result.text},
                "finish_reason": _FINISH.get(result.finish, result.finish),
            }
        ],
        "usage": {
            "prompt_tokens": usage.input,
            "completion_tokens": usage.output,
            "total_tokens": usage.input + usage.output,
        },
    }


def _one_line(body: bytes) -> orjson.Fragment:
    """The body, byte for byte but for line breaks, which in JSON only stand between tokens."""
    return orjson.Fragment(body.strip().replace(b"\r", b" ").replace(b"\n", b" "))


def _line(fields: dict[str, Any]) -> bytes:
    try:
        return orjson.dumps(fields, option=orjson.OPT_APPEND_NEWLINE)
    except TypeError:
        # Half a surrogate pair in a provider's text: not worth losing a paid answer for.
        return orjson.dumps(_mended(fields), option=orjson.OPT_APPEND_NEWLINE)


def _mended(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, dict):
        return {_mended(name): _mended(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_mended(item) for item in value]
    return value


_START = b'{"id":'
_LIMIT = 4 * MAX_LINE  # an answer holds the provider's body, and its text once more

AnswerLine = tuple[str, bytes, int]
"""An answer's id, the first 16 bytes of its request's fingerprint, and where its line begins."""


class OutputScan:
    """One reading of an OUTPUT: gives its answers; `torn` is then the bytes of a half-written
    last line, 0 where there is none.

    Raises `InputError` naming the line for any other damage and for lines of another format.
    """

    def __init__(self, reader: BinaryIO, path: Path, format: Format) -> None:
        self._reader = reader
        self._path = path
        self._format: Format = format
        self.torn = 0

    def __iter__(self) -> Iterator[AnswerLine]:
        identify, readline = _IDENTIFY[self._format], self._reader.readline
        start = number = 0
        while line := readline(_LIMIT):
            number += 1
            try:
                name, digest = identify(orjson.loads(line))
            except (KeyError, TypeError, ValueError) as error:
                if not line.isspace():
                    if _is_torn(line, error) and not self._reader.read(1):
                        self.torn = len(line)
                        return
                    raise InputError(_complaint(self._path, number, line, self._format)) from error
            else:
                yield name, digest, start
            start += len(line)


def repair(output: LockedFile, torn: int) -> None:
    """Cut off the `torn` bytes of a half-written last line, or give a whole one its line feed.

    Durable on return. Raises `DiskError`.
    """
    if torn:
        output.truncate(output.size - torn)
        return
    with disk("read", output.path), output.reader() as reader:
        if not output.size:
            return
        reader.seek(-1, os.SEEK_END)
        ended = reader.read(1) == b"\n"
    if not ended:
        # No object is the beginning of another: the answer is whole, and paid for.
        with disk("write to", output.path):
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


def _is_torn(line: bytes, error: Exception) -> bool:
    """Whether a last line is what an interrupted write leaves: the beginning of a line of ours,
    or zeros. Anything else may be a file that was named by mistake, and is not ours to cut."""
    if not isinstance(error, orjson.JSONDecodeError):
        return False
    return line[: len(_START)] == _START[: len(line)] or not line.strip(b"\0\n")


def _llmctl_answer(line: Any) -> tuple[str, bytes]:
    name, digest = line["id"], line["request_hash"]
    if type(name) is not str or "text" not in line or len(digest) != 64:
        raise KeyError
    return name, bytes.fromhex(digest[:32])


def _openai_answer(line: Any) -> tuple[str, bytes]:
    name, digest = line["custom_id"], line["id"]
    start = len(OPENAI_ID)
    if type(name) is not str or not line["response"] or len(digest) != start + 64:
        raise KeyError
    return name, bytes.fromhex(digest[start : start + 32])


_IDENTIFY: dict[Format, Callable[[Any], tuple[str, bytes]]] = {
    "llmctl": _llmctl_answer,
    "openai": _openai_answer,
}


def _complaint(path: Path, number: int, line: bytes, format: Format) -> str:
    """Why a line cannot be an answer, and what to do."""
    where = f"{path}:{number}"
    try:
        row = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        return (
            f"{where}: damaged ({error.msg}): nothing was sent; remove or mend that line, "
            "or start over with --restart"
        )
    other: Format = "openai" if format == "llmctl" else "llmctl"
    try:
        _IDENTIFY[other](row)
    except (KeyError, TypeError, ValueError):
        return (
            f"{where}: not an answer that llmctl wrote: nothing was sent; name another output "
            "with -o, or throw the file's content away with --restart"
        )
    return (
        f"{where}: written with --format {other}: nothing was sent; use that format again, "
        "or name another output with -o"
    )


class DurableFile:
    """The end of a locked file: what `append` has returned from is on the disk.

    After a failure the file ends with the last complete append, as far as the disk lets us. A
    failed sync is as final as a failed write, because the system may have thrown the data away,
    and would report the next sync as a success.
    """

    def __init__(
        self,
        file: LockedFile,
        *,
        write: Callable[[int, memoryview], int] = os.write,
        sync: Callable[[int], None] = sync_file,
    ) -> None:
        self._file = file
        self._write = write
        self._sync = sync
        self._length = file.size
        self._new = file.created

    def append(self, data: bytes) -> None:
        """Write and sync. Raises `DiskError`."""
        fd = self._file.fd
        try:
            rest = memoryview(data)
            while rest:
                rest = rest[self._write(fd, rest) :]
            self._sync(fd)
        except OSError as error:
            with contextlib.suppress(OSError):
                os.ftruncate(fd, self._length)
            raise disk_error(error, "write to", self._file.path) from error
        if self._new:
            sync_folder(self._file.path.parent)  # a file whose name is lost is lost
            self._new = False
        self._length += len(data)


class ErrorsFile:
    """A file that is made, locked, when the first line comes; durable like `DurableFile`.

    Opening it removes the file of an earlier run. Raises `DiskError`.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: LockedFile | None = None
        self._durable: DurableFile | None = None
        with disk("remove", path):
            path.unlink(missing_ok=True)

    def append(self, data: bytes) -> None:
        """Write and sync. Raises `DiskError`, or `BusyError` where another process has the file."""
        if self._durable is None:
            self._file = LockedFile.open(self._path)
            self._durable = DurableFile(self._file)
        self._durable.append(data)

    def close(self) -> None:
        """Give the file back."""
        if self._file is not None:
            self._file.close()


def write_stream(fd: int, name: str, data: bytes) -> None:
    """Write to a pipe or a terminal, unsynced, waiting for its reader.

    Raises `BrokenPipeError` when the reader has gone, `DiskError` when what stands behind it is
    full; `name` is what the message calls it.
    """
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


_Waiting = tuple[bytes, "asyncio.Future[None]"]


class LineWriter:
    """Appends the lines of many tasks by `commit`, in the order they came, in groups.

    One thread commits what has come together while it was busy with the lines before, so that a
    sync (about a millisecond) serves many lines. The first failure is final: it goes to everyone
    who waits and to every later `append`.
    """

    def __init__(self, commit: Callable[[bytes], None]) -> None:
        self._commit = commit
        self._queue: SimpleQueue[_Waiting | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._failure: Exception | None = None

    async def append(self, line: bytes) -> None:
        """Return when the line is committed; raise what made that impossible."""
        if self._failure is not None:
            raise self._failure
        if self._thread is None:
            # A daemon: a disk or a pipe that hangs must not keep the program from ending.
            self._thread = threading.Thread(target=self._work, name="llmctl-output", daemon=True)
            self._thread.start()
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue.put((line, done))
        await done

    async def close(self) -> None:
        """Commit what waits, then end the thread."""
        if self._thread is not None:
            with contextlib.suppress(Exception):  # whoever appended has heard of it
                await self.append(b"")
            self._queue.put(None)
            self._thread = None

    def _work(self) -> None:
        while (first := self._queue.get()) is not None:
            group = [first]
            with contextlib.suppress(Empty):
                while (item := self._queue.get_nowait()) is not None:
                    group.append(item)
                self._queue.put(None)  # the end, for the next turn
            self._commit_group(group)

    def _commit_group(self, group: Sequence[_Waiting]) -> None:
        data = b"".join([line for line, _ in group])
        if data and self._failure is None:
            try:
                self._commit(data)
            except Exception as error:  # noqa: BLE001 - whatever it is, those who wait must hear of it
                self._failure = error
        with contextlib.suppress(RuntimeError):  # the loop may be gone: then nobody waits
            group[0][1].get_loop().call_soon_threadsafe(_resolve, group, self._failure)


def _resolve(group: Sequence[_Waiting], failure: Exception | None) -> None:
    for _, done in group:
        if done.done():  # cancelled
            continue
        if failure is None:
            done.set_result(None)
        else:
            done.set_exception(failure)


class BatchOutput:
    """An observer that writes every call's line to `output`, or to its errors file if it failed.

    Durable on return. Without an output the lines go to stdout and stderr. Raises `DiskError` or
    `BrokenPipeError`.
    """

    def __init__(self, output: LockedFile | None, format: Format) -> None:
        self._format: Format = format
        self._errors_file: ErrorsFile | None = None
        if output is None:
            self._answers = LineWriter(partial(write_stream, 1, "stdout"))
            self._errors = LineWriter(partial(write_stream, 2, "stderr"))
        else:
            self._errors_file = ErrorsFile(errors_path(output.path))
            self._answers = LineWriter(DurableFile(output).append)
            self._errors = LineWriter(self._errors_file.append)

    async def __call__(self, call: CallRecord) -> None:
        """Append the line of the call."""
        await (self._answers if call.ok else self._errors).append(record(call, self._format))

    async def close(self) -> None:
        """Commit what waits, and give the errors file back."""
        try:
            await self._answers.close()
        finally:
            try:
                await self._errors.close()
            finally:
                if self._errors_file is not None:
                    self._errors_file.close()
