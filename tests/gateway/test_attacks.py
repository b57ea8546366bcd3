"""Attacks on the running command: nobody gets in, further, or more than what is theirs."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from decimal import Decimal
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import psutil
import pytest
from cryptography.hazmat.primitives import serialization

from llmctl.config.settings import Allowance, Caps, Rate
from tests.conftest import LLMCTL, ledger
from tests.gateway.issuer import claims, forged, key_set, public, rsa_key, signed
from tests.gateway.site import (
    CHAT,
    HELLO,
    MESSAGE,
    Identity,
    Site,
    identities,
    identity,
    site,
    status_of,
)

CAPPED = Caps((Rate(10**6, "minute"),), (Rate(10**9, "hour"),), (Allowance(Decimal(5), "day"),))
RELOADED = "the configuration was read again"
OWN = {"x-request-id", "date"}
"""Headers that differ between any two replies."""


@pytest.fixture(scope="module")
def environment() -> dict[str, str]:
    """What a fresh login would have."""
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "TMPDIR") if name in os.environ}
    return {**kept, "PYTHONWARNINGS": "error"}


@pytest.fixture(scope="module")
def issuer() -> Iterator[Identity]:
    """An issuer of JWTs, which also knows opaque tokens."""
    with identity() as server:
        yield server


@pytest.fixture(scope="module")
def guarded(
    tmp_path_factory: pytest.TempPathFactory, environment: dict[str, str], issuer: Identity
) -> Iterator[Site]:
    """A gateway of two workers that takes tokens, JWTs and opaque tokens."""
    folder = tmp_path_factory.mktemp("guarded")
    tokens: dict[str, Any] = {
        "web": {}, "other": {}, "leaver": {}, "boss": {"admin": True},
        "narrow": {"profiles": ("sim",)}, "expired": {"expires": time.time() - 1},
        "capped": {"caps": CAPPED},
    }  # fmt: skip
    with site(folder, environment, identities(issuer), "--workers", "2", tokens=tokens) as made:
        yield made


@pytest.fixture(scope="module")
def web(guarded: Site) -> str:
    """The secret of a plain token there."""
    return guarded.secrets["web"]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory, environment: dict[str, str]) -> Iterator[Site]:
    """A gateway of one user on loopback, without tokens; one page of the web may call it."""
    folder, serve = tmp_path_factory.mktemp("alone"), "serve: {cors: ['https://app.example']}\n"
    with site(folder, environment, serve) as made:
        yield made


def chat(text: str, most: int = 100) -> dict[str, Any]:
    """A question that no cache has answered before."""
    turns = [{"role": "user", "content": text}]
    return {"model": "sim", "messages": turns, "max_completion_tokens": most}


class _Posting(threading.Thread):
    """One call, whose status `wait` gives."""

    def __init__(self, where: Site, token: str, body: Mapping[str, Any]) -> None:
        super().__init__(daemon=True)
        self._where, self._token, self._body = where, token, body
        self._status = 0

    def run(self) -> None:
        """Ask."""
        self._status = self._where.post(self._token, self._body).status_code

    def wait(self) -> int:
        """The status of the reply."""
        self.join()
        return self._status


# --- Who ----------------------------------------------------------------------------------------


def _pem(issuer: Identity) -> bytes:
    """The public key as a file has it, which an attacker can have, too."""
    return issuer.key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def _hs256(issuer: Identity) -> str:
    """Signed with the public key as if it were a shared secret."""
    import hashlib
    import hmac

    unsigned = forged({"alg": "HS256", "kid": "one", "typ": "JWT"}, claims()).rstrip(".")
    digest = hmac.new(_pem(issuer), unsigned.encode(), hashlib.sha256).digest()
    return f"{unsigned}.{base64.urlsafe_b64encode(digest).decode().rstrip('=')}"


FORGERIES: Mapping[str, Callable[[Identity], str]] = {
    "expired": lambda o: o.token(exp=int(time.time()) - 3600),
    "not yet": lambda o: o.token(nbf=int(time.time()) + 3600),
    "for ever": lambda o: o.token(exp=float("inf")),
    "without an end": lambda o: o.token(exp=None),
    "other audience": lambda o: o.token(aud="others"),
    "no audience": lambda o: o.token(aud=None),
    "other issuer": lambda o: o.token(iss="https://evil.example"),
    "no subject": lambda o: o.token(sub=None),
    "empty subject": lambda o: o.token(sub=" "),
    "subject of two lines": lambda o: o.token(sub="ann\nadmin"),
    "malformed budget": lambda o: o.token(budget="free"),
    "malformed profiles": lambda o: o.token(profiles={"sim": True}),
    "none": lambda _: forged({"alg": "none", "kid": "one"}, claims()),
    "None": lambda _: forged({"alg": "None", "kid": "one"}, claims()),
    "no algorithm": lambda _: forged({"kid": "one"}, claims()),
    "public key as secret": _hs256,
    "no signature": lambda o: o.token().rpartition(".")[0] + ".",
    "claims of another": lambda o: ".".join(
        (o.token().split(".")[0], forged({}, claims(sub="root")).split(".")[1], o.token()[-342:])
    ),
    "another's key": lambda _: signed(rsa_key(), claims()),
    "unknown key": lambda _: signed(rsa_key(), claims(), kid="two"),
    "key by path": lambda _: signed(rsa_key(), claims(), kid="../../../../dev/null"),
    "key by address": lambda o: signed(rsa_key(), claims(), kid=f"{o.url}/evil"),
    "key that it brings": lambda o: signed(
        key := rsa_key(), claims(), jku=f"{o.url}/evil", x5u=f"{o.url}/evil", jwk=public(key)
    ),
    "extensions": lambda o: signed(o.key, claims(), crit=["exp"], b64=True),
    "no JSON": lambda _: "e30.e30.e30",
    "no base64": lambda _: "a.b.c",
    "deep": lambda _: forged({"alg": "RS256", "kid": "one"}, {"sub": [[[[]]]]}, b"x"),
    "unknown opaque": lambda _: "opaque-unknown",
    "unknown virtual key": lambda _: f"lk-{'a' * 43}",
    "empty": lambda _: "",
}


def test_forgeries_are_told_the_same(guarded: Site, issuer: Identity) -> None:
    """Whatever is wrong with a credential, the reply is the same to the byte but for its id; no
    place that a token names is asked; nothing reaches the provider; the log quotes none."""
    before, replies = len(guarded.sim.calls), {}
    for name, forge in FORGERIES.items():
        token = forge(issuer)
        reply = guarded.post(None, authorization=f"Bearer {token}".strip())
        replies[name] = (
            reply.status_code,
            {key: value for key, value in reply.headers.items() if key not in OWN},
            reply.content,
        )
        assert not token or token not in "".join(guarded.gateway.lines), name
    expected = replies["unknown virtual key"]
    assert expected[0] == 401
    assert {name for name, reply in replies.items() if reply != expected} == set()
    assert set(issuer.asked) <= {"/jwks", "/introspect"}
    assert len(guarded.sim.calls) == before


def test_claims_take_effect(guarded: Site, issuer: Identity) -> None:
    """User, team, profiles and budget of a good token hold for its calls, and are on the ledger."""
    ann = issuer.token(sub="ann", team="data", profiles="sim answers", budget="5/day")
    assert guarded.post(ann).status_code == 200
    row = ledger(guarded.home)[-1]
    assert row["user"] == "ann"
    assert json.loads(row["tags"]) == {"team": "data"}
    assert guarded.post(ann, {**CHAT, "model": "claude"}).status_code == 403
    # The team's own profiles: what the token may is not what the team may.
    assert guarded.post(issuer.token(sub="tim", team="search")).status_code == 403
    poor = issuer.token(sub="poor", budget="0.000001/day")
    refused = guarded.post(poor, chat("not asked before"))
    assert (refused.status_code, refused.json()["error"]["code"]) == (402, "insufficient_quota")
    (cap,) = guarded.get(ann, "/usage").json()["caps"]
    assert (cap["cap"], cap["limit_usd"]) == ("a day for user ann", 5)


def test_a_user_s_other_token_lifts_no_cap(guarded: Site, issuer: Identity) -> None:
    """While a call waits for a cap that another one holds, what the same user asks with a token
    without caps changes nothing about it."""
    capped = issuer.token(sub="eve", budget="0.00008/day")
    free = issuer.token(sub="eve")
    first, second = (_Posting(guarded, capped, chat(text, 20)) for text in ("first", "second"))
    before = len(guarded.sim.calls)
    guarded.sim.hold()
    try:
        first.start()
        guarded.sim.wait_for_calls(before + 1)
        second.start()
        while second.is_alive():
            assert (
                guarded.client.get(
                    "/usage", headers={"x-api-key": free, "connection": "close"}
                ).status_code
                == 200
            )
    finally:
        guarded.sim.release()
    assert (first.wait(), second.wait()) == (200, 429)
    assert len(guarded.sim.calls) == before + 1


def test_keys_in_a_file(guarded: Site, issuer: Identity, tmp_path: Path) -> None:
    """A key set in a file is as good as one at an address, and as strict."""
    good, file = guarded.config.read_text(), tmp_path / "keys.json"
    key = rsa_key()
    file.write_bytes(key_set(public(key, kid="one")))
    try:
        guarded.config.write_text(good.replace(f"{issuer.url}/jwks", str(file)))
        for _ in range(2):
            guarded.gateway.wait_for(RELOADED)
        assert guarded.post(signed(key, claims())).status_code == 200
        assert guarded.post(signed(key, claims(), kid=str(file))).status_code == 401
        assert guarded.post(issuer.token()).status_code == 401
    finally:
        guarded.config.write_text(good)
        for _ in range(2):
            guarded.gateway.wait_for(RELOADED)


def test_introspection(guarded: Site, issuer: Identity) -> None:
    """An active token lets in as whom the server says, an inactive one does not; while the server
    says nothing of use the reply is 503, with when to come again."""
    good = {"active": True, "sub": "olga", "exp": int(time.time()) + 60}
    issuer.known = {"opaque-olga": good, "opaque-old": {**good, "exp": int(time.time()) - 60}}
    issuer.known["opaque-no"] = {**good, "active": "true"}
    assert guarded.post("opaque-olga").status_code == 200
    assert ledger(guarded.home)[-1]["user"] == "olga"
    assert guarded.post("opaque-old").status_code == 401
    assert guarded.post("opaque-no").status_code == 401
    issuer.status = 500
    try:
        reply = guarded.post("opaque-olga")
    finally:
        issuer.status = 200
    assert (reply.status_code, reply.headers["retry-after"]) == (503, "5")
    assert issuer.url not in reply.text


def test_one_credential(guarded: Site, web: str) -> None:
    """Two that differ are none; the same in two headers is one; another scheme is none."""
    other = guarded.secrets["other"]
    assert guarded.post(web, **{"x-api-key": other}).status_code == 401
    assert guarded.post(web, **{"x-api-key": web}).status_code == 200
    assert guarded.post(None, **{"x-api-key": web, "api-key": other}).status_code == 401
    assert guarded.post(None, authorization=f"Basic {web}").status_code == 401
    twice = f"authorization: Bearer {web}\r\nauthorization: Bearer {other}\r\n"
    reply = guarded.raw(
        f"GET /v1/models HTTP/1.1\r\nhost: x\r\n{twice}connection: close\r\n\r\n".encode()
    )
    assert status_of(reply) == 401


def test_a_token_does_what_it_is_for(guarded: Site, web: str) -> None:
    """One of a profile asks no other by any name; an expired one nothing; only an admin sees what
    others use."""
    narrow = guarded.secrets["narrow"]
    for model in ("claude", "claude/claude-sonnet-5-5", "google", "../claude", "answers", "Claude"):
        assert guarded.post(narrow, {**CHAT, "model": model}).status_code in (403, 404), model
    assert guarded.post(narrow).status_code == 200
    assert guarded.post(guarded.secrets["expired"]).status_code == 401
    for token, status, sees in ((web, 403, False), (guarded.secrets["boss"], 200, True)):
        assert guarded.get(token, "/metrics").status_code == status
        assert ("callers" in guarded.get(token, "/usage").json()) is sees


def test_a_revoked_token_is_refused_by_every_worker(guarded: Site) -> None:
    """Within a second after `tokens revoke` has ended, on connections to both workers."""
    secret = guarded.secrets["leaver"]
    port = int(guarded.gateway.url.rpartition(":")[2])
    workers = [
        child
        for child in psutil.Process(guarded.gateway.process.pid).children()
        if "resource_tracker" not in " ".join(child.cmdline())
    ]

    calls: list[HTTPConnection] = []

    def status(call: HTTPConnection) -> int:
        call.request("GET", "/v1/models", headers={"x-api-key": secret})
        with call.getresponse() as reply:
            reply.read()
        return reply.status

    def connected() -> int:
        ours = {call.sock.getsockname()[1] for call in calls}
        found = [
            {c.raddr[1] for c in worker.net_connections("tcp") if c.raddr} for worker in workers
        ]
        return sum(not ours.isdisjoint(ports) for ports in found)

    try:
        while connected() < len(workers):
            calls.append(HTTPConnection("127.0.0.1", port, timeout=10))
            assert status(calls[-1]) == 200
        command = [str(LLMCTL), "tokens", "revoke", "leaver"]
        with subprocess.Popen(command, env=guarded.environ) as revoking:
            while revoking.poll() is None:  # connections that say nothing are closed
                for call in calls:
                    status(call)
                with suppress(subprocess.TimeoutExpired):
                    revoking.wait(0.2)
        end = time.monotonic() + 1
        last = dict.fromkeys(calls, 200)
        while time.monotonic() < end and set(last.values()) != {401}:
            last = {call: status(call) for call in calls}
        assert set(last.values()) == {401}
        assert {status(call) for call in calls} == {401}
    finally:
        for call in calls:
            call.close()


# --- Where --------------------------------------------------------------------------------------

TARGETS = (
    "/v1/models",
    "//v1/models",
    "/./v1/models",
    "/v1/../healthz",
    "/healthz/../v1/models",
    "/healthz/..%2fv1/models",
    "/healthz%2f..%2fv1%2fmodels",
    "/healthz;/v1/models",
    "/healthz/v1/models",
    "/healthz/",
    "/v1%2fmodels",
    "/%76%31/models",
    "/v1/models.",
    "/v1/models/..",
    "/v1/models%00",
    "/v1/models?/healthz",
    "/v1/models#/healthz",
    "/v1/models\\..\\healthz",
    "/usage",
    "/usage/",
    "/metrics",
    "/openapi.json",
    "/",
    "http://x/v1/models",
    "http://x/healthz/../v1/models",
    "http://x?/v1/models",
    "http://user@x:99999/usage",
    "x:443",
    "*",
    "healthz",
)


@pytest.mark.parametrize("host", ["127.0.0.1", "x/v1/models?", "x/healthz?", "healthz", "", "@["])
def test_no_path_leads_around_the_token(guarded: Site, web: str, host: str) -> None:
    """However the target and `Host` are written, nothing but refusals comes without a token, and
    with one no target is a mistake of the gateway's."""
    for target in TARGETS:
        for key in ("", f"x-api-key: {web}\r\n"):
            head = f"GET {target} HTTP/1.1\r\nhost: {host}\r\n{key}connection: close\r\n\r\n"
            reply = guarded.raw(head.encode())
            if key:
                assert status_of(reply) in (200, 400, 403, 404), (target, reply)
            else:
                assert status_of(reply) in (400, 401), (target, reply)
            assert b"location" not in reply.lower(), target


