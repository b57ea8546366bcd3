"""The semantic cache of a gateway's callers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.gateway.conftest import Serve
from tests.gateway.test_gateway import ask, said
from tests.simulator.server import Simulator

ONE, SAME = "How do I reset my password?", "how can I reset a password"


@pytest.mark.parametrize(("scope", "other"), [("caller", "miss"), ("all", "semantic")])
def test_whose_answers_a_caller_gets(
    serve: Serve,
    token: Callable[..., str],
    home: Path,
    sim: Simulator,
    scope: str,
    other: str,
) -> None:
    """Those of the same user, by whichever token; of all users where the profile says so. An answer
    streams, too; no conversation gets one."""
    config = home / ".config/llmctl/config.yaml"
    profiles = config.read_text(encoding="utf-8")
    cache = f"    cache: {{semantic: {{mode: strict, scope: {scope}}}}}\n"
    put = profiles.replace("    model: gpt-5-mini\n", f"    model: gpt-5-mini\n{cache}", 1)
    config.write_text(put, encoding="utf-8")
    names = [token("a", "--user", "ann"), token("b", "--user", "ann"), token("c", "--user", "bob")]
    gateway = serve()
    with gateway.client(names[0]) as client:
        assert ask(client, ONE).headers["x-llmctl-cache"] == "miss"
    with gateway.client(names[1]) as client:
        found = ask(client, SAME)
        assert (found.headers["x-llmctl-cache"], said(found)) == ("semantic", f"echo: {ONE}")
        turns = [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]
        turns.append({"role": "user", "content": SAME})
        assert ask(client, "", messages=turns).headers["x-llmctl-cache"] == "miss"
    with gateway.client(names[2]) as client:
        assert ask(client, SAME).headers["x-llmctl-cache"] == other
    assert len(sim.calls) == (3 if other == "miss" else 2)
