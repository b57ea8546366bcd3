"""No secret leaks from the gateway: those of callers and of the host travel through every kind of
call, and are looked for in all that it says and writes."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from llmctl.config.settings import Caps, Rate
from tests.conftest import ledger
from tests.gateway.site import (
    IDP_SECRET,
    MESSAGE,
    Identity,
    Site,
    identities,
    identity,
    site,
)
from tests.leaks.scan import Scan
from tests.leaks.test_leaks import CANARY, FAULTS

WRONG = f"lk-{'Wrong4711' * 5}"[:46]


def _ask(where: Site, scan: Scan, text: str, credential: str, number: int) -> int:
    """A call in one of the languages, plain or streamed; its status."""
    body: dict[str, Any] = {"messages": [{"role": "user", "content": text}]}
    if number % 2:
        body |= {"stream": True}
    if number % 4 < 2:
        path, body = "/v1/chat/completions", {"model": "sim", **body}
    else:
        path, body = "/v1/messages", {**MESSAGE, **body}
    reply = where.post(credential, body, path)
    scan.text(f"reply to {text}", reply.content)
    scan.text(f"headers of {text}", str(reply.headers.raw).encode())
    return int(reply.status_code)


def test_no_secret_leaks(environ: dict[str, str], tmp_path: Path) -> None:
    """With a provider that answers and one that fails in every way, -v included: the provider's
    key, virtual keys, JWTs, opaque tokens and the client's secret are in no reply, line or file."""
    with identity() as issuer:
        _leak(issuer, environ, tmp_path)


def _leak(issuer: Identity, environ: dict[str, str], folder: Path) -> None:
    (folder / "all").mkdir()
    issuer.known["Opaque-4711-Token"] = {"active": True, "sub": "olga"}
    given = {**environ, "SIM_KEY": CANARY, "TMPDIR": str(folder)}
    tokens = {"web": {"caps": Caps((Rate(1000, "minute"),))}, "old": {"expires": time.time() - 1}}
    with site(folder / "all", given, identities(issuer), "-v", tokens=tokens) as made:
        credentials = [
            made.secrets["web"],
            issuer.token(sub="ann"),
            "Opaque-4711-Token",
            made.secrets["old"],
            WRONG,
            issuer.token(sub="ann", aud="others"),
        ]
        scan = Scan((CANARY, IDP_SECRET, *credentials))
        patient = made.config.read_text().replace("retry:", "breaker: {failures: 1000}\n    retry:")
        made.config.write_text(patient)  # what fails is to fail, not to be waited for
        made.gateway.wait_for("the configuration was read again")
        statuses: set[int] = set()
        for at, (name, fault) in enumerate(FAULTS.items()):
            made.sim.fault = fault()
            for number in range(4):
                text = f"{name} {number}"
                credential = credentials[(at + number) % len(credentials)]
                statuses.add(_ask(made, scan, text, credential, number))
        for page in ("/usage", "/metrics", "/v1/models", "/openapi.json", "/readyz", "/nothing"):
            reply = made.get(made.secrets["web"], page)
            scan.text(page, reply.content)
        rows = ledger(made.home)
        made.gateway.stop()
        scan.text("log", "".join(made.gateway.lines).encode())
        scan.folder(folder)
        files = {path.name for path in folder.rglob("*")}
    assert scan.hits == []
    assert statuses >= {200, 400, 401, 404, 429, 502}
    assert {call.api_key for call in made.sim.calls} == {CANARY}
    assert len(rows) > len(FAULTS)
    assert files >= {"ledger.db", "tokens.db", "limits.db"}
    assert any(" 200 POST " in line for line in made.gateway.lines)
