"""OpenAI endpoints that generate no text: `POST …/embeddings` and `GET …/models`."""

from __future__ import annotations

import base64
import math
import struct
from hashlib import blake2b
from typing import ClassVar

from tests.simulator.call import Ask, Json

from .openai import OpenAI
from .wire import Turn

_DIMENSIONS = 8  # few, so that a test's answers stay readable; `dimensions` in the request wins


class Embeddings(OpenAI):
    """`POST …/embeddings`: unit vectors that depend on the text alone."""

    billing = "input"
    place = "POST", "/embeddings"

    def read(self, body: Json, path: str) -> Ask:  # noqa: ARG002  (the seam passes it)
        """Read a text, texts, or token numbers."""
        given = _inputs(body)
        return Ask(model=body["model"], prompt="\n".join(given), last=given[-1] if given else "")

    def whole(self, turn: Turn) -> Json:
        """Give a `list` of `embedding`s, floats or base64 of little-endian float32."""
        body = turn.call.body or {}
        size = body.get("dimensions") or _DIMENSIONS
        packed = body.get("encoding_format") == "base64"
        vectors = [embedding(text, size) for text in _inputs(body)]
        return {
            "object": "list",
            "data": [
                {"object": "embedding", "index": i, "embedding": _packed(v) if packed else v}
                for i, v in enumerate(vectors)
            ],
            "model": turn.model,
            "usage": {"prompt_tokens": turn.usage.input, "total_tokens": turn.usage.input},
        }


class Models(OpenAI):
    """`GET …/models`: what the key may use; free, so it serves to check a key."""

    billing = "free"
    place = "GET", "/models"

    more: ClassVar[Json] = {}  # what a provider says of a model beside

    def whole(self, turn: Turn) -> Json:
        """Give a `list` of `model`s."""
        each = {"object": "model", "created": turn.created, "owned_by": "simulator"} | self.more
        return {"object": "list", "data": [{"id": name} | each for name in self.models]}


def embedding(text: str, size: int) -> list[float]:
    """Make a unit vector of `size` numbers from a text: equal texts, equal vectors."""
    shake = b"".join(
        blake2b(text.encode("utf-8", "surrogatepass"), salt=struct.pack("<q", block)).digest()
        for block in range(size // 32 + 1)
    )
    raw = [number - 32767.5 for number in struct.unpack_from(f"<{size}H", shake)]
    length = math.sqrt(sum(number * number for number in raw))
    return [number / length for number in raw]


def _packed(vector: list[float]) -> str:
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()


def _inputs(body: Json) -> list[str]:
    given = body["input"]
    if isinstance(given, str):
        return [given]
    if given and isinstance(given[0], int):
        return [str(given)]
    return [item if isinstance(item, str) else str(item) for item in given]