def test_only_health_is_open(guarded: Site) -> None:
    """And says no more than that."""
    for target in ("/healthz", "/%68ealthz", "/healthz?x=/v1/models", "http://x/healthz"):
        reply = guarded.raw(
            f"GET {target} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n".encode()
        )
        assert (status_of(reply), reply.endswith(b'{"status":"ok"}')) == (200, True), target


def test_paths_write_no_lines_of_the_log(guarded: Site) -> None:
    """A path with the end of a line in it is one line of the log."""
    fake = "2026-01-01T00:00:00Z%20200%20POST%20/v1/forged"
    for line in ("%0a", "%0d%0a", "%E2%80%A8", "%C2%85", "%1b[2J"):
        head = f"GET /{line}{fake} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
        assert status_of(guarded.raw(head.encode())) == 401
    guarded.gateway.wait_for("1b[2J")
    mine = [line for line in guarded.gateway.lines if "forged" in line]
    assert len(mine) == 5
    assert all(" 401 GET /" in line and line.isascii() for line in mine)


def test_pages_of_the_web_are_refused(alone: Site) -> None:
    """Without tokens: a `Host` of another name (DNS rebinding), an origin that is not listed, and
    what a form can send never reach the provider."""
    before = len(alone.sim.calls)
    for headers in (
        {"host": "evil.example"},
        {"host": "evil.example:8400"},
        {"host": "0.0.0.0"},
        {"host": "localhost.evil.example"},
        {"host": "127.0.0.1, evil.example"},
        {"host": "localhost@evil.example"},
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"origin": "https://app.example.evil.example"},
        {"origin": "http://app.example"},
    ):
        assert alone.post(None, **headers).status_code == 403, headers
    for kind in (
        "text/plain",
        "text/plain; charset=json",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=json",
        "",
    ):
        assert alone.post(None, **{"content-type": kind}).status_code == 415, kind
    assert len(alone.sim.calls) == before
    for kind in ("application/json", "Application/JSON; charset=utf-8"):
        assert alone.post(None, **{"content-type": kind}).status_code == 200, kind
    assert alone.post(None, origin="https://app.example").status_code == 200


