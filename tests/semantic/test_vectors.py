"""Vectors without a network."""

from __future__ import annotations

import socket

import numpy as np
import pytest

from llmctl.semantic.vectors import CLOSE, SIZE, Embedder


def test_a_paraphrase_is_close_and_nothing_is_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights and tokenizer come out of the package, with no socket to be had."""

    def refuse(*_: object, **__: object) -> socket.socket:
        pytest.fail("a connection was opened")

    monkeypatch.setattr(socket, "socket", refuse)
    embed = Embedder()
    one, other = embed("How do I reset my password?"), embed("Steps to change the password")
    far = embed("Which cheese goes with pears")
    assert one.shape == (SIZE,)
    assert one.dtype == np.float32
    assert np.linalg.norm(one) == pytest.approx(1, abs=1e-6)
    assert float(one @ other) > CLOSE > float(one @ far)


def test_a_text_without_a_token_is_near_nothing() -> None:
    """And a long one is a mean as well."""
    embed = Embedder()
    assert not embed("").any()
    assert np.linalg.norm(embed("word " * 20_000)) == pytest.approx(1, abs=1e-6)
