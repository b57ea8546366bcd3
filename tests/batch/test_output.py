"""Output of a batch: durable appending, line shapes, repair of a torn end, file names."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Awaitable, Callable
from decimal import Decimal
from functools import partial
from pathlib import Path

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmctl.batch import output
from llmctl.batch.output import (
    ErrorsFile,
    Format,
    LineWriter,
    OutputScan,
    append,
    check_output,
    default_output,
    dollars,
    errors_path,
    lines_path,
    record,
    repair,
    write_stream,
)
from llmctl.errors import (
    BadResponse,
    BusyError,
    ConnectionFailed,
    DiskError,
    InputError,
    RateLimited,
    ServerFailed,
)
from llmctl.storage.files import LockedFile, sync_file
from llmctl.types import CallRecord, RawRequest

Ended = Callable[..., CallRecord]
FORMATS: tuple[Format, ...] = ("llmctl", "openai")


class Disk:
    """A disk that keeps a diary, and fails when told to.

    `synced` is what a power failure would leave of the file.
    """

    def __init__(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.path = path
        self.diary: list[str] = []
        self.synced = b""
        self.failing = ""
        self.go = threading.Event()
        self.go.set()
        monkeypatch.setattr(output, "write_all", self.write)
        monkeypatch.setattr(output, "sync_file", self.sync)

    def write(self, fd: int, data: bytes) -> None:
        """Take the data, or half of it."""
        self.go.wait()
        self.diary.append("write")
        if self.failing == "write":
            os.write(fd, data[: len(data) // 2])
            raise OSError(28, "No space left on device")
        os.write(fd, data)

    def sync(self, fd: int) -> None:
        """Make what was written last."""
        self.diary.append("sync")
        if self.failing == "sync":
            raise OSError(28, "No space left on device")
        sync_file(fd)
        self.synced = self.path.read_bytes()


Use = Callable[[Callable[[LineWriter, Disk], Awaitable[None]]], Disk]


@pytest.fixture
def use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Use:
    """Run work with a writer to a file on a disk of its own."""

    def run(work: Callable[[LineWriter, Disk], Awaitable[None]]) -> Disk:
        disk = Disk(tmp_path / "x", monkeypatch)

        async def main() -> None:
            with LockedFile.open(disk.path) as file:
                writer = LineWriter(partial(append, file))
                await work(writer, disk)
                await writer.close()

        asyncio.run(main())
        return disk

    return run


def test_synced_before_it_returns(use: Use) -> None:
    """When `append` returns, the line would survive a power failure."""

    async def work(writer: LineWriter, disk: Disk) -> None:
        for n in range(5):
            await writer.append(b"%d\n" % n)
            assert disk.synced.endswith(b"%d\n" % n)

    assert use(work).diary == ["write", "sync"] * 5


def test_lines_are_grouped(use: Use) -> None:
    """Lines of many tasks that come while the disk is busy share one write and one sync, in order;
    a cancelled `append` disturbs nobody else."""

    async def work(writer: LineWriter, disk: Disk) -> None:
        disk.go.clear()
        tasks = [asyncio.ensure_future(writer.append(b"%d\n" % n)) for n in range(500)]
        await asyncio.sleep(0)
        tasks[1].cancel()
        disk.go.set()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert isinstance(results.pop(1), asyncio.CancelledError)
        assert results == [None] * 499
        assert disk.synced == b"".join(b"%d\n" % n for n in range(500))

    assert use(work).diary.count("sync") <= 2


@pytest.mark.parametrize("when", ["write", "sync"])
def test_the_disk_fails(use: Use, when: str) -> None:
    """When the disk refuses, all who wait and all who come later hear it; the file ends with
    what was durable before, and neither write nor sync is tried again."""

    async def work(writer: LineWriter, disk: Disk) -> None:
        await writer.append(b"good\n")
        disk.failing = when
        done = await asyncio.gather(
            *(writer.append(b"bad\n") for _ in range(9)), return_exceptions=True
        )
        assert all(isinstance(error, DiskError) and error.exit_code == 74 for error in done)
        assert disk.path.read_bytes() == b"good\n"
        before, disk.failing = list(disk.diary), ""
        with pytest.raises(DiskError, match=f"cannot write to {disk.path}: the disk is full"):
            await writer.append(b"later\n")
        assert disk.diary == before

    assert use(work).path.read_bytes() == b"good\n"


def test_errors_file(tmp_path: Path, ended: Ended) -> None:
    """Case 61: the errors of an earlier run stay until they are cleared; the file is made by the
    umask, locked while it is open, and gone at the end if it is empty."""
    path = tmp_path / "x.errors.jsonl"
    lines = [record(ended("a", error=ServerFailed("no")), kind) for kind in FORMATS]
    before = os.umask(0o027)
    try:
        with ErrorsFile(path):
            assert path.stat().st_mode & 0o777 == 0o640
            with pytest.raises(BusyError):
                ErrorsFile(path)
    finally:
        os.umask(before)
    assert not path.exists()
    for line in (*lines, lines[0] + lines[1] + lines[0][:9]):
        path.write_bytes(line)
        with ErrorsFile(path):
            pass
        assert path.read_bytes() == line
    with ErrorsFile(path) as errors:
        errors.clear()
    assert not path.exists()


@pytest.mark.parametrize(
    "content",
    [
        b"notes\n",
        b'{"id": "a", "prompt": "Hi"}\n',
        b'{"error": {"message": "mine"}}\n',
        b'{"id": "batch_req_1", "custom_id": "a", "error": {"code": "x"}}\n',
        b"[1]\n",
        b"\xff",
    ],
)
def test_a_foreign_errors_file(tmp_path: Path, content: bytes) -> None:
    """Case 61: what llmctl did not write there is left as it is, answers of llmctl, too."""
    path = tmp_path / "x.errors.jsonl"
    path.write_bytes(content)
    with pytest.raises(InputError, match="holds something else"):
        ErrorsFile(path)
    assert path.read_bytes() == content


@pytest.mark.parametrize("format", FORMATS)
def test_answers_are_no_errors(tmp_path: Path, ended: Ended, format: Format) -> None:
    """Case 61: an output that is called as another one's errors file loses no answer."""
    path = tmp_path / "x.errors.jsonl"
    path.write_bytes(record(ended("a", body=b"{}"), format))
    with pytest.raises(InputError, match="holds something else"):
        ErrorsFile(path)
    path.unlink()
    path.mkdir()
    with pytest.raises(InputError, match="holds something else"):
        ErrorsFile(path)


