"""What llmctl is compared with: `peers.py NAME URL FILE TASKS`, NAME aiohttp, litellm or curator.

The fewest lines that answer a file of prompts. Needs nothing of this package, so that any
interpreter can run it; prints its rows a second.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

_MODEL = "gpt-5-mini"
Ask = Callable[[str], Awaitable[str]]


async def _aiohttp(url: str, tasks: int, prompts: list[str]) -> float:
    import aiohttp

    connector = aiohttp.TCPConnector(limit=tasks)
    headers = {"authorization": "Bearer x"}
    async with aiohttp.ClientSession(connector=connector, headers=headers) as session:

        async def ask(prompt: str) -> str:
            body = {"model": _MODEL, "messages": [{"role": "user", "content": prompt}]}
            async with session.post(url + "/chat/completions", json=body) as reply:
                answer = await reply.json()
                return str(answer["choices"][0]["message"]["content"])

        return await _drive(ask, tasks, prompts)


async def _litellm(url: str, tasks: int, prompts: list[str]) -> float:
    import litellm

    litellm.suppress_debug_info = True

    async def ask(prompt: str) -> str:
        messages = [{"role": "user", "content": prompt}]
        answer = await litellm.acompletion(
            model=f"openai/{_MODEL}", messages=messages, api_base=url, api_key="x"
        )
        return str(answer.choices[0].message.content)

    return await _drive(ask, tasks, prompts)


async def _drive(ask: Ask, tasks: int, prompts: list[str]) -> float:
    """Rows a second of so many loops over one list."""
    await ask("warm up")
    left, answered = iter(prompts), 0

    async def worker() -> None:
        nonlocal answered
        for prompt in left:
            text = await ask(prompt)
            answered += bool(text)

    start = time.perf_counter()
    await asyncio.gather(*(worker() for _ in range(tasks)))
    assert answered == len(prompts)
    return answered / (time.perf_counter() - start)


def _curator(url: str, tasks: int, prompts: list[str]) -> float:
    os.environ.update(
        OPENAI_API_KEY="x",
        TELEMETRY_ENABLED="false",
        HF_HUB_OFFLINE="1",
        CURATOR_DISABLE_CACHE="1",
        CURATOR_DISABLE_RICH_DISPLAY="1",
        CURATOR_CACHE_DIR=str(Path.cwd() / "curator"),
    )
    from bespokelabs import curator

    llm: Any = curator.LLM(
        model_name=_MODEL,
        backend="openai",
        backend_params={
            "base_url": url,
            "max_concurrent_requests": tasks,
            "max_requests_per_minute": 100_000_000,
            "max_tokens_per_minute": 100_000_000_000,
        },
    )
    start = time.perf_counter()
    answered = llm(prompts)
    took = time.perf_counter() - start
    assert len(getattr(answered, "dataset", answered)) == len(prompts)
    return len(prompts) / took


def main() -> None:
    """Measure one."""
    name, url, file, tasks = sys.argv[1:5]
    with Path(file).open(encoding="utf-8") as lines:
        prompts = [json.loads(line)["prompt"] for line in lines]
    if name == "curator":
        rate = _curator(url, int(tasks), prompts)
    else:
        peer = _litellm if name == "litellm" else _aiohttp
        rate = asyncio.run(peer(url, int(tasks), prompts))
    print(json.dumps({"rate": rate}))


if __name__ == "__main__":
    main()
