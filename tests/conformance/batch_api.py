"""What every batch interface does, over the program's own endpoint to a loopback provider.

A new family passes when a subclass of `BatchApiSuite` passes.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import pytest

from llmctl.auth.key_auth import FixedKey, KeyAuth
from llmctl.clock import SystemClock
from llmctl.config.settings import Timeouts
from llmctl.errors import (
    BadResponse,
    CallError,
    ContextTooLong,
    InvalidRequest,
    NotFound,
    ServerFailed,
)
from llmctl.http import HttpClient
from llmctl.protocols import Codec, WireRequest
from llmctl.providers.batch_api import (
    BatchApi,
    BatchPart,
    BatchResult,
    BatchStatus,
    FileNotVisible,
)
from llmctl.providers.endpoint import Endpoint
from llmctl.providers.registry import batch_api, codec
from llmctl.types import Message, Request, Target, Usage
from tests.conformance.codec import KEY, Loop
from tests.simulator import errors
from tests.simulator.batches import Action, Fate, LostAnswer
from tests.simulator.fault import Fault
from tests.simulator.faults import Body, Disconnect, empty, html
from tests.simulator.reply import Problem
from tests.simulator.scripts import fail_first
from tests.simulator.server import Simulator
from tests.simulator.wires.registry import BASES

T = TypeVar("T")
HAND = Fate(progress="hand")
NONSENSE: Mapping[str, Fault] = {
    "empty": empty(),
    "page": html(),
    "null": Body(body=b"null"),
    "other": Body(body=b'{"object":"canary-prompt"}'),
    "cut": Body(body=b'{"id":"canary-prompt","sta'),
}


@dataclass
class Client:
    """A provider's `BatchClient`: the program's endpoint."""

    base_url: str
    codec: Codec
    http: HttpClient

    async def exchange(self, wire: WireRequest) -> tuple[Mapping[str, str], bytes]:
        """See `BatchClient`."""
        end = Endpoint(
            codec=self.codec,
            http=self.http,
            base_url=self.base_url,
            auth=KeyAuth(self.codec.auth, FixedKey(KEY)),
            timeouts=Timeouts(connect=5, first_byte=5, total=10),
            clock=SystemClock(),
            estimate=lambda _, text: Usage(output=len(text), estimated=True),
            heard=lambda _: None,
        )
        return await end.exchange(wire)


@dataclass
class Submitted:
    """A part, and the batch that was made of it."""

    part: BatchPart
    id: str


@dataclass
class Wired:
    """One batch interface, wired to a simulator as the program does it."""

    adapter: str
    sim: Simulator
    loop: Loop
    folder: Path
    parts: int = 0
    api: BatchApi = field(init=False)
    codec: Codec = field(init=False)
    client: Client = field(init=False)

    def __post_init__(self) -> None:
        """Make the interface, its codec and its client."""
        api = batch_api(self.adapter)
        assert api is not None
        self.api, self.codec = api, codec(self.adapter)
        base_url = self.sim.origin + BASES[self.adapter]
        self.client = Client(base_url, self.codec, self.loop.http)

    def run(self, verb: Coroutine[Any, Any, T]) -> T:
        """What comes of it."""
        return self.loop.runner.run(verb)

    def request(self, prompt: str, **options: Any) -> Request:
        """A request of one user turn."""
        base_url = self.client.base_url
        target = Target("test", self.adapter, self.adapter, base_url, "sim-small")
        turn = Message("user", prompt)
        return Request(id="a", target=target, messages=(turn,), max_tokens=50, options=options)

    def line(self, call_id: str, request: Request, *, stream: bool = False) -> bytes:
        """Its line in a batch."""
        wire = self.codec.encode(request, stream=stream)
        return self.api.line(call_id, wire, request)

    def part(self, *prompts: str) -> BatchPart:
        """A part of rows with these prompts; `call_id(n)` is the id of the n-th."""
        self.parts += 1
        path = self.folder / f"part-{self.parts}.jsonl"
        ids = [call_id(number) for number in range(len(prompts))]
        requests = [self.request(prompt) for prompt in prompts]
        lines = [self.line(*pair) for pair in zip(ids, requests, strict=True)]
        joined = self.api.limits(self.client.base_url).separator.join(lines)
        path.write_bytes(joined)
        return BatchPart(
            f"01JINTENT{self.parts:017d}",
            lambda: path.open("rb"),
            len(joined),
            len(prompts),
            self.codec.encode(requests[0], stream=False).path,
            "sim-small",
            time.time(),
            frozenset(ids),
        )

    def create(self, part: BatchPart) -> str:
        """Upload it, where that is done, and make a batch."""
        file = self.run(self.api.upload(self.client, part))
        return self.run(self.api.create(self.client, part, file))

    def submit(self, *prompts: str) -> Submitted:
        """A batch of rows with these prompts."""
        part = self.part(*prompts)
        return Submitted(part, self.create(part))

    def status(self, made: Submitted) -> BatchStatus:
        """What the provider says of it now."""
        return self.run(self.api.status(self.client, made.id))

    def end(self, made: Submitted) -> BatchStatus:
        """Poll until it has ended."""
        for _ in range(20):
            if (now := self.status(made)).ended:
                return now
        raise AssertionError(now)

    def files(self, status: BatchStatus) -> list[bytes]:
        """Its downloads."""
        return [self.run(self.client.exchange(wire))[1] for wire in status.downloads]

    def rows(self, status: BatchStatus) -> list[BatchResult]:
        """All results as they stand in the files."""
        return [row for file in self.files(status) for row in self.api.results(io.BytesIO(file))]

    def results(self, status: BatchStatus) -> dict[str, BatchResult]:
        """All results; a row that comes twice is a failure."""
        found = self.rows(status)
        assert len({row.call_id for row in found}) == len(found)
        return {row.call_id: row for row in found}

    def answered(self, result: BatchResult) -> str:
        """The text of a row's answer, as the codec reads it."""
        return self.codec.decode(result.status, {}, result.body).text


