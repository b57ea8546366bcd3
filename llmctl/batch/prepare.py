"""All that happens before the first row is sent, and that needs no provider."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from msgspec import Struct

from llmctl.batch.answers import Format, scan
from llmctl.batch.check import compare, validate
from llmctl.batch.index import Index, Joined
from llmctl.batch.places import check_output, default_output, errors_path
from llmctl.batch.read import Source
from llmctl.batch.rows import Reader
from llmctl.config.settings import Profile
from llmctl.request import compose
from llmctl.storage.lock import LockedFile
from llmctl.types import CacheMode, Request


class Job(Struct, frozen=True):
    """What a batch is asked to do. `output` None: the default beside the input; `limit`: only
    the first rows; `restart`: throw away what the output holds."""

    input: str
    output: str | None
    reader: Reader
    profile: Profile
    format: Format = "llmctl"
    limit: int | None = None
    ordered: bool = False
    restart: bool = False
    cache_mode: CacheMode = "use"


class Prepared(Struct, frozen=True):
    """A job whose input is valid and whose output is locked and whole.

    `rows` counts the input rows of this run, `skipped` those of them answered before, `strange`
    the answers in the output that belong to no row, `torn` the bytes of a half-written last
    line that were cut off. `output` is None for stdout.
    """

    job: Job
    source: Source
    index: Index
    output: LockedFile | None
    answered: Joined | None
    torn: int

    @property
    def rows(self) -> int:
        """Input rows of this run."""
        size = self.index.size
        return size if self.job.limit is None else min(size, self.job.limit)

    @property
    def skipped(self) -> int:
        """Rows of this run that have their answer already."""
        if self.answered is None:
            return 0
        if self.rows == self.index.size:
            return len(self.answered.answered)
        return sum(row in self.answered.answered for row in range(self.rows))

    @property
    def strange(self) -> int:
        """Answers in the output that belong to no row of the input."""
        return self.answered.strangers if self.answered else 0

    @property
    def errors(self) -> Path | None:
        """Where the rows that fail are written; None: stderr."""
        return errors_path(self.output.path) if self.output else None

    def requests(self, call_id: Callable[[], str]) -> Iterator[Request]:
        """The rows that have no answer yet, in input order, each with a call id of its own;
        drawn one by one."""
        job = self.job
        skip = self.answered.answered if self.answered else ()
        for row in job.reader.rows(self.source, skip):
            if row.index >= self.rows:
                return
            yield compose(
                row.question,
                job.profile,
                id=row.id,
                index=row.index,
                cache_mode=job.cache_mode,
                call_id=call_id(),
            )


@contextmanager
def prepared(job: Job) -> Iterator[Prepared]:
    """Check the input, lock and mend the output, and find what is answered already.

    Raises `InputError`, `BusyError` and `DiskError`. An output that was created for nothing is
    removed again.
    """
    with ExitStack() as stack:
        path = check_output(job.input, job.output or default_output(job.input))
        source = stack.enter_context(Source.open(job.input))
        index = stack.enter_context(validate(source, job.reader, job.profile))
        if path is None:
            yield Prepared(job, source, index, None, None, 0)
            return
        output = stack.enter_context(LockedFile.open(path))
        try:
            if job.restart:
                output.truncate(0)
            answers = scan(output, job.format)
            with answers.index:
                joined = compare(source, job.reader, index, answers.index, path)
            yield Prepared(job, source, index, output, joined, answers.torn)
        except BaseException:
            output.leave_no_trace()
            raise