def test_cors_is_for_listed_origins(alone: Site) -> None:
    """Preflights are answered, and replies and errors can be read, by the listed origin alone."""
    ask = {"access-control-request-method": "POST"}
    with alone.gateway.client() as client:
        for origin, listed in (("https://app.example", True), ("https://evil.example", False)):
            replies = [
                client.options("/v1/messages", headers={**ask, "origin": origin}),
                client.post("/v1/chat/completions", json=CHAT, headers={"origin": origin}),
                client.post("/v1/chat/completions", json={}, headers={"origin": origin}),
                client.get("/nothing", headers={"origin": origin}),
            ]
            assert [one.status_code for one in replies] == (
                [204, 200, 400, 404] if listed else [403] * 4
            )
            allowed = {one.headers.get("access-control-allow-origin") for one in replies}
            assert allowed == ({origin} if listed else {None})
            assert not any("access-control-allow-credentials" in one.headers for one in replies)
            assert all("Origin" in one.headers["vary"] for one in replies)
        assert client.options("/v1/messages").status_code == 403


@pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("setpriv") is None,
    reason="needs root and setpriv to be another user",
)
def test_another_user_of_the_machine_is_refused(alone: Site) -> None:
    """Without tokens only the user who runs the gateway is served."""
    program = (
        "import http.client, sys; c = http.client.HTTPConnection(sys.argv[1]); "
        "c.request('GET', '/v1/models'); print(c.getresponse().status)"
    )
    address = alone.gateway.url.removeprefix("http://")
    statuses = [
        subprocess.run(
            [*user, "/usr/bin/env", "python3", "-c", program, address],
            capture_output=True, text=True, check=True, cwd="/",
        ).stdout.strip()
        for user in ([], ["setpriv", "--reuid=65534", "--clear-groups"])
    ]  # fmt: skip
    assert statuses == ["200", "403"]


