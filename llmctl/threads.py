"""Threads that run before they are needed: one that cannot start stops nothing half-way."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Barrier, Thread
from typing import TypeVar

from llmctl.errors import SetupError

T = TypeVar("T")


def start(thread: Thread) -> None:
    """Start the thread. Raises `SetupError` where the system allows no more."""
    try:
        thread.start()
    except RuntimeError as error:
        raise _refused(error) from error


def in_background(work: Callable[[], T], name: str) -> Future[T]:
    """What `work` will return or raise, out of a thread that can be abandoned: what hangs in a
    library cannot be interrupted, and the end of the process does not wait for it. Raises
    `SetupError` where the system allows no more threads."""
    future: Future[T] = Future()
    future.set_running_or_notify_cancel()  # so that who gives up waiting does not take its result

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:  # noqa: BLE001 - raised where it is waited for
            future.set_exception(error)

    start(Thread(target=run, name=name, daemon=True))
    return future


async def awaited(work: Callable[[], T], name: str) -> T:
    """As `asyncio.to_thread`, by `in_background`: a command that is interrupted ends at once."""
    return await asyncio.wrap_future(in_background(work, name))


def started_pool(count: int, name: str) -> ThreadPoolExecutor:
    """A pool whose `count` threads all run. Raises `SetupError` where the system allows no more.

    A pool starts its threads when work comes; work for one that cannot start would wait for ever.
    """
    pool = ThreadPoolExecutor(count, thread_name_prefix=name)
    running = Barrier(count + 1)
    try:
        for _ in range(count):
            pool.submit(running.wait)  # in which a thread stays until all of them are there
    except RuntimeError as error:
        running.abort()
        pool.shutdown(wait=False, cancel_futures=True)
        raise _refused(error) from error
    running.wait()
    return pool


def start_executor(count: int) -> None:
    """Give the running event loop an executor whose `count` threads all run. Raises `SetupError`
    where the system allows no more."""
    loop = asyncio.get_running_loop()
    loop.set_default_executor(started_pool(count, "llmctl"))

    async def wait_for_nothing(_: float | None = None) -> None:
        """Start no thread that waits for the others, as asyncio does: Python's own end waits."""

    loop.shutdown_default_executor = wait_for_nothing  # type: ignore[method-assign]


def _refused(error: RuntimeError) -> SetupError:
    return SetupError(
        f"the system lets llmctl start no more threads ({error}), nothing was sent: raise the "
        "limit (`ulimit -u`, or that of the container), then run the same command again"
    )
