"""Amazon's event streams (`application/vnd.amazon.eventstream`), cut into events. Pure.

Reference: smithy.io/2.0/aws/amazon-eventstream.html. botocore reads the frames and their checksums.
"""

from __future__ import annotations

from collections.abc import Iterator

import orjson

from llmctl.errors import BadResponse
from llmctl.protocols import Event
from llmctl.providers.replies import json_or_none, object_or_empty

EXCEPTION = "exception"
"""The name of an event that reports an error; its data names it as `__type`."""


class AwsEventStream:
    """Reads the frames of one stream, wherever its bytes are cut; see `protocols.EventStream`."""

    def __init__(self) -> None:
        from botocore.eventstream import EventStreamBuffer

        self._frames = EventStreamBuffer()

    def feed(self, chunk: bytes) -> Iterator[Event]:
        """The events that `chunk` completes. Raises `BadResponse` for a damaged frame."""
        self._frames.add_data(chunk)
        while True:
            try:
                frame = next(self._frames)
            except StopIteration:
                return
            except Exception as error:  # whatever a reader of bytes raises on others' bytes
                why = f"a frame of the stream is damaged ({type(error).__name__})"
                raise BadResponse(why) from error
            yield _event(frame.headers, frame.payload)

    def end(self) -> Event | None:
        """Nothing: half a frame is none."""
        return None


def _event(headers: dict[str, object], payload: bytes) -> Event:
    """A frame's event. An exception's name, and an error without a body, stand in its headers."""
    kind = headers.get(":message-type")
    if kind not in ("exception", "error"):
        return Event(str(headers.get(":event-type")), payload.decode(errors="replace"))
    said = object_or_empty(json_or_none(payload))
    name = headers.get(":exception-type") or headers.get(":error-code")
    message = said.get("message") or headers.get(":error-message") or ""
    return Event(EXCEPTION, orjson.dumps({"__type": str(name), "message": str(message)}).decode())
