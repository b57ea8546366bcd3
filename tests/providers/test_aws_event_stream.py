"""Amazon's event streams."""

from __future__ import annotations

from random import Random

import orjson
import pytest

from llmctl.errors import BadResponse
from llmctl.protocols import Event
from llmctl.providers.aws_event_stream import AwsEventStream
from tests.providers.recordings import cuts
from tests.simulator.wires.bedrock import exception_frame, frame, framed

STREAM = (
    frame("messageStart", {"role": "assistant"})
    + frame("contentBlockDelta", {"contentBlockIndex": 0, "delta": {"text": "naïve 🦜"}})
    + exception_frame("throttlingException", {"message": "slow down"})
)


@pytest.mark.parametrize("seed", range(20))
def test_a_stream_cut_anywhere_gives_the_same_events(seed: int) -> None:
    """Names stand in headers, data is the payload, an exception tells its name in its data."""
    stream = AwsEventStream()
    found = [event for piece in cuts(STREAM, seed) for event in stream.feed(piece)]
    assert [event.name for event in found] == ["messageStart", "contentBlockDelta", "exception"]
    assert orjson.loads(found[1].data)["delta"] == {"text": "naïve 🦜"}
    assert orjson.loads(found[2].data) == {"__type": "throttlingException", "message": "slow down"}
    assert stream.end() is None


def test_an_error_may_stand_in_headers_alone() -> None:
    """An error that the service has no name for has no payload."""
    headers = {":message-type": "error", ":error-code": "Internal", ":error-message": "it broke"}
    (found,) = AwsEventStream().feed(framed(headers, b""))
    assert found == Event("exception", '{"__type":"Internal","message":"it broke"}')


@pytest.mark.parametrize("place", [3, 9, 20, 90, len(STREAM) - 2])
def test_a_damaged_byte_is_a_bad_response(place: int) -> None:
    """Every byte counts towards a checksum: none is read wrong. What came before it stays."""
    bad = bytearray(STREAM)
    bad[place] ^= 1
    stream = AwsEventStream()
    with pytest.raises(BadResponse, match="a frame of the stream is damaged"):
        list(stream.feed(bytes(bad)))


def test_any_bytes_are_events_or_a_bad_response() -> None:
    """Nothing else is raised for what is no stream, also where its checksums fit."""
    dice = Random(4711)
    for _ in range(300):
        for payload in (dice.randbytes(60), framed({":event-type": "x"}, b"{}", dice.randbytes(9))):
            try:
                list(AwsEventStream().feed(payload))
            except BadResponse:
                continue