def test_stdout() -> None:
    """Lines for stdout go out whole and in order, however small the pipe is."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)  # as a terminal's other user may have left it
    found: list[bytes] = []

    def read() -> None:
        while piece := os.read(reading, 1000):
            found.append(piece)

    reader = threading.Thread(target=read)
    reader.start()
    lines = [b"%d " % n * 9000 + b"\n" for n in range(20)]

    async def main() -> None:
        sink = LineWriter(partial(write_stream, writing, "stdout"))
        await asyncio.gather(*(sink.append(line) for line in lines))
        await sink.close()

    asyncio.run(main())
    os.close(writing)
    reader.join()
    os.close(reading)
    assert b"".join(found) == b"".join(lines)


def test_a_reader_that_has_gone() -> None:
    """Once nobody reads stdout any more, every `append` says so."""
    reading, writing = os.pipe()
    os.close(reading)

    async def main() -> None:
        sink = LineWriter(partial(write_stream, writing, "stdout"))
        for _ in range(2):
            with pytest.raises(BrokenPipeError):
                await sink.append(b"x\n")
        await sink.close()

    asyncio.run(main())
    os.close(writing)


def test_an_answer(ended: Ended) -> None:
    """An output row has the contract's fields in the contract's order, and ends its line."""
    call = ended("a", 4)
    line = record(call, "llmctl")
    assert line == (
        b'{"id":"a","index":4,"text":"answer to Hi","parsed":null,"profile":"fast",'
        b'"provider":"openai","model":"gpt-5-mini-2026-05-01","finish_reason":"stop",'
        b'"usage":{"input_tokens":312,"output_tokens":48,"cached_input_tokens":5,'
        b'"cache_write_tokens":6,"reasoning_tokens":7,"estimated":false},"cost_usd":0.00021,'
        b'"cache":"miss","attempts":1,"latency_ms":912,"call_id":"01J","request_hash":"'
        + call.request.fingerprint.encode()
        + b'","tags":{"team":"x"}}\n'
    )


def test_an_error(ended: Ended) -> None:
    """An error row has the contract's fields in the contract's order."""
    error = RateLimited("slow down", http_status=429, provider_request_id="req")
    error.attempts = 3
    call = ended("a", 4, error=error, cost=None)
    assert record(call, "llmctl") == (
        b'{"id":"a","index":4,"error":{"type":"rate_limited","message":"slow down",'
        b'"http_status":429,"retryable":true,"provider_request_id":"req"},"attempts":3,'
        b'"call_id":"01J","request_hash":"'
        + call.request.fingerprint.encode()
        + b'","cost_usd":null}\n'
    )


@pytest.mark.parametrize(
    ("cost", "text"),
    [
        ("0.00021", "0.00021"),
        ("1E-9", "0.000000001"),
        ("12.50", "12.5"),
        ("100", "100"),
        ("1E+3", "1000"),
        ("0E-7", "0"),
        ("-0", "0"),
        ("0.1234567890123456789012", "0.1234567890123456789012"),
    ],
)
def test_money_is_exact(cost: str, text: str) -> None:
    """A cost is a JSON number with exactly its digits."""
    assert orjson.dumps(dollars(Decimal(cost))) == text.encode()


PRETTY = (
    b'{\r\n  "choices": [{"logprob": -0.10, "n": 1e2, "t": "a\\nb\xe2\x80\xa8"}],\n'
    b' "big": 1e400\n}\n'
)


def test_a_raw_row_keeps_its_body(ended: Ended) -> None:
    """A row that was passed through carries the provider's body, number for number."""
    line = record(ended(raw=RawRequest("/chat/completions", {}), body=PRETTY), "llmctl")
    assert line.count(b"\n") == 1
    assert line.endswith(
        b'"body":' + PRETTY.strip().replace(b"\r", b" ").replace(b"\n", b" ") + b"}\n"
    )
    assert b'"body"' not in record(ended(body=PRETTY), "llmctl")
    assert b'"body"' not in record(ended(raw=RawRequest("/chat/completions", {})), "llmctl")