def test_addresses(alone: Site) -> None:
    """Only addresses of the list are let in, by the connection or by what the trusted proxies say;
    what others write before that counts for nothing. A refusal is on no ledger."""
    good = alone.config.read_text()
    rows = len(ledger(alone.home))
    inside, outside = "10.1.2.3", "192.0.2.1"
    try:
        for proxies, served, kept_out in (
            (0, (), (None, inside, f"{inside}, {inside}")),
            (1, (inside, f"{outside}, {inside}", f"[::ffff:{inside}]:80"), (
                None, "", outside, f"{inside}, {outside}", f"{inside},", f"{inside}, x")),
            (2, (f"{inside}, {outside}", f"{outside}, {inside}, {outside}"), (
                None, inside, f"{outside}, {inside}", f"{inside}, {outside}, {inside}")),
        ):  # fmt: skip
            ip = f"serve: {{ip: {{allow: [10.0.0.0/8], trusted_proxies: {proxies}}}}}\n"
            alone.config.write_text(good.partition("serve:")[0] + ip)
            alone.gateway.wait_for(RELOADED)
            for told, status in [*((t, 200) for t in served), *((t, 403) for t in kept_out)]:
                headers = {} if told is None else {"x-forwarded-for": told}
                reply = alone.post(None, **headers, forwarded=f"for={inside}")
                assert reply.status_code == status, (proxies, told)
            with alone.gateway.client() as client:
                assert client.get("/healthz").status_code == 200
    finally:
        alone.config.write_text(good)
        alone.gateway.wait_for(RELOADED)
    assert len(ledger(alone.home)) - rows == 5


