"""Counting tokens before sending: exact where the model's vocabulary is public, else an
estimate that leans upward and says so."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import Struct, field

from llmctl import vocabulary
from llmctl.counting import Expected, counts, keep_newest
from llmctl.errors import ContextTooLong
from llmctl.prompt import Prompt, answers, is_list, max_output, plain_texts, take_apart
from llmctl.protocols import TokenCount
from llmctl.types import Request, Target

if TYPE_CHECKING:
    from tiktoken import Encoding

__all__ = ["Counter", "max_output"]

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

_WAYS = 256
"""How many models' ways of counting are kept."""

_KEPT = 4096
"""Counts that are kept to be handed out again: those of long requests, so that nobody counts one
twice, and of requests that were expected."""

_CLAUDE = 1.3
"""How many more tokens Claude's vocabularies make since Opus 4.7 (platform.claude.com, "Token
counting": about 30%)."""


class _Way(Struct, frozen=True):
    """How a model's prompts are counted: with what, and what a message and a prompt add.
    `factor` scales the estimate where the vocabulary is not the model's own."""

    name: str
    encoding: Encoding
    message: int
    prompt: int
    exact: bool = False
    factor: float | None = None
    known: dict[int, TokenCount] = field(default_factory=dict)

    def counted(self, tokens: int) -> TokenCount:
        """So many tokens, by this vocabulary alone: one object for all prompts alike."""
        found = self.known.get(tokens)
        if found is None:
            found = TokenCount(tokens, self.exact, self.name)
            if len(self.known) < _KEPT:
                self.known[tokens] = found
        return found

    def frame(self, messages: int) -> int:
        """What is added to the texts of so many messages whose roles are one token each."""
        return self.prompt + messages * (self.message + 1)

    def texts(self, texts: Iterable[str]) -> tuple[int, bool]:
        """The tokens of the texts, and whether they are exact."""
        total, exact, encode = 0, self.factor is None, self.encoding.encode_ordinary
        for text in texts:
            if self.factor is not None:
                total += vocabulary.estimate(self.encoding, text, self.factor)
            elif len(text) <= vocabulary.CHUNK:
                # As `vocabulary.count` would, whose call takes a tenth of a short prompt's time.
                total += len(encode(text))
            else:
                tokens, whole = vocabulary.count(self.encoding, text)
                total += tokens
                exact = exact and whole
        return total, exact