def test_openai_answer(ended: Ended) -> None:
    """An OpenAI result line has the provider's body as it came, and remembers the question."""
    call = ended("a", body=b'{"id":"x", "v":1.50}', provider_request_id="req")
    assert record(call, "openai") == (
        b'{"id":"batch_req_' + call.request.fingerprint.encode() + b'","custom_id":"a",'
        b'"response":{"status_code":200,"request_id":"req","body":{"id":"x", "v":1.50}},'
        b'"error":null}\n'
    )


def test_openai_answer_without_body(ended: Ended) -> None:
    """An answer whose body was not kept (a cached stream) becomes a chat completion."""
    body = orjson.loads(record(ended("a", finish="other"), "openai"))["response"]["body"]
    assert body["object"] == "chat.completion"
    assert body["choices"][0]["message"] == {"role": "assistant", "content": "answer to Hi"}
    assert body["usage"] == {"prompt_tokens": 312, "completion_tokens": 48, "total_tokens": 360}


def test_openai_errors(ended: Ended) -> None:
    """A failure is OpenAI's error line: with the provider's status where there was one."""
    refused = orjson.loads(record(ended(error=BadResponse("no", http_status=200)), "openai"))
    assert refused["response"]["status_code"] == 200
    assert refused["response"]["body"]["error"]["message"] == "no"
    assert refused["error"] == {"code": "bad_response", "message": "no"}
    lost = orjson.loads(record(ended(error=ConnectionFailed("gone")), "openai"))
    assert lost["response"] is None
    assert lost["error"] == {"code": "connection", "message": "gone"}


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(st.characters(codec=None), max_size=20))  # halves of surrogate pairs included
def test_any_text(ended: Ended, text: str) -> None:
    """Whatever a provider says, the row is one line of valid JSON."""
    line = record(ended(text=text, parsed={text: [text]}), "llmctl")
    assert line.count(b"\n") == 1
    read = orjson.loads(line)["text"]
    assert read == text or any("\ud800" <= c <= "\udfff" for c in text)


