"""Counting tokens before sending, offline: exact where the model's vocabulary is public.

Elsewhere the count is an estimate that leans upward and says so.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from itertools import chain
from typing import TYPE_CHECKING

import orjson
from msgspec import Struct, field

from llmctl import vocabulary
from llmctl.errors import ContextTooLong
from llmctl.protocols import TokenCount
from llmctl.types import JSON, Message, RawRequest, Request, Target

if TYPE_CHECKING:
    pass

_MESSAGE, _REPLY = 3, 3
"""OpenAI's published overhead: 3 tokens a message besides its role and content, 3 that begin
the reply (cookbook.openai.com, "How to count tokens with tiktoken")."""

_OTHER_MESSAGE, _OTHER_PROMPT = 8, 40
"""The same for models whose chat template is not known, leaning upward: SmolLM2, Qwen and
Llama 3 need 4 to 6 a message, and put 20 to 30 tokens of their own before the first."""

_HARMONY_MESSAGE, _HARMONY_PROMPT = 8, 70
"""The same for gpt-oss: its Harmony format (github.com/openai/harmony) begins with a system
message of its own, 61 tokens with the date."""

_SMALLEST_WINDOW = 4096
"""Tokens: no hosted model has a smaller window, so what fits in here needs no look-up."""

_CLAUDE = 1.3
"""How many more tokens Claude's vocabularies make since Opus 4.7 (platform.claude.com, "Token
counting": about 30%)."""

_KEPT = 4096
"""Counts of long requests that are kept, so that nobody counts one twice."""

_ROLES = frozenset({"system", "developer", "user", "assistant", "tool", "function"})
"""Each is one token in both vocabularies."""

_NAME = 1
"""Tokens that a `name` takes besides its own (cookbook.openai.com, "How to count tokens with
tiktoken")."""

_IMAGE, _IMAGE_ORIGINAL, _IMAGE_4O_MINI = 5_000, 12_000, 48_169
"""Upper-leaning tokens of an image, whatever its size. Most: Claude 4,784; GPT models 3,779 by
patches, 1,445 by tiles; with `detail: original` 10,000 patches times 1.2; gpt-4o-mini counts
2,833 + 8 tiles of 5,667 (platform.openai.com, "Images and vision"; platform.claude.com,
"Vision")."""

_AUDIO_CHARACTERS, _FILE_CHARACTERS, _UNSEEN_FILE = 64, 4, 50_000
"""Characters of base64 to a token: for audio 32 tokens a second (Gemini's rate, the highest) at
a thrifty 16 kbit/s; for files between a page of text and a scanned one. A file that is only
named counts as 50,000."""

_CHAT = "/chat/completions"

ANTHROPIC_MAX_TOKENS = 4096
"""The output limit that Anthropic is sent where none is given: the API requires one, and every
Claude model takes this one (platform.claude.com/docs/en/about-claude/models/overview)."""

_NAMES_OF_LIMITS = ("max_completion_tokens", "max_output_tokens", "max_tokens")
_DEFINITIONS = ("tools", "functions", "response_format", "text", "output_config")
"""Parameters that become part of the prompt."""


class ModelTokenizer(Struct, frozen=True):
    """How a model's prompts are counted: with which vocabulary, and what a message and a prompt
    add. `factor` scales the estimate where the vocabulary is not the model's own."""

    name: str
    message: int
    prompt: int
    exact: bool = False
    factor: float | None = None

    @property
    def vocabulary(self) -> str:
        """The name of the vocabulary that is loaded for it."""
        return self.name if self.factor is None else vocabulary.ESTIMATE_BASE

    def count(self, texts: Iterable[str]) -> tuple[int, bool]:
        """The tokens of the texts, and whether that is exact. Raises `SetupError`."""
        encoding = vocabulary.encoding(self.vocabulary)
        if self.factor is not None:
            return sum(vocabulary.estimate(encoding, text, self.factor) for text in texts), False
        counted = [vocabulary.count(encoding, text) for text in texts]
        return sum(tokens for tokens, _ in counted), all(exact for _, exact in counted)


def _tokenizer(model: str) -> ModelTokenizer:
    name = vocabulary.encoding_name(model)
    if name is None:
        factor = _CLAUDE if "claude" in model.lower() else 1.0
        return ModelTokenizer("estimate", _OTHER_MESSAGE, _OTHER_PROMPT, factor=factor)
    if name == "o200k_harmony":
        return ModelTokenizer(name, _HARMONY_MESSAGE, _HARMONY_PROMPT)
    return ModelTokenizer(name, _MESSAGE, _REPLY, exact=True)