# --- What ---------------------------------------------------------------------------------------


def deep(levels: int) -> bytes:
    """A body with so many levels."""
    return b'{"model":"sim","messages":' + b"[" * levels + b"]" * levels + b"}"


def with_field(text: str) -> bytes:
    """A good body of either language with more in it."""
    body = {"model": "sim", "max_tokens": 5, "messages": HELLO}
    return json.dumps(body)[:-1].encode() + b", " + text.encode() + b"}"


BODIES: Mapping[str, tuple[bytes, int]] = {
    "empty": (b"", 400),
    "no JSON": (b"{'model': 'sim'}", 400),
    "half": (with_field('"x": 1')[:-1], 400),
    "two": (with_field('"x": 1') * 2, 400),
    "a list": (b"[]", 400),
    "a text": (b'"sim"', 400),
    "null": (b"null", 400),
    "invalid UTF-8": (with_field('"x": "') [:-1] + b'\xff\xfe"}', 400),
    "a byte order mark": (b"\xef\xbb\xbf" + with_field('"x": 1'), 400),
    "UTF-16": (with_field('"x": 1').decode().encode("utf-16"), 400),
    "half a surrogate": (with_field(r'"x": "\ud800"'), 400),
    "NaN": (with_field('"temperature": NaN'), 400),
    "infinity": (with_field('"temperature": 1e999'), 400),
    "deep": (deep(10_000), 400),
    "deep in a field": (with_field('"x": ' + '{"x":' * 10_000 + "1" + "}" * 10_000), 400),
    "many messages": (json.dumps({"model": "sim", "messages": HELLO * 2001}).encode(), 400),
    "n: 1e9": (with_field('"n": 1e9'), 400),
    "n: 1000000000": (with_field('"n": 1000000000'), 400),
    "n: -1": (with_field('"n": -1'), 400),
    "n: true": (with_field('"n": true'), 400),
    "max_tokens: -1": (with_field('"max_tokens": -1'), 400),
    "max_tokens: 2**200": (with_field(f'"max_tokens": {2**200}'), 400),
    "stream: 1": (with_field('"stream": 1'), 400),
    "model: a list": (with_field('"model": ["sim"]'), 400),
    "model: a path": (with_field('"model": "../sim"'), 404),
    "model: long": (with_field(f'"model": "{"m" * 2**20}"'), 404),
    "messages: numbers": (with_field('"messages": [1, 2]'), 400),
    "too long": (b" " * (11 * 2**20), 413),
}  # fmt: skip
PATHS = ("/v1/chat/completions", "/v1/messages", "/v1/messages/count_tokens")