def read(path: Path, format: Format = "llmctl") -> tuple[int, int]:
    """How many answers the file holds, and how many bytes were cut off."""
    with LockedFile.open(path) as file:
        with file.reader() as reader:
            scan = OutputScan(reader, path, format)
            answers = len(list(scan))
        repair(file, scan.torn)
        return answers, scan.torn


def three(ended: Ended, format: Format) -> list[bytes]:
    """Three answers as lines."""
    return [record(ended(x, prompt="é \u2028", body=b'{"a":1}'), format) for x in "abc"]


@pytest.mark.parametrize("format", FORMATS)
def test_torn_anywhere(tmp_path: Path, ended: Ended, format: Format) -> None:
    """Wherever the last line was torn, the file is mended to whole lines and reads clean again;
    an answer that is whole but for its line feed is kept."""
    path = tmp_path / "out.jsonl"
    *before, last = three(ended, format)
    whole = b"".join(before)
    for length in range(len(last) + 1):
        path.write_bytes(whole + last[:length])
        kept = length >= len(last) - 1
        assert read(path, format) == ((3, 0) if kept else (2, length)), length
        assert path.read_bytes() == (whole + last if kept else whole)
        assert read(path, format) == (3 if kept else 2, 0)


def test_other_torn_ends(tmp_path: Path, ended: Ended) -> None:
    """Zeros that a crash left at the end are cut off, and so is half a row with a line feed."""
    path = tmp_path / "out.jsonl"
    *before, last = three(ended, "llmctl")
    for tail in (b"\0" * 5000, last[:50] + b"\n", b"\0\n"):
        path.write_bytes(b"".join(before) + tail)
        assert read(path) == (2, len(tail))
        assert path.read_bytes() == b"".join(before)


@pytest.mark.parametrize("damage", [b"{\n", b"\0\0\n", b'{"id":"a","text"\n', b"\xff\n", b"[\n"])
def test_damage_in_the_middle(tmp_path: Path, ended: Ended, damage: bytes) -> None:
    """Damage before the last line stops the run with its line number, and nothing is changed."""
    path = tmp_path / "out.jsonl"
    one, two, last = three(ended, "llmctl")
    content = one + two + damage + last
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"out\.jsonl:3: damaged .* --restart"):
        read(path)
    assert path.read_bytes() == content


@pytest.mark.parametrize(
    "content",
    [
        b'{"id":"a","index":0,"error":{"type":"server"}}\n',
        b"notes",
        b"notes\n",
        b"{}",
        b'{"id":"a"}\n',
        b"[1]\n",
        b"5\n",
        b'{"a": 1',
        b'{"id":5,"text":"","request_hash":"' + b"0" * 64 + b'"}\n',
        b'{"id":"a","text":"","request_hash":"xy"}\n',
    ],
)
def test_somebody_elses_file(tmp_path: Path, content: bytes) -> None:
    """A file that llmctl did not write is never cut or continued."""
    path = tmp_path / "out.jsonl"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"out\.jsonl:1: "):
        read(path)
    assert path.read_bytes() == content


