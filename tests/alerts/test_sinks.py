"""Sinks of alerts: each is told in its own form, and says what went wrong without a secret."""

from __future__ import annotations

import asyncio
import email
import json
import os
import ssl
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from email.policy import default
from pathlib import Path
from typing import Any

import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, AuthResult, Envelope
from msgspec.structs import replace

from llmctl.alerts import sinks as sinks_module
from llmctl.alerts.message import Message, SinkFailure, of_rule, of_test
from llmctl.alerts.rules import Measured
from llmctl.alerts.sinks import send
from llmctl.config.settings import (
    AlertmanagerSink,
    AlertRule,
    AlertSink,
    SinkSecret,
    SmtpSink,
    WebhookSink,
)
from llmctl.errors import LlmctlError, NoKeyError
from llmctl.keys import command as commands
from tests.alerts.receiver import Receiver
from tests.keys.openbao import closed_port
from tests.simulator.loopback import certificate

NOW = 1_795_003_500
RULE = AlertRule("error_rate_critical", "error_rate", above=0.05, severity="critical")
HOSTILE = "x\r\nBcc: eve@evil.example\x1b[2J <!channel> <https://evil.example|you & me> \u202e"
SECRET = "T0PSECRET9876543210"


def fired(detail: str = "9 of 75 calls failed", **more: Any) -> Message:
    """What a rule that fires says."""
    return of_rule(replace(RULE, **more), "firing", Measured(0.12, 75, detail), "k" * 20, NOW, NOW)


def give(message: Message, sink: AlertSink, hidden: tuple[str, ...] = (), **environ: str) -> None:
    """Send it."""
    asyncio.run(send(message, sink, {"PATH": os.environ["PATH"], **environ}, hidden))


def fails(message: Message, sink: AlertSink, **environ: str) -> str:
    """Send it in vain; the error's words."""
    with pytest.raises(LlmctlError) as caught:
        give(message, sink, (), **environ)
    assert SECRET not in caught.value.message
    return caught.value.message


def test_a_webhook_gets_the_message(receiver: Receiver) -> None:
    """It is posted as JSON, with the names that `alerts check -h` documents."""
    give(fired(), AlertSink(webhook=WebhookSink(f"{receiver.url}/hook?of=me")))
    (got,) = receiver.got
    assert receiver.paths == ["/hook?of=me"]
    assert receiver.asked[0]["content-type"] == "application/json"
    assert "authorization" not in receiver.asked[0]
    assert got == {
        "version": 1,
        "status": "firing",
        "name": "error_rate_critical",
        "severity": "critical",
        "title": "[FIRING] error_rate_critical: the error rate 12%",
        "text": "the error rate is 12%, above 5%, in the last 5m (9 of 75 calls failed)",
        "dedupe_key": "k" * 20,
        "time": "2026-11-18T12:05:00Z",
        "starts_at": "2026-11-18T12:05:00Z",
        "ends_at": None,
        "host": got["host"],
        "rule": {
            "figure": "error_rate",
            "value": 0.12,
            "above": 0.05,
            "below": None,
            "over_s": 300.0,
            "profile": None,
            "budget": None,
        },
        "batch": None,
    }


def test_a_resolved_one_has_the_same_key(receiver: Receiver) -> None:
    """Its key is that of the firing, and it says how long it lasted."""
    sink = AlertSink(webhook=WebhookSink(receiver.url))
    measured = Measured(0.01, 75)
    give(of_rule(RULE, "resolved", measured, "k" * 20, NOW - 720, NOW), sink)
    give(of_rule(RULE, "resolved", Measured(None), "k" * 20, NOW - 720, NOW), sink)
    first, second = receiver.got
    assert (first["status"], first["dedupe_key"]) == ("resolved", "k" * 20)
    assert (first["starts_at"], first["ends_at"]) == ("2026-11-18T11:53:00Z", first["time"])
    assert first["text"] == (
        "the error rate in the last 5m: is 1%; it was above 5%, for 12m in all"
    )
    assert "there is nothing to take it of any more" in second["text"]


