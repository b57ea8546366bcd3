"""Counting against bare tiktoken, on one line: `python -m tests.bench.tokens [FILE]`."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import tiktoken

from llmctl.tokens import Counter
from llmctl.types import Message, Request, Target

TARGET = Target("bench", "openai", "openai", "https://api.openai.com/v1", "gpt-5-mini")
ROUNDS = 5
SIZE = 5_000_000
SHORT = "Is this review positive or negative? Answer with one word: I would buy it again, "


def _request(text: str, fingerprint: str = "") -> Request:
    return Request(
        id="a", target=TARGET, messages=(Message("user", text),), fingerprint=fingerprint
    )


def _best(one: Callable[[], object], other: Callable[[], object]) -> tuple[float, float]:
    """Seconds of the fastest round of each, in turns."""
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(ROUNDS):
        for work, taken in zip((one, other), times, strict=True):
            start = time.perf_counter()
            work()
            taken.append(time.perf_counter() - start)
    return min(times[0]), min(times[1])


async def _longest_gap(counter: Counter, request: Request) -> float:
    """The longest that the event loop was held up while the request was counted, in seconds."""
    longest, stopped = 0.0, asyncio.Event()

    async def tick() -> None:
        nonlocal longest
        last = time.perf_counter()
        while not stopped.is_set():
            await asyncio.sleep(0.001)
            now = time.perf_counter()
            longest, last = max(longest, now - last), now

    ticking = asyncio.create_task(tick())
    await asyncio.sleep(0.01)
    await counter.count_async(request)
    stopped.set()
    await ticking
    return longest


def main(arguments: Sequence[str]) -> None:
    """Print the line. The text is the standard library's source, or the file named."""
    files = map(Path, arguments) if arguments else sorted(Path(asyncio.__path__[0]).glob("../*.py"))
    source = "".join(file.read_text(encoding="utf-8", errors="replace") for file in files)
    code = (source * (SIZE // len(source) + 1))[:SIZE]
    counter = Counter()
    start = time.perf_counter()
    counter.load(TARGET)
    loading = time.perf_counter() - start
    bare: tiktoken.Encoding = counter._vocabularies.encoding("o200k_base")
    long = _request(code)
    texts = [f"{SHORT}{n}" for n in range(10_000)]
    rows = [_request(text) for text in texts]
    ours, theirs = _best(
        lambda: counter.count(long), lambda: len(bare.encode(code, disallowed_special=()))
    )

    def bare_short() -> list[int]:
        return [len(bare.encode(text, disallowed_special=())) for text in texts]

    short, bare_short_time = _best(lambda: [counter.count(row) for row in rows], bare_short)
    gap = asyncio.run(_longest_gap(counter, long))
    print(
        f"tokens: code {SIZE / ours / 1e6:.1f} MB/s, {theirs / ours:.2f}x bare tiktoken; "
        f"10,000 short prompts {short:.3f} s, {bare_short_time / short:.2f}x; "
        f"loading {loading:.2f} s; longest gap in the event loop for 5 MB {gap * 1000:.0f} ms"
    )


if __name__ == "__main__":
    main(sys.argv[1:])