class Counter:
    """Counts requests. `published` gives the window of a model at an address in tokens, None
    where nobody knows (`Prices.window`).

    Nothing here touches the network. The first count with a vocabulary loads it, 0.1 to 0.2 s,
    most of which holds the GIL, thread or not: `load` does that at a better moment.
    """

    def __init__(self, published: Callable[[str, str], int | None] = lambda _, __: None) -> None:
        self._published = published
        self._long: dict[str, TokenCount] = {}

    def load(self, target: Target) -> None:
        """Load what counting for the target needs. Raises `SetupError`."""
        vocabulary.encoding(_tokenizer(target.model).vocabulary)

    def count(self, request: Request) -> TokenCount:
        """The tokens of the request's input. Raises `SetupError`."""
        return self._long.get(request.fingerprint) or self._count(request, prompt_of(request))

    async def count_async(self, request: Request) -> TokenCount:
        """The same, without holding the event loop up: long prompts, and the loading of a
        vocabulary, go to a thread. Afterwards `count` knows a long request's answer."""
        if known := self._long.get(request.fingerprint):
            return known
        prompt = prompt_of(request)
        if prompt.long or not vocabulary.is_loaded(_tokenizer(request.target.model).vocabulary):
            return await asyncio.to_thread(self._count, request, prompt)
        return self._count(request, prompt)

    def _count(self, request: Request, prompt: Prompt) -> TokenCount:
        model = request.target.model
        tokenizer = _tokenizer(model)
        tokens, exact = tokenizer.count(prompt.texts)
        tokens += prompt.uncounted(model)
        if prompt.messages:
            tokens += prompt.messages * tokenizer.message + tokenizer.prompt
            exact = exact and tokenizer.exact
        counted = TokenCount(tokens, exact and prompt.exact, tokenizer.name)
        if request.fingerprint and prompt.long:
            if len(self._long) >= _KEPT:
                self._long.clear()
            self._long[request.fingerprint] = counted
        return counted

    def count_text(self, target: Target, text: str) -> int:
        """The tokens of an answer's text. Raises `SetupError`."""
        return _tokenizer(target.model).count([text])[0] if text else 0

    def upper_bound(self, request: Request) -> int:
        """No less than `count`, without a vocabulary: a token for every byte."""
        prompt = prompt_of(request)
        fixed = prompt.uncounted(request.target.model)
        fixed += prompt.messages * _HARMONY_MESSAGE + _HARMONY_PROMPT
        return fixed + sum(map(vocabulary.most, prompt.texts))

    def context_window(self, target: Target) -> int | None:
        """The model's window in tokens: the profile's, else the one published where the
        target's address is that of a known provider, else None. The first look-up takes 0.2 s."""
        if target.context is not None:
            return target.context
        return self._published(target.base_url.lower(), target.model)

    def window_to_check(self, request: Request) -> int | None:
        """The window that the request may not fit; None where it fits whatever it counts, or no
        window is known."""
        bound = self.upper_bound(request) + (max_output(request) or 0)
        if bound <= (request.target.context or _SMALLEST_WINDOW):
            return None
        window = self.context_window(request.target)
        return window if window is not None and bound > window else None

    def output_bound(self, request: Request, counted: TokenCount) -> int | None:
        """The most tokens that may come back, in all answers asked for (`n`): as asked for, else
        what the model's window leaves room for; None where nobody knows."""
        most = max_output(request)
        if most is None and (window := self.context_window(request.target)) is not None:
            most = max(0, window - counted.tokens)
        return None if most is None else most * answers(request)

    def check_fits(self, request: Request, counted: TokenCount, window: int) -> None:
        """Raises `ContextTooLong` when the request cannot fit the window.

        An estimate leans upward, so it refuses nothing by itself: the request must be too long
        by the leanest vocabulary known too. A list of inputs is left to the provider, whose
        window is for each of them.
        """
        output = max_output(request) or 0
        if counted.tokens + output <= window or is_list(request):
            return
        least = map(vocabulary.least, prompt_of(request).texts)
        if not counted.exact and sum(least) + output <= window:
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