def test_secrets_of_a_webhook(receiver: Receiver) -> None:
    """A key goes as a bearer token; an address that is secret comes from its place. No error shows
    either."""
    key, url = SinkSecret(env="TOKEN"), SinkSecret(env="URL")
    sink = AlertSink(webhook=WebhookSink(None, url, key))
    give(fired(), sink, URL=f"{receiver.url}/{SECRET}", TOKEN=SECRET)
    assert receiver.paths == [f"/{SECRET}"]
    assert receiver.asked[0]["authorization"] == f"Bearer {SECRET}"
    receiver.status = 403
    words = fails(fired(), sink, URL=f"{receiver.url}/{SECRET}", TOKEN=SECRET)
    assert words == "127.0.0.1 replies HTTP 403: ok"
    assert "$TOKEN is not set" in fails(fired(), sink, URL=receiver.url)
    assert "no address" in fails(fired(), sink, URL=f"http://evil.example/{SECRET}", TOKEN="t")
    printed = SinkSecret(command=(sys.executable, "-c", f"print('{receiver.url}/printed')"))
    receiver.status = 200
    give(fired(), AlertSink(webhook=WebhookSink(None, printed)))
    assert receiver.paths[-1] == "/printed"


def test_redirects_are_not_followed(receiver: Receiver) -> None:
    """A message goes where the user said, and nowhere else."""
    receiver.status, receiver.headers = 302, {"location": f"{receiver.url}/elsewhere"}
    words = fails(fired(), AlertSink(webhook=WebhookSink(f"{receiver.url}/hook")))
    assert words == "127.0.0.1 replies HTTP 302 (redirects are not followed): ok"
    assert receiver.paths == ["/hook"]


