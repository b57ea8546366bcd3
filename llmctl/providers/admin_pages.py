"""Questions to a provider's administration: lists that come page by page, asked again on failure.

References: developers.openai.com/api/reference (Administration), platform.claude.com/docs/en/api
(Admin API), openrouter.ai/docs/api/api-reference.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Generic, TypeVar
from urllib.parse import urlencode

from msgspec import Struct

from llmctl.clock import Clock
from llmctl.errors import BadResponse, CallError
from llmctl.protocols import WireRequest
from llmctl.providers import replies
from llmctl.providers.key_api import Fetch

if TYPE_CHECKING:
    from tenacity import RetryCallState

T = TypeVar("T")
Next = Callable[[Mapping[str, Any], int], tuple[str, str] | None]
"""The parameter of the query that asks for the page after one; also gets how many items came so
far. None: it was the last one."""

_MOST_PAGES = 10_000  # of a thousand items: a list without end must not hang the program
_ATTEMPTS = 6
_LONGEST_WAIT = 20.0  # seconds between two attempts, where the provider asks for none

ANTHROPIC = {"anthropic-version": "2026-10-21"}
"""The names of fields that are read here; messages and batches are asked in those of 2023."""


def next_page(found: Mapping[str, Any], _: int) -> tuple[str, str] | None:
    """Pages by a cursor, `next_page`."""
    cursor = found.get("next_page") if found.get("has_more") is not False else None
    return ("page", cursor) if isinstance(cursor, str) and cursor else None


def after_last(name: str) -> Next:
    """Pages after the last item of the one before, by the parameter `name`."""

    def following(found: Mapping[str, Any], _: int) -> tuple[str, str] | None:
        last = found.get("last_id") if found.get("has_more") else None
        return (name, last) if isinstance(last, str) and last else None

    return following


def by_offset(found: Mapping[str, Any], seen: int) -> tuple[str, str] | None:
    """Pages by the number of items before them, up to an empty one."""
    return ("offset", str(seen)) if replies.objects(found, "data") else None


class Question(Struct, Generic[T], frozen=True):
    """A list that is asked for below the base URL; `read` makes items of the object of a page, and
    raises `BadResponse` for one that is none."""

    path: str
    read: Callable[[Mapping[str, Any]], list[T]]
    query: tuple[tuple[str, str], ...] = ()
    headers: Mapping[str, str] = {}
    following: Next = next_page

    def wire(self, page: tuple[str, str] | None = None) -> WireRequest:
        """The request for a page; None: the first."""
        query = urlencode([*self.query, *([page] if page else [])])
        path = f"{self.path}?{query}" if query else self.path
        return WireRequest(path, None, self.headers, "GET")


async def ask_all(question: Question[T], fetch: Fetch, clock: Clock) -> list[T]:
    """The items of all pages. Raises the mapped `CallError`, after several attempts where another
    one may help; `BadResponse` for a list that has no end, or is none."""
    items: list[T] = []
    page: tuple[str, str] | None = None
    for _ in range(_MOST_PAGES):
        found = replies.json_or_none(await _patiently(fetch, question.wire(page), clock))
        if not isinstance(found, dict):
            raise BadResponse(
                f"the provider's reply to {question.path} is no JSON object; check `base_url`",
                retryable=False,
            )
        items += question.read(found)
        following = question.following(found, len(items))
        if following is None:
            return items
        if following == page:
            break
        page = following
    raise BadResponse(f"the provider's list at {question.path} has no end", retryable=False)


async def _patiently(fetch: Fetch, wire: WireRequest, clock: Clock) -> bytes:
    """The body of a reply; asking changes nothing, so that every failure that may pass is asked
    again. tenacity takes 30 ms to import."""
    from tenacity import (
        AsyncRetrying,
        retry_if_exception,
        stop_after_attempt,
        wait_random_exponential,
    )

    backoff = wait_random_exponential(1.0, _LONGEST_WAIT)

    def wait(state: RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome else None
        asked = error.retry_after if isinstance(error, CallError) else None
        return backoff(state) if asked is None else asked

    retrying = AsyncRetrying(
        retry=retry_if_exception(lambda error: isinstance(error, CallError) and error.retryable),
        stop=stop_after_attempt(_ATTEMPTS),
        wait=wait,
        sleep=clock.sleep,
        reraise=True,
    )
    body: bytes = await retrying(fetch, wire)
    return body