def check_shape(path: str, reply: Any) -> None:
    """The reply is an error in the language of its path, and short."""
    assert reply.headers["content-type"] == "application/json"
    said = reply.json()
    assert said["error"]["message"]
    assert (said.get("type") == "error") is path.startswith("/v1/messages")
    assert len(reply.content) < 2000


@pytest.mark.parametrize("path", PATHS)
def test_bodies_that_are_refused(guarded: Site, path: str) -> None:
    """Each is refused in the caller's language before anything is sent, whether its length is told
    or comes to light; the log stays short, too."""
    before, failures = len(guarded.sim.calls), []
    with guarded.gateway.client(guarded.secrets["capped"]) as client:
        for name, (body, status) in BODIES.items():
            for content in (body, iter([body[:100], body[100:]])):
                reply = client.post(
                    path, content=content, headers={"content-type": "application/json"}
                )
                if reply.status_code != status:
                    failures.append((name, reply.status_code, reply.text[:200]))
                else:
                    check_shape(path, reply)
        assert failures == []
        for headers, status in (
            ({"content-encoding": "gzip"}, 415),
            ({"content-encoding": "x"}, 415),
            ({"content-type": "text/plain"}, 415),
            ({"content-type": ""}, 415),
        ):
            sent = {"content-type": "application/json", **headers}
            reply = client.post(path, content=with_field('"x": 1'), headers=sent)
            assert reply.status_code == status, headers
            check_shape(path, reply)
        for method in ("GET", "PUT", "DELETE", "PATCH"):
            reply = client.request(method, path)
            assert (reply.status_code, reply.headers["allow"]) == (405, "POST")
            check_shape(path, reply)
    assert len(guarded.sim.calls) == before
    assert max(map(len, guarded.gateway.lines)) < 2000


