"""Counting tokens before sending: exact where the model's vocabulary is public, else an
estimate that leans upward and says so."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import orjson

from llmctl import vocabulary
from llmctl.errors import ContextTooLong
from llmctl.protocols import TokenCount
from llmctl.types import JSON, Message, Request, Target

_ROLES = frozenset({"system", "developer", "user", "assistant", "tool", "function"})
"""Each is one token in both vocabularies."""

_MESSAGE, _NAME, _REPLY = 3, 1, 3
"""OpenAI's published overhead: 3 tokens a message besides its role and content, 1 more for a
name, 3 that begin the reply (cookbook.openai.com, "How to count tokens with tiktoken")."""

_OTHER_MESSAGE, _OTHER_PROMPT = 8, 40
"""The same for models whose chat template is not known, leaning upward: SmolLM2, Qwen and
Llama 3 need 4 to 6 a message, and put 20 to 30 tokens of their own before the first."""

_HARMONY_MESSAGE, _HARMONY_PROMPT = 8, 70
"""The same for gpt-oss: its Harmony format (github.com/openai/harmony) begins with a system
message of its own, 61 tokens with the date."""

_IMAGE, _IMAGE_ORIGINAL, _IMAGE_4O_MINI = 5_000, 12_000, 48_169
"""Upper-leaning tokens of an image, whatever its size. Most: Claude 4,784; GPT models 3,779 by
patches, 1,445 by tiles; with `detail: original` 10,000 patches times 1.2; gpt-4o-mini counts
2,833 + 8 tiles of 5,667 (platform.openai.com, "Images and vision"; platform.claude.com,
"Vision")."""

_AUDIO_CHARACTERS, _FILE_CHARACTERS, _UNSEEN_FILE = 64, 4, 50_000
"""Characters of base64 to a token: for audio 32 tokens a second (Gemini's rate, the highest) at
a thrifty 16 kbit/s; for files between a page of text and a scanned one. A file that is only
named counts as 50,000."""

_DEFINITIONS = ("tools", "functions", "response_format", "text", "output_config")
"""Parameters that become part of the prompt."""

_UNSEEN = ("previous_response_id", "conversation", "prompt")
"""What makes a `/responses` prompt longer than its body."""

_SOON = vocabulary.CHUNK
"""Characters that may be counted on the event loop: about 5 ms."""

_REMEMBERED = 256
"""How many counts of long requests are kept, so that nobody counts one twice."""


@dataclass(slots=True)
class _Prompt:
    """A request taken apart: texts to count, tokens that need no counting, and whether their
    sum is what the provider will count."""

    texts: list[str] = field(default_factory=list)
    messages: int = 0
    images: int = 0
    fixed: int = 0
    exact: bool = True

    def add_json(self, value: object) -> None:
        """Something the provider renders in its own way: counted as its JSON."""
        self.texts.append(orjson.dumps(value, default=str).decode())
        self.exact = False

    def add_message(self, message: Message) -> None:
        self.messages += 1
        if message.role in _ROLES:
            self.fixed += 1
        else:
            self.texts.append(message.role)
        if isinstance(message.content, str):
            self.texts.append(message.content)
        else:
            for part in message.content or ():
                self.add_part(part)
        for key, value in message.extra.items():
            if key == "name" and isinstance(value, str):
                self.fixed += _NAME
                self.texts.append(value)
            elif value is not None:
                self.add_json(value)

    def add_part(self, part: JSON) -> None:
        kind, text = str(part.get("type", "")), part.get("text")
        if isinstance(text, str) and kind.endswith("text"):
            self.texts.append(text)
        elif "image" in kind:
            image = part.get("image_url")
            detail = image.get("detail") if isinstance(image, Mapping) else part.get("detail")
            self.images += 1
            self._add_fixed(_IMAGE_ORIGINAL - _IMAGE if detail == "original" else 0)
        elif "audio" in kind:
            self._add_fixed(1_000 + _longest(part) // _AUDIO_CHARACTERS)
        elif "file" in kind or "document" in kind:
            size = _longest(part)
            small = size < 1_000  # an id or an address
            self._add_fixed(_UNSEEN_FILE if small else _IMAGE + size // _FILE_CHARACTERS)
        else:
            self.add_json(part)

    def _add_fixed(self, tokens: int) -> None:
        self.fixed += tokens
        self.exact = False

    def uncounted(self, model: str) -> int:
        """The tokens of what is not text."""
        each = _IMAGE_4O_MINI if "4o-mini" in model else _IMAGE
        return self.fixed + self.images * each


def _longest(value: object) -> int:
    """The length of the longest string in it: that is the data."""
    if isinstance(value, str):
        return len(value)
    if isinstance(value, Mapping):
        return max(map(_longest, value.values()), default=0)
    return 0


def _take_apart(request: Request) -> _Prompt:
    prompt, raw = _Prompt(), request.raw
    path = "/chat/completions" if raw is None else raw.path.partition("?")[0].rstrip("/")
    body: JSON = request.options if raw is None else raw.body
    if path.endswith("/chat/completions"):
        for message in request.messages or _messages(body.get("messages")):
            prompt.add_message(message)
    elif path.endswith("/embeddings"):
        _add_inputs(prompt, body.get("input"))
        return prompt
    elif path.endswith("/responses"):
        prompt.exact = False  # OpenAI publishes no overhead for these
        if isinstance(body.get("instructions"), str):
            prompt.add_message(Message("system", body["instructions"]))
        asked = body.get("input")
        said = [{"role": "user", "content": asked}] if isinstance(asked, str) else asked
        for message in _messages(said):
            prompt.add_message(message)
    elif path.endswith("/completions"):
        _add_inputs(prompt, body.get("prompt"))
        return prompt
    else:
        prompt.add_json({key: value for key, value in body.items() if key != "model"})
        return prompt
    for key in _DEFINITIONS:
        if body.get(key):
            prompt.add_json(body[key])
    return prompt


def _messages(value: object) -> Iterable[Message]:
    """OpenAI-shaped turns; what has no role (a tool's result, say) counts as its JSON."""
    for item in value if isinstance(value, list | tuple) else ():
        if not isinstance(item, Mapping):
            continue
        content = item.get("content")
        if "role" not in item or not isinstance(content, str | list | tuple | None):
            yield Message("tool", None, {"item": dict(item)})
            continue
        extra = {k: v for k, v in item.items() if k not in {"role", "content", "type", "id"}}
        parts = (
            content
            if isinstance(content, str)
            else tuple(part for part in content or () if isinstance(part, Mapping))
        )
        yield Message(str(item["role"]), parts, extra)


def _add_inputs(prompt: _Prompt, value: object) -> None:
    """Plain text, tokens, or a list of either."""
    if isinstance(value, str):
        prompt.texts.append(value)
    elif isinstance(value, list | tuple):
        prompt.fixed += sum(isinstance(item, int) for item in value)
        for item in value:
            _add_inputs(prompt, item)


def max_output(request: Request) -> int | None:
    """The most tokens one answer may have, or None where only the model limits it."""
    body: JSON = request.options if request.raw is None else request.raw.body
    if request.raw is not None and request.raw.path.rstrip("/").endswith("/embeddings"):
        return 0
    if request.raw is None and request.max_tokens is not None:
        return request.max_tokens
    for key in ("max_completion_tokens", "max_output_tokens", "max_tokens"):
        if isinstance(body.get(key), int):
            return int(body[key])
    return None


class Counter:
    """Counts requests. `cache` is the program's cache folder (see `Vocabularies`).

    Nothing here touches the network. The first count with a vocabulary loads it, 0.1 to 0.2 s,
    of which up to 90 ms hold the GIL: `load` does that at a better moment.
    """

    def __init__(self, cache: Path) -> None:
        self._vocabularies = vocabulary.Vocabularies(cache)
        self._long: dict[str, TokenCount] = {}

    def load(self, target: Target) -> None:
        """Load what counting for the target needs. Raises `SetupError`."""
        self._vocabularies.encoding(_counted_with(target.model))

    def count(self, request: Request) -> TokenCount:
        """The tokens of the request's input. Raises `SetupError`."""
        if known := self._long.get(request.fingerprint):
            return known
        prompt, model = _take_apart(request), request.target.model
        name = vocabulary.encoding_name(model)
        tokens, exact = self._texts(model, prompt.texts)
        tokens += prompt.uncounted(model)
        if name is None:
            tokens += prompt.messages * _OTHER_MESSAGE + _OTHER_PROMPT
        elif prompt.messages and name == "o200k_harmony":
            tokens += prompt.messages * _HARMONY_MESSAGE + _HARMONY_PROMPT
            exact = False
        elif prompt.messages:
            tokens += prompt.messages * _MESSAGE + _REPLY
        counted = TokenCount(tokens, exact and prompt.exact, name or "estimate")
        if request.fingerprint and sum(map(len, prompt.texts)) > _SOON:
            if len(self._long) >= _REMEMBERED:
                self._long.clear()
            self._long[request.fingerprint] = counted
        return counted

    async def count_async(self, request: Request) -> TokenCount:
        """The same, without holding the event loop up: long prompts, and the loading of a
        vocabulary, go to a thread. Afterwards `count` knows a long request's answer."""
        name = _counted_with(request.target.model)
        long = sum(map(len, _take_apart(request).texts)) > _SOON
        if long or not self._vocabularies.loaded(name):
            return await asyncio.to_thread(self.count, request)
        return self.count(request)

    def count_text(self, target: Target, text: str) -> int:
        """The tokens of an answer's text. Raises `SetupError`."""
        return self._texts(target.model, [text])[0] if text else 0

    def _texts(self, model: str, texts: Iterable[str]) -> tuple[int, bool]:
        encoding = self._vocabularies.encoding(_counted_with(model))
        if vocabulary.encoding_name(model) is None:
            factor = 1.3 if "claude" in model.lower() else 1.0
            return sum(vocabulary.estimate(encoding, text, factor) for text in texts), False
        total, exact = 0, True
        for text in texts:
            tokens, whole = vocabulary.count(encoding, text)
            total += tokens
            exact = exact and whole
        return total, exact

    def upper_bound(self, request: Request) -> int:
        """No less than `count`, without a vocabulary: a token for every byte."""
        prompt = _take_apart(request)
        frame = prompt.messages * _HARMONY_MESSAGE + _HARMONY_PROMPT
        fixed = prompt.uncounted(request.target.model) + frame
        return fixed + sum(map(vocabulary.most, prompt.texts))

    def context_window(self, target: Target) -> int | None:
        """The model's window in tokens: the profile's, else the one published where the
        target's address is that of a known provider, else None. The first look-up takes 0.2 s."""
        if target.context is not None:
            return target.context
        from genai_prices.data_snapshot import get_snapshot

        try:
            _, model = get_snapshot().find_provider_model(
                target.model, None, None, target.base_url.lower()
            )
        except LookupError:
            return None
        return model.context_window

    def check_fits(self, request: Request, counted: TokenCount, window: int) -> None:
        """Raises `ContextTooLong` when the request cannot fit the window.

        An estimate leans upward, so it refuses nothing by itself: the request must be too long
        by the leanest vocabulary known too. A list of inputs is left to the provider, whose
        window is for each of them.
        """
        output = max_output(request)
        if counted.tokens + (output or 0) <= window or _is_list(request):
            return
        if not counted.exact:
            prompt = _take_apart(request)
            if sum(map(vocabulary.least, prompt.texts)) + (output or 0) <= window:
                return
        about = "" if counted.exact else "about "
        asked = f" and asks for up to {output} more (max_tokens)" if output else ""
        lower = ", lower max_tokens" if output else ""
        target = request.target
        raise ContextTooLong(
            f"the prompt has {about}{counted.tokens} tokens{asked}, but {target.model} has room "
            f"for {window}: shorten the prompt{lower}, choose a model with a larger window, or "
            f"correct `context` in profile {target.profile}",
            sent=False,
        )


def _counted_with(model: str) -> str:
    return vocabulary.encoding_name(model) or vocabulary.ESTIMATE_BASE


def _is_list(request: Request) -> bool:
    raw = request.raw
    if raw is None:
        return False
    given = raw.body.get("input") if raw.path.endswith("/embeddings") else raw.body.get("prompt")
    return isinstance(given, list | tuple) and not all(isinstance(item, int) for item in given)
