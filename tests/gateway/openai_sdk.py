"""OpenAI's own SDK, answered by a dialect instead of a server."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import httpx2
import orjson
import pytest
from msgspec import Struct, field

from llmctl.gateway.dialect import Asked, Dialect, Failure
from llmctl.providers.replies import EventReader
from llmctl.types import Answer, StreamChunk, Usage
from tests.support import TARGET

ID = "01JC"
USAGE = Usage(input=11, output=7, cached_input=5, cache_write=2, reasoning=3)
CALLS = (
    {"id": "call_9", "type": "function", "function": {"name": "look", "arguments": '{"at":1}'}},
    {"id": "", "type": "function", "function": {"name": "stop", "arguments": "{}"}},
)
CITED = {"url": "https://a.test/", "title": "A", "start_index": 0, "end_index": 2}


def answered(text: str = "Hello", **changes: Any) -> Answer:
    """An answer of a provider whose language is not the caller's."""
    made = {"usage": USAGE, "target": TARGET, "finish": "stop", "model": "sim-1", **changes}
    return Answer(text, **made)


class Server(Struct):
    """What answers the SDK: an answer, and its pieces where it is streamed; or a failure, alone
    or after the pieces. `heard` are the questions, as the dialect read them."""

    dialect: Dialect
    answer: Answer
    pieces: Iterable[StreamChunk] = ()
    failure: Failure | None = None
    heard: list[Asked] = field(default_factory=list)

    def client(self) -> Any:
        """A client of the SDK, without retries."""
        made = pytest.importorskip("openai")
        http = httpx2.Client(transport=httpx2.MockTransport(self._reply))
        return made.OpenAI(
            api_key="lk-x", base_url="http://gateway.test/v1", http_client=http, max_retries=0
        )

    def _reply(self, request: httpx2.Request) -> httpx2.Response:
        dialect, failure = self.dialect, self.failure
        assert request.url.path == f"/v1{dialect.path}"
        asked = dialect.read(orjson.loads(request.content), dict(request.headers))
        self.heard.append(asked)
        if asked.stream:
            kind = {"content-type": "text/event-stream"}
            return httpx2.Response(200, headers=kind, content=self._events(asked))
        if failure is not None:
            return httpx2.Response(failure.status, content=dialect.failure(failure))
        return httpx2.Response(200, content=dialect.answer(asked, self.answer, ID))

    def _events(self, asked: Asked) -> bytes:
        writer = self.dialect.writer(asked, ID)
        said = b"".join(map(writer.piece, self.pieces))
        return said + (
            writer.end(self.answer) if self.failure is None else writer.error(self.failure)
        )


def events(stream: bytes) -> list[Any]:
    """The JSON of each event; its end mark as text."""
    found = [event.data for event in EventReader().feed(stream)]
    return [one if one == "[DONE]" else orjson.loads(one) for one in found]