def test_what_is_checked_is_what_is_sent(guarded: Site, web: str) -> None:
    """Of a name that stands twice the provider gets the one that was checked, and no other."""
    body = json.dumps(chat("twice"))[:-1] + ', "n": 9, "model": "claude", "n": 1, "model": "sim"}'
    reply = guarded.client.post(
        "/v1/chat/completions",
        content=body.encode(),
        headers={"content-type": "application/json", "x-api-key": web},
    )
    assert reply.status_code == 200
    sent = guarded.sim.calls[-1]
    assert sent.raw.count(b'"n"') == sent.raw.count(b'"model"') == 1
    assert sent.body is not None
    assert (sent.body["n"], sent.body["model"]) == (1, "gpt-5-mini")


@pytest.mark.parametrize("most", [2**31, 2**53, 2**63 - 1, 2**63, 2**64 - 1])
@pytest.mark.parametrize("name", ["web", "capped"])
def test_numbers_beyond_all_measure(guarded: Site, name: str, most: int) -> None:
    """A limit of output that no counter holds is no mistake of the gateway's, whether a cap counts
    or the ledger alone."""
    reply = guarded.post(guarded.secrets[name], chat(f"{name} {most}", most))
    assert reply.status_code in ((400, 402) if name == "capped" else (200, 400)), reply.text
    message = {**MESSAGE, "max_tokens": most, "messages": chat(f"{name} {most}")["messages"]}
    reply = guarded.post(guarded.secrets[name], message, "/v1/messages")
    assert reply.status_code in ((400, 402) if name == "capped" else (200, 400)), reply.text


SMUGGLED = b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n"
CHUNKS = b"0\r\n\r\n" + SMUGGLED


@pytest.mark.parametrize(
    ("headers", "rest"),
    [
        (b"content-length: 5\r\ntransfer-encoding: chunked", CHUNKS),
        (b"transfer-encoding: chunked\r\ncontent-length: 5", CHUNKS),
        (b"content-length: 5\r\ncontent-length: 6", b"12345" + SMUGGLED),
        (b"content-length: 5, 6", b"12345" + SMUGGLED),
        (b"content-length: +5", b"12345" + SMUGGLED),
        (b"content-length: -5", b"12345" + SMUGGLED),
        (b"content-length: 0x5", b"12345" + SMUGGLED),
        (b"transfer-encoding: chunked, identity", CHUNKS),
        (b"transfer-encoding: xchunked", CHUNKS),
        (b"transfer-encoding : chunked", CHUNKS),
        (b"transfer-encoding: chunked\r\ntransfer-encoding: identity", CHUNKS),
        (b"transfer-encoding: chunked", b"5;\n12345\r\n" + CHUNKS),
        (b"transfer-encoding: chunked", b"-1\r\n" + CHUNKS),
        (b"transfer-encoding: chunked", b"ffffffffffffffffff\r\n" + CHUNKS),
        (b"x: y\r\n transfer-encoding: chunked", CHUNKS),
        (b"x: y\rcontent-length: 5", b"12345" + SMUGGLED),
        (b"x: \x00", SMUGGLED),
        (b"x y: z", SMUGGLED),
    ],
)
def test_smuggling(guarded: Site, headers: bytes, rest: bytes) -> None:
    """A request whose end proxies could see elsewhere is one refusal, and what stands behind it is
    never answered."""
    head = b"POST /v1/messages HTTP/1.1\r\nhost: x\r\n" + headers
    reply = guarded.raw(head + b"\r\n\r\n" + rest)
    assert status_of(reply) in (400, 401), reply
    assert reply.count(b"HTTP/1.1 ") == 1, reply