@pytest.mark.parametrize(("has", "wants"), [FORMATS, FORMATS[::-1]])
def test_the_other_format(tmp_path: Path, ended: Ended, has: Format, wants: Format) -> None:
    """An output of one format is not continued in the other: the message names both ways out."""
    path = tmp_path / "out.jsonl"
    path.write_bytes(b"".join(three(ended, has)))
    with pytest.raises(InputError, match=f"out.jsonl:1: written with --format {has}"):
        read(path, wants)


@given(st.binary(max_size=80), st.booleans())
def test_any_bytes(
    tmp_path_factory: pytest.TempPathFactory,
    data: bytes,
    start: bool,  # noqa: FBT001
) -> None:
    """Whatever a file holds, it is read, mended or refused, and reads the same again."""
    path = tmp_path_factory.mktemp("any") / "out.jsonl"
    path.write_bytes(b'{"id":' + data if start else data)
    try:
        first = read(path)
    except InputError:
        return
    assert read(path) == (first[0], 0)


@pytest.mark.parametrize(
    ("input", "output", "errors"),
    [
        ("data.jsonl", "data.out.jsonl", "data.out.errors.jsonl"),
        ("data.jsonl.gz", "data.out.jsonl", "data.out.errors.jsonl"),
        ("/x/ROWS.CSV", "/x/ROWS.out.jsonl", "/x/ROWS.out.errors.jsonl"),
        ("a.b.jsonl", "a.b.out.jsonl", "a.b.out.errors.jsonl"),
        (".jsonl", ".jsonl.out.jsonl", ".jsonl.out.errors.jsonl"),
        ("-", "-", "-.errors.jsonl"),
    ],
)
def test_names(input: str, output: str, errors: str) -> None:
    """The answers go beside the input, under its name, those of stdin to stdout; the errors stand
    beside the answers, whatever those are called."""
    assert default_output(input) == output
    assert errors_path(Path(output)) == Path(errors)


@pytest.mark.parametrize(
    ("output", "lines"),
    [("x.jsonl", "x.jsonl"), ("x.csv", "x.jsonl"), ("in.csv", "in.out.jsonl"), ("-", "-")],
)
def test_the_lines_of_a_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, output: str, lines: str
) -> None:
    """Case 45: the lines of a table stand beside it, and never in the input."""
    monkeypatch.chdir(tmp_path)
    Path("in.jsonl").write_bytes(b"")
    assert lines_path("in.jsonl", output) == lines


@pytest.mark.parametrize(
    ("output", "says"),
    [
        ("in.jsonl", "overwrite the input"),
        ("./link.jsonl", "overwrite the input"),
        ("hard.jsonl", "overwrite the input"),
        ("in.x.jsonl", "overwrite the input as in.x.errors.jsonl"),
        (".", "it is a folder"),
        ("x.jsonl.gz", "ends in .jsonl or .csv"),
        ("x.json", "ends in .jsonl or .csv"),
        ("x", "ends in .jsonl or .csv"),
        ("in.csv/x.csv", "create it first"),
        ("no/x.jsonl", "create it first"),
        ("pipe", "not a regular file"),
        ("/dev/null", "not a regular file"),
        ("nul\0", "cannot write to"),
    ],
)
def test_bad_outputs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, output: str, says: str
) -> None:
    """An output that cannot serve, or is the input under any name, is refused in one sentence."""
    monkeypatch.chdir(tmp_path)
    Path("in.jsonl").write_bytes(b"")
    Path("in.x.errors.jsonl").symlink_to("in.jsonl")  # what an earlier run wrote may be the input
    Path("link.jsonl").symlink_to("in.jsonl")
    Path("hard.jsonl").hardlink_to("in.jsonl")
    os.mkfifo("pipe")
    with pytest.raises(InputError, match=says) as caught:
        check_output("in.jsonl", output)
    assert "\n" not in caught.value.message