class Prompt(Struct):
    """What a model reads of a request: texts to count, tokens that need no counting, and whether
    their sum is what the provider will count."""

    texts: list[str] = field(default_factory=list)
    messages: int = 0
    images: int = 0
    fixed: int = 0
    exact: bool = True

    def add_json(self, value: object) -> None:
        """Something the provider renders in its own way: counted as its JSON."""
        try:
            self.texts.append(orjson.dumps(value, default=str).decode())
        except TypeError:  # integers beyond 64 bits, lone surrogates
            self.texts.append(repr(value))
        self.exact = False

    def add_message(self, message: Message) -> None:
        """One turn: its role, content and other fields."""
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
        for key, value in (message.extra or {}).items():
            if key == "name" and isinstance(value, str):
                self.fixed += _NAME
                self.texts.append(value)
            elif value is not None:
                self.add_json(value)

    def add_part(self, part: JSON) -> None:
        """One OpenAI-style part of a turn's content."""
        kind, text, size = str(part.get("type", "")), part.get("text"), _longest(part)
        if isinstance(text, str) and kind.endswith("text"):
            self.texts.append(text)
            return
        self.exact = False
        if "image" in kind:
            image = part.get("image_url")
            detail = image.get("detail") if isinstance(image, Mapping) else part.get("detail")
            self.images += 1
            self.fixed += _IMAGE_ORIGINAL - _IMAGE if detail == "original" else 0
        elif "audio" in kind:
            self.fixed += 1_000 + size // _AUDIO_CHARACTERS
        elif "file" in kind or "document" in kind:
            unseen = size < 1_000  # an id or an address
            self.fixed += _UNSEEN_FILE if unseen else _IMAGE + size // _FILE_CHARACTERS
        else:
            self.add_json(part)

    def add_inputs(self, value: object) -> None:
        """Plain text, tokens, or a list of either."""
        for item in value if isinstance(value, list | tuple) else (value,):
            if isinstance(item, str):
                self.texts.append(item)
            elif isinstance(item, list | tuple):
                self.fixed += len(item)
            elif isinstance(item, int):
                self.fixed += 1

    @property
    def long(self) -> bool:
        """Whether counting it takes longer than an event loop may be held up."""
        return sum(map(len, self.texts)) > vocabulary.CHUNK

    def uncounted(self, model: str) -> int:
        """The tokens of what is not text."""
        each = _IMAGE_4O_MINI if "4o-mini" in model else _IMAGE
        return self.fixed + self.images * each


def _longest(part: JSON) -> int:
    """The length of the longest string in the part: that is the data."""
    inner = [value.values() for value in part.values() if isinstance(value, Mapping)]
    strings = chain(part.values(), *inner)
    return max((len(value) for value in strings if isinstance(value, str)), default=0)


def prompt_of(request: Request) -> Prompt:
    """What the model reads of the request. Never fails: a body that makes no sense is the
    provider's to refuse."""
    prompt, raw = Prompt(), request.raw
    body: JSON = request.options if raw is None else raw.body
    path = _CHAT if raw is None else _path(raw)
    if path.endswith(_CHAT):
        turns: Iterable[Message] = request.messages or _messages(body.get("messages"))
    elif path.endswith("/responses"):
        prompt.exact = False  # OpenAI publishes no overhead for these
        said = body.get("input")
        first = {"role": "system", "content": body.get("instructions")}
        asked = [{"role": "user", "content": said}] if isinstance(said, str) else said
        turns = chain(_messages([first] if first["content"] else []), _messages(asked))
    else:
        if path.endswith("/embeddings"):
            prompt.add_inputs(body.get("input"))
        elif path.endswith("/completions"):
            prompt.add_inputs(body.get("prompt"))
        else:
            prompt.add_json({key: value for key, value in body.items() if key != "model"})
        return prompt
    for message in turns:
        prompt.add_message(message)
    for value in (*(body.get(key) for key in _DEFINITIONS), request.schema):
        if value:
            prompt.add_json(value)
    return prompt


def _path(raw: RawRequest) -> str:
    return raw.path.partition("?")[0].rstrip("/")


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


def max_output(request: Request) -> int | None:
    """The most tokens one answer may have, or None where only the model limits it."""
    body: JSON = request.options if request.raw is None else request.raw.body
    if request.raw is not None and _path(request.raw).endswith("/embeddings"):
        return 0
    if body:
        for key in _NAMES_OF_LIMITS:
            if isinstance(body.get(key), int):  # what is passed through wins on the wire, too
                return int(body[key])
    if request.raw is None and request.max_tokens is not None:
        return request.max_tokens
    return anthropic_limit(body) if request.target.adapter == "anthropic" else None


def anthropic_limit(options: JSON) -> int:
    """The output limit that Anthropic is sent where none is given. A thinking budget comes on
    top, as it must be smaller than the limit."""
    thinking = options.get("thinking")
    budget = thinking.get("budget_tokens") if isinstance(thinking, Mapping) else None
    return ANTHROPIC_MAX_TOKENS + (max(0, budget) if isinstance(budget, int) else 0)


def answers(request: Request) -> int:
    """How many answers the request asks for at once: each is billed."""
    body: JSON = request.options if request.raw is None else request.raw.body
    if not body:
        return 1
    google = body.get("generationConfig")
    several = [body.get(name) for name in ("n", "best_of", "candidate_count", "candidateCount")]
    several.append(google.get("candidateCount") if isinstance(google, Mapping) else None)
    return max([1, *(number for number in several if type(number) is int)])


def is_list(request: Request) -> bool:
    """Whether it passes several inputs through, each of which the model reads alone."""
    raw = request.raw
    if raw is None:
        return False
    given = raw.body.get("input" if _path(raw).endswith("/embeddings") else "prompt")
    return isinstance(given, list | tuple) and not all(isinstance(item, int) for item in given)