def call_id(number: int) -> str:
    """The id of a row's call, as long as a ULID."""
    return f"01JROW{number:020d}"


def cities(count: int) -> list[str]:
    """Prompts that are all different."""
    return [f"city {number} canary-prompt" for number in range(count)]


class BatchApiSuite:
    """Subclasses give `adapter`, and what their provider does not have; their module has the
    fixture `loop`."""

    adapter: ClassVar[str]
    uploads: ClassVar[bool] = True
    cancels: ClassVar[bool] = True
    refuses: ClassVar[bool] = True
    """Whether a batch can fail as a whole."""
    tells_usage: ClassVar[bool] = True
    tells_queue: ClassVar[bool] = True
    """Whether a batch is refused late, with the limit, because too many tokens are queued."""

    @pytest.fixture
    def wired(self, loop: Loop, tmp_path: Path) -> Iterator[Wired]:
        """The interface at a simulator of its own."""
        with Simulator(keys=[KEY]) as sim:
            yield Wired(self.adapter, sim, loop, tmp_path)

    def set(self, wired: Wired, *fates: Fate, **settings: Any) -> None:
        """How the provider treats batches from now on."""
        for name, value in settings.items():
            setattr(wired.sim.batch, name, value)
        wired.sim.batch.fates = fates or (Fate(),)

    def test_every_row_is_answered_and_billed_once(self, wired: Wired) -> None:
        """Each row's result is the reply that the call alone would have been given; counts and
        usage are those of the bill."""
        made = wired.submit(*cities(7))
        status = wired.end(made)
        found = wired.results(status)
        assert found.keys() == made.part.call_ids
        for number, prompt in enumerate(cities(7)):
            result = found[call_id(number)]
            assert (result.status, wired.answered(result)) == (200, f"echo: {prompt}")
        assert (status.total, status.done, status.failed) == (7, 7, 0)
        assert (status.problem, status.cancelled, status.queue_full) == ("", False, False)
        bill = wired.sim.batches.billed
        assert (bill.requests, bill.repeated) == (7, 0)
        assert (status.usage is not None) is self.tells_usage
        if status.usage is not None:
            usage = (status.usage.input, status.usage.output)
            assert usage == (bill.input_tokens, bill.output_tokens)

    def test_a_batch_that_goes_on_has_not_ended(self, wired: Wired) -> None:
        """Until its end a batch is none that is over, whatever its word."""
        self.set(wired, Fate(progress="hand", to_end=4))
        made = wired.submit("hi")
        for _ in range(4):
            assert not wired.status(made).ended
            wired.sim.batches.advance()
        assert wired.status(made).ended

    def test_rows_that_failed(self, wired: Wired) -> None:
        """An error row is the error of the call alone, and the others have their answers."""
        faults = {
            "row 1": errors.context_too_long(),
            "row 2": errors.server_error(),
        }

        def fault(call: Any) -> Fault | None:
            return next((f for p, f in faults.items() if p in call.prompt), None)

        self.set(wired, Fate(row=fault))
        found = wired.results(wired.end(wired.submit("row 0", "row 1", "row 2")))
        assert wired.answered(found[call_id(0)]) == "echo: row 0"
        for number, kind in ((1, ContextTooLong), (2, ServerFailed)):
            result = found[call_id(number)]
            assert result.status >= 400
            error = wired.codec.failure(result.status, {}, result.body)
            assert isinstance(error, kind), error

    def test_every_row_failed(self, wired: Wired) -> None:
        """Such a batch was not refused: each row has its error."""
        self.set(wired, Fate(row=errors.context_too_long()))
        status = wired.end(wired.submit("a", "b"))
        assert (status.problem, status.failed) == ("", 2)
        assert all(result.status >= 400 for result in wired.results(status).values())

    def test_an_expired_batch_holds_what_was_paid(self, wired: Wired) -> None:
        """Rows that were done have their answers; the others no reply, or no result."""
        self.set(wired, Fate(expire_after=3))
        status = wired.end(wired.submit(*cities(8)))
        found = wired.results(status).values()
        answers = [result for result in found if result.status]
        assert len(answers) == wired.sim.batches.billed.requests == 3
        assert all(wired.answered(result).startswith("echo: ") for result in answers)
        assert (status.problem, status.cancelled) == ("", False)

    def test_a_cancelled_batch(self, wired: Wired) -> None:
        """It ends as cancelled, with the rows that were answered; cancelling it twice, or when it
        is over, changes nothing."""
        if not self.cancels:
            pytest.skip("this provider ends no batch early")
        self.set(wired, Fate(progress="hand", to_end=10, late=2))
        made = wired.submit(*cities(10))
        wired.sim.batches.advance(5)
        for _ in range(2):
            wired.run(wired.api.cancel(wired.client, made.id))
        assert not wired.status(made).ended
        wired.sim.batches.finish()
        status = wired.status(made)
        assert (status.ended, status.cancelled) == (True, True)
        wired.run(wired.api.cancel(wired.client, made.id))
        found = [result for result in wired.results(status).values() if result.status]
        assert len(found) == wired.sim.batches.billed.requests == 7

    def test_cancelling_what_is_not_there(self, wired: Wired) -> None:
        """It is told, and so is asking for it."""
        with pytest.raises(NotFound):
            wired.run(wired.api.status(wired.client, "batch_none"))
        if self.cancels:
            with pytest.raises(NotFound):
                wired.run(wired.api.cancel(wired.client, "batch_none"))

    @pytest.mark.parametrize("fault", [Disconnect(), LostAnswer()], ids=["broken", "500"])
    def test_a_batch_whose_answer_was_lost_is_found(self, wired: Wired, fault: Fault) -> None:
        """Nothing is found before it was made; afterwards it is."""
        self.set(wired, HAND, faults={"create": fail_first(1, fault)})
        part = wired.part(*cities(3))
        find = wired.api.find
        assert wired.run(find(wired.client, part)) == ()
        with pytest.raises(CallError):
            wired.create(part)
        wired.submit("another")
        assert wired.run(find(wired.client, part)) == (wired.sim.batches.jobs[0].id,)

    def test_a_batch_is_found_behind_many(self, wired: Wired) -> None:
        """It may stand on any page of the list; pages of older batches are not asked for."""
        self.set(wired, HAND)
        made = wired.submit("a", "b")
        other = wired.part("another")
        for _ in range(130):
            wired.create(other)
        assert wired.run(wired.api.find(wired.client, made.part)) == (made.id,)
        late = BatchPart(
            "01JNONE", made.part.open, 1, 2, made.part.wire_path, "sim-small", time.time() + 3600
        )
        before = len(wired.sim.calls)
        assert wired.run(wired.api.find(wired.client, late)) == ()
        assert len(wired.sim.calls) == before + 1

    def test_a_refused_batch_says_why(self, wired: Wired) -> None:
        """It has ended, with the provider's words, and nothing to download."""
        if not self.refuses:
            pytest.skip("no batch fails as a whole here")
        self.set(wired, Fate(invalid=Problem("Line 3 is a poem", code="invalid_json_line")))
        status = wired.end(wired.submit("hi"))
        assert "Line 3 is a poem" in status.problem
        assert (status.downloads, status.queue_full) == ((), False)

    def test_a_full_queue(self, wired: Wired) -> None:
        """Too many queued tokens are told apart from other refusals, with the limit."""
        if not self.tells_queue:
            pytest.skip("a full queue is told at once, or not at all")
        self.set(wired, HAND, Fate(), queue_tokens=1_000)
        wired.submit("x" * 3_900)
        status = wired.end(wired.submit("x" * 3_900))
        assert (status.queue_full, status.queue_limit) == (True, 1_000)
        assert status.problem

    def test_a_file_that_is_not_visible_yet(self, wired: Wired) -> None:
        """That is told apart from other refusals, and the next attempt may succeed."""
        if not self.uploads:
            pytest.skip("nothing is uploaded")
        self.set(wired, HAND, invisible=1)
        part = wired.part("hi")
        file = wired.run(wired.api.upload(wired.client, part))
        with pytest.raises(FileNotVisible):
            wired.run(wired.api.create(wired.client, part, file))
        assert wired.run(wired.api.create(wired.client, part, file))

    def test_another_refusal_is_none_of_visibility(self, wired: Wired) -> None:
        """Create passes the provider's error on."""
        refusal = errors.status(400, "no batches for you")
        self.set(wired, HAND, faults={"create": fail_first(1, refusal)})
        with pytest.raises(InvalidRequest, match="no batches for you") as caught:
            wired.submit("hi")
        assert not isinstance(caught.value, FileNotVisible)

    def test_a_word_that_nobody_knows(self, wired: Wired) -> None:
        """With an end or results beside it the batch is over."""
        self.set(wired, Fate(word="partially_done"))
        status = wired.end(wired.submit("hi"))
        assert wired.answered(wired.results(status)[call_id(0)]) == "echo: hi"

    @pytest.mark.parametrize("what", NONSENSE)
    @pytest.mark.parametrize("action", ["upload", "create", "poll", "list"])
    def test_nonsense(self, wired: Wired, action: Action, what: str) -> None:
        """A reply that is none of the interface's is `BadResponse`, which repeats nothing of it."""
        if action == "upload" and not self.uploads:
            pytest.skip("nothing is uploaded")
        self.set(wired, HAND)
        made = wired.submit("hi")
        self.set(wired, HAND, faults={action: NONSENSE[what]})
        asks: dict[Action, Callable[[], object]] = {
            "upload": lambda: wired.create(made.part),
            "create": lambda: wired.create(made.part),
            "poll": lambda: wired.status(made),
            "list": lambda: wired.run(wired.api.find(wired.client, made.part)),
        }
        with pytest.raises(BadResponse) as caught:
            asks[action]()
        assert "canary-prompt" not in str(caught.value)

    def test_results_that_were_cut(self, wired: Wired) -> None:
        """Wherever a file of results is cut within a row, that is told, and nothing is shown of
        it; rows before it are as they were."""
        made = wired.submit(*cities(3))
        status = wired.end(made)
        whole = wired.results(status)
        (file,) = wired.files(status)
        last = file.rstrip(b"\n").rfind(b"\n") + 1
        for end in range(last + 1, len(file.rstrip()), 7):
            found: list[BatchResult] = []
            with pytest.raises(BadResponse) as caught:
                found.extend(wired.api.results(io.BytesIO(file[:end])))
            assert "canary-prompt" not in str(caught.value)
            assert all(row == whole[row.call_id] for row in found)

    def test_replies_are_read_as_they_came(self, wired: Wired) -> None:
        """The body of a result is the provider's, byte for byte."""
        status = wired.end(wired.submit("naïve \u2028 🦜"))
        (file,) = wired.files(status)
        (result,) = wired.api.results(io.BytesIO(file))
        assert result.body in file

    def test_a_streamed_row_is_refused(self, wired: Wired) -> None:
        """No line is made for it, and nothing was sent."""
        with pytest.raises(InvalidRequest) as caught:
            wired.line(call_id(0), wired.request("hi"), stream=True)
        assert not caught.value.sent

    def test_results_are_no_promise(self, wired: Wired) -> None:
        """A row without a result, one with two, and a stranger's are read as they stand there."""
        self.set(wired, Fate(drop={1}, double={2}, unknown=1))
        status = wired.end(wired.submit(*cities(4)))
        ids = [row.call_id for row in wired.rows(status) if row.status]
        assert [ids.count(call_id(number)) for number in range(4)] == [1, 0, 2, 1]
        assert len(ids) == 5
