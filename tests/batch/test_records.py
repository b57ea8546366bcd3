"""The lines a batch writes."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmctl.batch.records import dollars, record
from llmctl.errors import BadResponse, ConnectionFailed, Interrupted, RateLimited
from llmctl.types import CallRecord, RawRequest

Ended = Callable[..., CallRecord]


def test_an_answer(ended: Ended) -> None:
    """An output row has the contract's fields in the contract's order, and ends its line."""
    outcome = ended("a", 4)
    line = record(outcome, "llmctl")
    assert line == (
        b'{"id":"a","index":4,"text":"answer to Hi","parsed":null,"profile":"fast",'
        b'"provider":"openai","model":"gpt-5-mini-2026-05-01","finish_reason":"stop",'
        b'"usage":{"input_tokens":312,"output_tokens":48,"cached_input_tokens":5,'
        b'"cache_write_tokens":6,"reasoning_tokens":7,"estimated":false},"cost_usd":0.00021,'
        b'"cache":"miss","attempts":1,"latency_ms":912,"call_id":"01J","request_hash":"'
        + outcome.request.fingerprint.encode()
        + b'","tags":{"team":"x"}}\n'
    )


def test_an_error(ended: Ended) -> None:
    """An error row has the contract's fields in the contract's order."""
    error = RateLimited("slow down", http_status=429, provider_request_id="req")
    error.attempts = 3
    outcome = ended("a", 4, error=error, cost=None)
    assert record(outcome, "llmctl") == (
        b'{"id":"a","index":4,"error":{"type":"rate_limited","message":"slow down",'
        b'"http_status":429,"retryable":true,"provider_request_id":"req"},"attempts":3,'
        b'"call_id":"01J","request_hash":"'
        + outcome.request.fingerprint.encode()
        + b'","cost_usd":null}\n'
    )


def test_an_interrupted_stream(ended: Ended) -> None:
    """An answer that broke off has the type of what broke it."""
    outcome = ended(error=Interrupted(ConnectionFailed("gone")))
    assert orjson.loads(record(outcome, "llmctl"))["error"]["type"] == "connection"


@pytest.mark.parametrize(
    ("cost", "text"),
    [
        ("0.00021", "0.00021"),
        ("1E-9", "0.000000001"),
        ("12.50", "12.5"),
        ("100", "100"),
        ("1E+3", "1000"),
        ("0E-7", "0"),
        ("-0", "0"),
        ("0.1234567890123456789012", "0.1234567890123456789012"),
    ],
)
def test_money_is_exact(cost: str, text: str) -> None:
    """A cost is a JSON number with exactly its digits."""
    assert orjson.dumps(dollars(Decimal(cost))) == text.encode()


@given(st.decimals(0, 10**9, allow_nan=False, places=12))
def test_any_money(cost: Decimal) -> None:
    """Every amount is a JSON number that reads back as the same amount."""
    text = orjson.dumps(dollars(cost)).decode()
    assert Decimal(text) == cost
    orjson.loads(text)


def test_unknown_money() -> None:
    """An unknown price is null."""
    assert orjson.dumps({"cost": dollars(None)}) == b'{"cost":null}'


PRETTY = (
    b'{\r\n  "choices": [{"logprob": -0.10, "n": 1e2, "t": "a\\nb\xe2\x80\xa8"}],\n'
    b' "big": 1e400\n}\n'
)


def test_a_raw_row_keeps_its_body(ended: Ended) -> None:
    """A row that was passed through carries the provider's body, number for number."""
    line = record(ended(raw=RawRequest("/chat/completions", {}), body=PRETTY), "llmctl")
    assert line.count(b"\n") == 1
    assert line.endswith(
        b'"body":' + PRETTY.strip().replace(b"\r", b" ").replace(b"\n", b" ") + b"}\n"
    )
    assert b'"body"' not in record(ended(body=PRETTY), "llmctl")
    assert b'"body"' not in record(ended(raw=RawRequest("/chat/completions", {})), "llmctl")


def test_openai_answer(ended: Ended) -> None:
    """An OpenAI result line has the provider's body as it came, and remembers the question."""
    outcome = ended("a", body=b'{"id":"x", "v":1.50}', provider_request_id="req")
    assert record(outcome, "openai") == (
        b'{"id":"batch_req_' + outcome.request.fingerprint.encode() + b'","custom_id":"a",'
        b'"response":{"status_code":200,"request_id":"req","body":{"id":"x", "v":1.50}},'
        b'"error":null}\n'
    )


def test_openai_answer_without_body(ended: Ended) -> None:
    """An answer whose body was not kept (a cached stream) becomes a chat completion."""
    body = orjson.loads(record(ended("a", finish="other"), "openai"))["response"]["body"]
    assert body["object"] == "chat.completion"
    assert body["choices"][0]["message"] == {"role": "assistant", "content": "answer to Hi"}
    assert body["usage"] == {"prompt_tokens": 312, "completion_tokens": 48, "total_tokens": 360}


def test_openai_errors(ended: Ended) -> None:
    """A failure is OpenAI's error line: with the provider's status where there was one."""
    refused = orjson.loads(record(ended(error=BadResponse("no", http_status=200)), "openai"))
    assert refused["response"]["status_code"] == 200
    assert refused["response"]["body"]["error"]["message"] == "no"
    assert refused["error"] == {"code": "bad_response", "message": "no"}
    lost = orjson.loads(record(ended(error=ConnectionFailed("gone")), "openai"))
    assert lost["response"] is None
    assert lost["error"] == {"code": "connection", "message": "gone"}


@given(st.text(st.characters(codec=None), max_size=20))  # halves of surrogate pairs included
def test_any_text(text: str) -> None:
    """Whatever a provider says, the row is one line of valid JSON."""
    from llmctl.batch.records import _line

    line = _line({"text": text, "tags": {text: [text]}})
    assert line.count(b"\n") == 1
    read = orjson.loads(line)["text"]
    assert read == text or any("\ud800" <= c <= "\udfff" for c in text)
