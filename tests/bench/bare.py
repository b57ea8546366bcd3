"""The fewest lines that answer a file of prompts, for comparison: `bare.py HOW URL FILE TASKS`.

HOW is `aiohttp`, `aiohttp-uvloop` or `litellm`. Needs nothing of this package, so that any
interpreter can run it; prints its rows a second and the seconds of processor each took.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

MODEL = "gpt-5-mini"
Ask = Callable[[str], Coroutine[Any, Any, str]]


async def _aiohttp(url: str, tasks: int, drive: Callable[[Ask], Coroutine[Any, Any, None]]) -> None:
    import aiohttp

    headers = {"authorization": "Bearer x"}
    connector = aiohttp.TCPConnector(limit=tasks)
    async with aiohttp.ClientSession(connector=connector, headers=headers) as session:

        async def ask(prompt: str) -> str:
            body = {"model": MODEL, "messages": [{"role": "user", "content": prompt}]}
            async with session.post(url + "/chat/completions", json=body) as reply:
                answer = await reply.json()
                return str(answer["choices"][0]["message"]["content"])

        await drive(ask)


async def _litellm(url: str, _: int, drive: Callable[[Ask], Coroutine[Any, Any, None]]) -> None:
    import litellm

    litellm.suppress_debug_info = True

    async def ask(prompt: str) -> str:
        messages = [{"role": "user", "content": prompt}]
        answer = await litellm.acompletion(
            model=f"openai/{MODEL}", messages=messages, api_base=url, api_key="x"
        )
        return str(answer.choices[0].message.content)

    await drive(ask)


async def _main(how: str, url: str, prompts: list[str], tasks: int) -> None:
    async def drive(ask: Ask) -> None:
        await ask("warm up")
        left, answered = iter(prompts), 0

        async def worker() -> None:
            nonlocal answered
            for prompt in left:
                text = await ask(prompt)
                answered += bool(text)

        start, before = time.perf_counter(), time.process_time()
        await asyncio.gather(*(worker() for _ in range(tasks)))
        took, spent = time.perf_counter() - start, time.process_time() - before
        assert answered == len(prompts)
        print(json.dumps({"rate": answered / took, "processor": spent / answered}))

    await (_litellm if how == "litellm" else _aiohttp)(url, tasks, drive)


if __name__ == "__main__":
    how, url, file, tasks = sys.argv[1:5]
    run: Callable[[Coroutine[Any, Any, None]], None] = asyncio.run
    if how.endswith("uvloop"):
        import uvloop

        run = uvloop.run
    with Path(file).open(encoding="utf-8") as lines:
        prompts = [json.loads(line)["prompt"] for line in lines]
    run(_main(how, url, prompts, int(tasks)))
