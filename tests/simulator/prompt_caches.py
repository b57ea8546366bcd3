"""Prompt caches of a provider: what it keeps of prompts, and what it bills for that.

A request reads what was there when it arrived, and what it writes is there when it is answered: of
requests at one time that begin alike each writes.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from .call import Call, Json
from .reply import Usage

WRITE, READ = 1.25, 0.1  # times the price of input

_STEP = 128  # tokens: an automatic cache keeps multiples of it


@dataclass(kw_only=True)
class PromptCaches:
    """`marked`: what stands before the last `cache_control` is kept. `automatic`: the start that
    two prompts have in common. Either has `minimum` tokens at least, and is forgotten `ttl` seconds
    after its last use. `clock` is in seconds."""

    way: Literal["marked", "automatic"] = "marked"
    minimum: int = 1024
    ttl: float = 300.0
    clock: Callable[[], float] = time.monotonic
    kept: dict[str, float] = field(default_factory=dict)
    _read: dict[int, int] = field(default_factory=dict)

    def arrived(self, call: Call) -> None:
        """Look up what is kept of a request's start."""
        self._read[call.index] = self._found(call)

    def used(self, call: Call, usage: Usage) -> Usage:
        """The usage with what was read and written; what was written is there now."""
        now, read = self.clock(), self._read.pop(call.index, 0)
        text = self._text(call)
        whole = len(text) // 4
        if self.way == "automatic":
            whole -= whole % _STEP
        if whole < self.minimum:
            return usage
        self.kept[text] = now
        read = min(read, whole, usage.input)
        return replace(usage, cached=read, written=min(whole, usage.input) - read)

    def bill(self, usage: Usage) -> float:
        """The input as tokens of full price."""
        plain = usage.input - usage.cached - usage.written
        return plain + WRITE * usage.written + READ * usage.cached

    def _found(self, call: Call) -> int:
        now, text = self.clock(), self._text(call)
        best, used = 0, None
        for kept, at in self.kept.items():
            if now - at > self.ttl:
                continue
            if self.way == "marked":
                length = len(kept) // 4 if text.startswith(kept) else 0
            else:
                length = _alike(kept, text) // 4
                length -= length % _STEP
            if length > best:
                best, used = length, kept
        if best < self.minimum or used is None:
            return 0
        self.kept[used] = now
        return best

    def _text(self, call: Call) -> str:
        """The text that may be kept of a prompt."""
        body = call.body or {}
        system = body.get("system") or []
        parts = [*_parts("system", system)]
        for message in body.get("messages") or []:
            parts += _parts(message["role"], message.get("content"))
        if self.way == "marked":
            marks = [at for at, (_, marked) in enumerate(parts) if marked]
            parts = parts[: marks[-1] + 1] if marks else []
        return "".join(text for text, _ in parts)


def _parts(role: str, content: Any) -> list[tuple[str, bool]]:
    blocks: list[Json] = [{"text": content}] if isinstance(content, str) else content or []
    return [
        (f"{role if not at else ''}{block.get('text', '')}", "cache_control" in block)
        for at, block in enumerate(blocks)
    ]


def _alike(left: str, right: str) -> int:
    """How many characters two texts begin with in common."""
    at = 0
    for at, (one, other) in enumerate(zip(left, right, strict=False)):
        if one != other:
            return at
    return at + 1