def test_a_sink_that_is_down_or_slow(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    """It says so, and not that a profile's settings are to be looked at."""
    sink = AlertSink(webhook=WebhookSink(f"http://127.0.0.1:{closed_port()}/"))
    assert fails(fired(), sink).endswith("(Connection refused)")
    monkeypatch.setattr(sinks_module, "LIMIT", 0.1)
    receiver.hold.clear()
    words = fails(fired(), AlertSink(webhook=WebhookSink(receiver.url)))
    assert words.startswith("it did not reply within")


def test_slack_shows_text_alone(receiver: Receiver) -> None:
    """What names and errors hold is neither a link, a mention nor markup there."""
    sink = AlertSink(slack=SinkSecret(env="SLACK"))
    give(fired(HOSTILE, profile="a<@U1>"), sink, SLACK=f"{receiver.url}/services/{SECRET}")
    (got,) = receiver.got
    assert got == {
        "text": "[FIRING] error_rate_critical: the error rate 12% of the profile a&lt;@U1&gt;\n"
        "the error rate of the profile a&lt;@U1&gt; is 12%, above 5%, in the last 5m (x Bcc: "
        "eve@evil.example &lt;!channel&gt; &lt;https://evil.example|you &amp; me&gt; )",
        "mrkdwn": False,
        "unfurl_links": False,
        "unfurl_media": False,
    }
    receiver.status = 500
    words = fails(fired(), sink, SLACK=f"{receiver.url}/services/{SECRET}")
    assert words == "127.0.0.1 replies HTTP 500: ok"


# Mail.


class Mailbox:
    """Keeps what it is given; the mailbox `full` is refused."""

    def __init__(self) -> None:
        self.mails: list[Envelope] = []
        self.tls: list[bool] = []

    async def handle_RCPT(  # noqa: N802
        self, _: SMTP, __: Any, envelope: Envelope, address: str, ___: Any
    ) -> str:
        """Take a recipient."""
        if address.startswith("full@"):
            return "552 the mailbox is full"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(  # noqa: N802
        self, server: SMTP, __: Any, envelope: Envelope
    ) -> str:
        """Take a mail."""
        self.mails.append(envelope)
        assert server.transport
        self.tls.append(server.transport.get_extra_info("ssl_object") is not None)
        return "250 OK"


def _authenticate(_: Any, __: Any, ___: Any, ____: str, login: Any) -> AuthResult:
    known = (login.login, login.password) == (b"llm", SECRET.encode())
    return AuthResult(success=known, handled=False)


@contextmanager
def mail_server(mailbox: Mailbox, **options: Any) -> Iterator[int]:
    """A mail server on loopback; its port."""
    port = closed_port()
    server = Controller(mailbox, hostname="127.0.0.1", port=port, **options)
    server.start()
    try:
        yield port
    finally:
        server.stop()


def to(port: int, **more: Any) -> AlertSink:
    """A sink of mail."""
    given = {"host": "127.0.0.1", "sender": "llm@x.example", "to": ("ops@x.example",), **more}
    return AlertSink(smtp=SmtpSink(port=port, **{"tls": "off", **given}))


def test_mail() -> None:
    """A plain text to all recipients, which mailboxes can tell from one they have."""
    mailbox = Mailbox()
    with mail_server(mailbox) as port:
        give(fired(), to(port, to=("ops@x.example", "boss@x.example")))
    (envelope,) = mailbox.mails
    assert envelope.rcpt_tos == ["ops@x.example", "boss@x.example"]
    assert isinstance(envelope.content, bytes)
    mail = email.message_from_bytes(envelope.content, policy=default)
    assert mail["subject"] == "[FIRING] error_rate_critical: the error rate 12%"
    assert (mail["from"], mail["to"]) == ("llm@x.example", "ops@x.example, boss@x.example")
    assert mail["message-id"] == f"<{'k' * 20}.firing@llmctl.invalid>"
    assert mail["auto-submitted"] == "auto-generated"
    assert mail["date"].datetime.timestamp() == NOW
    assert mail.get_content_type() == "text/plain"
    text = mail.get_content()
    assert "is 12%, above 5%, in the last 5m (9 of 75 calls failed)" in text
    assert "since 2026-11-18T12:05:00Z" in text


def test_names_make_no_headers_of_mail() -> None:
    """Whatever a profile or a model is called, the mail has the headers that it has."""
    mailbox = Mailbox()
    message = fired(HOSTILE, profile=f"é{HOSTILE}")
    with mail_server(mailbox) as port:
        give(message, to(port))
        give(replace(message, text=f".\r\n.\r\nQUIT\r\n{HOSTILE}"), to(port))
        assert "no mail" in fails(replace(message, title="a\r\nBcc: eve@evil.example"), to(port))
    first, second = mailbox.mails
    assert isinstance(first.content, bytes)
    mail = email.message_from_bytes(first.content, policy=default)
    assert mail["bcc"] is None
    assert mail["subject"].startswith("[FIRING] error_rate_critical: the error rate 12% of the")
    assert "\x1b" not in mail.get_content()
    assert first.rcpt_tos == second.rcpt_tos == ["ops@x.example"]


@pytest.fixture(scope="module")
def pem(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate of 127.0.0.1, with its key in the same file."""
    return certificate(tmp_path_factory.mktemp("mail"))


@pytest.fixture
def tls(pem: Path) -> ssl.SSLContext:
    """A server's side of TLS."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(pem)
    return context


def test_mail_over_tls_with_a_password(
    pem: Path, tls: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By STARTTLS, which the password waits for; a certificate that nobody signed is refused."""
    mailbox, key = Mailbox(), SinkSecret(env="PW")
    options = {"auth_required": True, "auth_require_tls": True, "authenticator": _authenticate}
    sink = {"tls": "starttls", "user": "llm", "key": key}
    with mail_server(mailbox, tls_context=tls, require_starttls=True, **options) as port:
        assert "no TLS with" in fails(fired(), to(port, **sink), PW=SECRET)
        monkeypatch.setenv("SSL_CERT_FILE", str(pem))
        give(fired(), to(port, **sink), PW=SECRET)
        assert "says 535" in fails(fired(), to(port, **sink), PW="wrong-password")
        assert "says 530" in fails(fired(), to(port))
    assert mailbox.tls == [True]


def test_mail_without_starttls_is_not_sent() -> None:
    """A server that has none, or that somebody in between says has none, gets nothing."""
    mailbox = Mailbox()
    with mail_server(mailbox) as port:
        assert "no mail to" in fails(fired(), to(port, tls="starttls"))
    assert not mailbox.mails


def test_mail_that_is_refused() -> None:
    """One recipient that is refused is said, though the others have it."""
    mailbox = Mailbox()
    with mail_server(mailbox) as port:
        words = fails(fired(), to(port, to=("ops@x.example", "full@x.example")))
        assert words == f"127.0.0.1:{port} refuses full@x.example"
    assert len(mailbox.mails) == 1
    assert fails(fired(), to(port)).endswith("(Connection refused)")


# Alertmanager.


def test_alertmanager(alertmanager: str, receiver: Receiver) -> None:
    """Prometheus' own takes what fires and what is resolved, tells each once, and keeps an alert
    whose firing comes twice as one."""
    sink = AlertSink(alertmanager=AlertmanagerSink(alertmanager))
    at = time.time()
    firing = of_rule(RULE, "firing", Measured(0.12, 75), "k" * 20, at - 5, at - 5)
    give(firing, sink)
    give(firing, sink)
    receiver.wait(1)
    give(of_rule(RULE, "resolved", Measured(0.0, 75), "k" * 20, at - 5, at), sink)
    first, second = receiver.wait(2)
    assert (first["status"], second["status"]) == ("firing", "resolved")
    (alert,) = second["alerts"]
    host = alert["labels"].pop("instance")
    assert host == firing.host
    assert alert["labels"] == {
        "alertname": "error_rate_critical",
        "severity": "critical",
        "service": "llmctl",
    }
    assert alert["annotations"]["dedupe_key"] == "k" * 20
    assert "above 5%" in alert["annotations"]["description"]
    give(of_test("am", at), sink)
    assert receiver.wait(3)[2]["commonLabels"]["alertname"] == "llmctl_test"
    assert len(receiver.got) == 3


# Commands, and services of apprise.


def python(code: str) -> AlertSink:
    """A sink that runs this code."""
    return AlertSink(command=(sys.executable, "-c", code))


def test_a_command_gets_the_message_on_stdin(tmp_path: Path) -> None:
    """One line of JSON, without a shell, and without the variables of secrets."""
    code = f"import os, sys, json; open({str(tmp_path / 'got')!r}, 'w').write(json.dumps([sys.stdin.read(), dict(os.environ)]))"  # noqa: E501
    environ: Mapping[str, str] = {"SLACK": SECRET, "LLMCTL_KEYRING_PASSWORD": SECRET, "OWN": "1"}
    give(fired(), python(code), hidden=("SLACK", "OPENAI_API_KEY"), **environ)
    said, seen = json.loads((tmp_path / "got").read_text())
    assert json.loads(said)["name"] == "error_rate_critical"
    assert said.count("\n") == 1
    assert seen["OWN"] == "1"
    assert SECRET not in seen.values()


def test_a_command_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its exit code, what it said on stderr, that it took too long or does not exist. One that
    reads nothing is no failure."""
    give(fired(detail="x" * 900), python("pass"))
    words = fails(fired(), python("import sys; sys.stderr.write('no pager'); sys.exit(3)"))
    assert words.endswith("failed (exit 3): no pager")
    assert "cannot be started" in fails(fired(), AlertSink(command=("/nowhere/page",)))
    monkeypatch.setattr(commands, "LIMIT", 0.3)
    assert "took longer than 0.3 s" in fails(fired(), python("import time; time.sleep(60)"))


@pytest.mark.filterwarnings("ignore::DeprecationWarning:apprise")
def test_apprise(receiver: Receiver) -> None:
    """Any service of apprise gets title and text; its address is nowhere to be seen."""
    address = receiver.url.replace("http://", f"json://user:{SECRET}@")
    sink = AlertSink(apprise=SinkSecret(env="APPRISE"))
    give(fired(), sink, APPRISE=address)
    (got,) = receiver.got
    assert got["title"] == "[FIRING] error_rate_critical: the error rate 12%"
    assert got["message"].startswith("the error rate is 12%")
    assert got["type"] == "failure"
    receiver.status = 500
    assert fails(fired(), sink, APPRISE=address).startswith("the service did not take it")
    assert "no address that apprise knows" in fails(fired(), sink, APPRISE=f"nothing://{SECRET}")


def test_no_secret_is_no_message() -> None:
    """A sink whose secret is missing says where it should be."""
    for sink in (AlertSink(slack=SinkSecret(env="S")), AlertSink(apprise=SinkSecret(env="S"))):
        with pytest.raises(NoKeyError, match=r"\$S is not set: set it with `export S="):
            give(fired(), sink)
    assert issubclass(SinkFailure, LlmctlError)
