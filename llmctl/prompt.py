"""What of a request the model reads: its texts, and what else takes up tokens."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import chain

import orjson
from msgspec import Struct, field

from llmctl.types import JSON, Message, RawRequest, Request
from llmctl.vocabulary import CHUNK

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


_TURNS = frozenset({"system", "user", "assistant"})
"""Those of `_ROLES` that most turns have."""


def plain_texts(request: Request) -> list[str] | None:
    """The turns' texts where nothing else is read: no parts, names, tools or schema, and only
    usual roles, each of which is one token. None for all other requests.

    So most are built, and counting these needs no `Prompt`.
    """
    if request.raw is not None or request.schema is not None:
        return None
    if request.options and not request.options.keys().isdisjoint(_DEFINITIONS):
        return None
    texts = []
    for message in request.messages:
        text = message.content
        if type(text) is not str or message.extra or message.role not in _TURNS:
            return None
        texts.append(text)
    return texts


class Prompt(Struct):
    """A request taken apart: texts to count, tokens that need no counting, and whether their
    sum is what the provider will count."""

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
        if not message.extra:
            return
        for key, value in message.extra.items():
            if key == "name" and isinstance(value, str):
                self.fixed += _NAME
                self.texts.append(value)
            elif value is not None:
                self.add_json(value)

    def add_part(self, part: JSON) -> None:
        """One OpenAI-style part of a turn's content."""
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
        return sum(map(len, self.texts)) > CHUNK

    def uncounted(self, model: str) -> int:
        """The tokens of what is not text."""
        each = _IMAGE_4O_MINI if "4o-mini" in model else _IMAGE
        return self.fixed + self.images * each


def _longest(part: JSON) -> int:
    """The length of the longest string in the part: that is the data."""
    inner = [value.values() for value in part.values() if isinstance(value, Mapping)]
    strings = chain(part.values(), *inner)
    return max((len(value) for value in strings if isinstance(value, str)), default=0)


def take_apart(request: Request) -> Prompt:
    """What the request asks the provider to read. Never fails: a body that makes no sense is
    the provider's to refuse."""
    prompt, raw = Prompt(), request.raw
    body: JSON = request.options if raw is None else raw.body
    if raw is None or _path(raw).endswith(_CHAT):
        for message in request.messages or _messages(body.get("messages")):
            prompt.add_message(message)
    elif not _passed_through(prompt, _path(raw), body):
        return prompt
    if body:
        for key in _DEFINITIONS:
            if body.get(key):
                prompt.add_json(body[key])
    if request.schema is not None:
        prompt.add_json(request.schema)
    return prompt


def _passed_through(prompt: Prompt, path: str, body: JSON) -> bool:
    """Take the body of another endpoint apart; whether `_DEFINITIONS` belong to it too."""
    if path.endswith("/responses"):
        prompt.exact = False  # OpenAI publishes no overhead for these
        if isinstance(body.get("instructions"), str):
            prompt.add_message(Message("system", body["instructions"]))
        asked = body.get("input")
        said = [{"role": "user", "content": asked}] if isinstance(asked, str) else asked
        for message in _messages(said):
            prompt.add_message(message)
        return True
    if path.endswith("/embeddings"):
        prompt.add_inputs(body.get("input"))
    elif path.endswith("/completions"):
        prompt.add_inputs(body.get("prompt"))
    else:
        prompt.add_json({key: value for key, value in body.items() if key != "model"})
    return False


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