class Counter:
    """Counts requests. `cache` is the program's cache folder (see `Vocabularies`), `published`
    gives the window of a model at an address, as the price list says.

    Nothing here touches the network. The first count with a vocabulary loads it, 0.1 to 0.2 s,
    most of which holds the GIL, thread or not: `load` does that at a better moment.
    """

    def __init__(
        self, cache: Path, published: Callable[[str, str], int | None] | None = None
    ) -> None:
        self._vocabularies = vocabulary.Vocabularies(cache)
        self._published = published or _published_window
        self._ways: dict[str, _Way] = {}
        self._expected = Expected()
        self._known: dict[str, TokenCount] = {}

    def expect(self, requests: Sequence[Request]) -> None:
        """These will be counted soon, after those that were expected before: when one of them is,
        others are with it."""
        self._expected.add(requests)

    def load(self, target: Target) -> None:
        """Load what counting for the target needs. Raises `SetupError`."""
        self._way(target.model)

    def _way(self, model: str) -> _Way:
        if found := self._ways.get(model):
            return found
        name = vocabulary.encoding_name(model)
        encoding = self._vocabularies.encoding(name or vocabulary.ESTIMATE_BASE)
        if name is None:
            factor = _CLAUDE if "claude" in model.lower() else 1.0
            way = _Way("estimate", encoding, _OTHER_MESSAGE, _OTHER_PROMPT, factor=factor)
        elif name == "o200k_harmony":
            way = _Way(name, encoding, _HARMONY_MESSAGE, _HARMONY_PROMPT, exact=False)
        else:
            way = _Way(name, encoding, _MESSAGE, _REPLY, exact=True)
        if len(self._ways) >= _WAYS:
            self._ways.clear()
        self._ways[model] = way
        return way

    def count(self, request: Request) -> TokenCount:
        """The tokens of the request's input. Raises `SetupError`."""
        return self.at_once(request) or self._count(request, take_apart(request))

    def _plain(self, request: Request) -> TokenCount | None:
        """The count of most requests, for half of what all others cost besides their tokens:
        turns of text alone, short ones, with an exact vocabulary that is loaded."""
        way = self._ways.get(request.target.model)
        if way is None or way.factor is not None:
            return None
        if request.fingerprint in self._expected:
            self._count_expected(request.target.model, way)
            if known := self._known.get(request.fingerprint):
                return known
        texts = plain_texts(request)
        if not texts:
            return None
        encode, room = way.encoding.encode_ordinary, vocabulary.CHUNK
        tokens = way.frame(len(texts))
        for text in texts:
            room -= len(text)
            if room < 0:
                return None
            tokens += len(encode(text))
        return way.counted(tokens)

    def _count_expected(self, model: str, way: _Way) -> None:
        """Count those that come next and are plain, so many that the event loop hardly waits."""
        found, texts = self._expected.take(model)
        each = iter(counts(way.encoding, texts) if texts else ())
        self._keep(
            {
                name: way.counted(way.frame(number) + sum(islice(each, number)))
                for name, number in found.items()
            }
        )

    def _keep(self, counted: Mapping[str, TokenCount]) -> None:
        """Keep the counts of the requests with these fingerprints for a while."""
        self._known.update(counted)
        keep_newest(self._known, _KEPT)

    def _count(self, request: Request, prompt: Prompt) -> TokenCount:
        model = request.target.model
        way = self._ways.get(model) or self._way(model)
        tokens, exact = way.texts(prompt.texts)
        tokens += prompt.uncounted(model) if prompt.images else prompt.fixed
        if prompt.messages:
            tokens += prompt.messages * way.message + way.prompt
            exact = exact and way.exact
        counted = TokenCount(tokens, exact and prompt.exact, way.name)
        if request.fingerprint and prompt.long:
            self._keep({request.fingerprint: counted})
        return counted

    def at_once(self, request: Request) -> TokenCount | None:
        """The same where it takes no time worth speaking of: of short turns of text with a
        vocabulary that is loaded, and of what was counted before. None for all others."""
        return self._known.get(request.fingerprint) or self._plain(request)

    async def count_async(self, request: Request) -> TokenCount:
        """The same, without holding the event loop up: long prompts, and the loading of a
        vocabulary, go to a thread. Afterwards `count` knows a long request's answer."""
        if counted := self.at_once(request):
            return counted
        prompt = take_apart(request)
        if request.target.model not in self._ways or prompt.long:
            return await asyncio.to_thread(self.count, request)
        return self._count(request, prompt)

    def count_text(self, target: Target, text: str) -> int:
        """The tokens of an answer's text. Raises `SetupError`."""
        return self._way(target.model).texts([text])[0] if text else 0

    def upper_bound(self, request: Request) -> int:
        """No less than `count`, without a vocabulary: a token for every byte."""
        if texts := plain_texts(request):
            frame = len(texts) * (_HARMONY_MESSAGE + 1) + _HARMONY_PROMPT
            return frame + sum(map(vocabulary.most, texts))
        prompt = take_apart(request)
        frame = prompt.messages * _HARMONY_MESSAGE + _HARMONY_PROMPT
        fixed = prompt.uncounted(request.target.model) + frame
        return fixed + sum(map(vocabulary.most, prompt.texts))

    def context_window(self, target: Target) -> int | None:
        """The model's window in tokens: the profile's, else the one published where the
        target's address is that of a known provider, else None. The first look-up takes 0.2 s."""
        if target.context is not None:
            return target.context
        return self._published(target.base_url.lower(), target.model)

    def window_in_question(self, request: Request) -> int | None:
        """The window that the request may not fit; None where it fits whatever it counts, or no
        window is known."""
        bound = self.upper_bound(request) + (max_output(request) or 0)
        if bound <= (request.target.context or _SMALLEST_WINDOW):
            return None
        window = self.context_window(request.target)
        return window if window is not None and bound > window else None

    def most_output(self, request: Request, counted: TokenCount) -> int | None:
        """The most tokens that may come back, in all answers asked for (`n`): as asked for, else
        what the model's window leaves room for; None where nobody knows."""
        asked = max_output(request)
        if asked is not None:
            return asked * answers(request)
        window = self.context_window(request.target)
        return None if window is None else max(0, window - counted.tokens) * answers(request)

    def check_fits(self, request: Request, counted: TokenCount, window: int) -> None:
        """Raises `ContextTooLong` when the request cannot fit the window.

        An estimate leans upward, so it refuses nothing by itself: the request must be too long
        by the leanest vocabulary known too. A list of inputs is left to the provider, whose
        window is for each of them.
        """
        output = max_output(request)
        if counted.tokens + (output or 0) <= window or is_list(request):
            return
        if not counted.exact:
            prompt = take_apart(request)
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


@lru_cache(maxsize=1024)
def _published_window(base_url: str, model: str) -> int | None:
    from genai_prices.data_snapshot import get_snapshot

    try:
        provider, found = get_snapshot().find_provider_model(model, None, None, base_url)
    except LookupError:
        return None
    return None if provider.id == "azure" else found.context_window  # deployments have any name
