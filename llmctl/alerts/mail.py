"""Alerts as mail: one plain text to all recipients, over SMTP."""

from __future__ import annotations

import asyncio
import smtplib
import socket
import ssl
from datetime import datetime
from email.message import EmailMessage
from email.policy import SMTP

from llmctl.alerts.message import LIMIT, Message, SinkFailure, one_line
from llmctl.config.settings import SmtpSink

_PORTS = {"starttls": 587, "on": 465, "off": 25}
_SHOWN = 200  # characters of what a server says


async def send_mail(message: Message, sink: SmtpSink, password: str | None) -> None:
    """Hand the mail to the server. Raises `SinkFailure`, also where a recipient is refused."""
    where = f"{sink.host}:{sink.port or _PORTS[sink.tls]}"
    try:
        await asyncio.to_thread(_send, _mail(message, sink), sink, password)
    except smtplib.SMTPRecipientsRefused as error:
        raise SinkFailure(f"{where} refuses {', '.join(sorted(error.recipients))}") from error
    except smtplib.SMTPResponseException as error:
        said = error.smtp_error
        words = said.decode("utf-8", "replace") if isinstance(said, bytes) else str(said)
        raise SinkFailure(
            f"{where} says {error.smtp_code} {one_line(words)[:_SHOWN]}".rstrip()
        ) from error
    except ssl.SSLError as error:
        raise SinkFailure(f"no TLS with {where} ({error.reason or error})") from error
    except (OSError, smtplib.SMTPException, ValueError) as error:
        why = getattr(error, "strerror", None) or one_line(str(error)) or type(error).__name__
        raise SinkFailure(f"no mail to {where} ({why[:_SHOWN]})") from error


def _mail(message: Message, sink: SmtpSink) -> EmailMessage:
    mail = EmailMessage(policy=SMTP)
    mail["From"] = sink.sender
    mail["To"] = ", ".join(sink.to)
    mail["Subject"] = message.title
    mail["Date"] = datetime.fromisoformat(message.time)
    # The same whoever sends it, however often: mailboxes show one.
    mail["Message-ID"] = f"<{message.dedupe_key}.{message.status}@llmctl.invalid>"
    mail["Auto-Submitted"] = "auto-generated"
    lines = [message.text, "", f"since {message.starts_at}, on {message.host}"]
    if message.ends_at and message.status == "resolved":
        lines.append(f"until {message.ends_at}")
    mail.set_content("\n".join([*lines, f"severity {message.severity}", ""]))
    return mail


def _send(mail: EmailMessage, sink: SmtpSink, password: str | None) -> None:
    port = sink.port or _PORTS[sink.tls]
    # Its own way to find this machine's full name asks DNS, which may take long.
    named, context = socket.gethostname(), ssl.create_default_context()
    server: smtplib.SMTP
    if sink.tls == "on":
        server = smtplib.SMTP_SSL(sink.host, port, named, timeout=LIMIT, context=context)
    else:
        server = smtplib.SMTP(sink.host, port, named, timeout=LIMIT)
    with server:
        if sink.tls == "starttls":
            server.starttls(context=context)  # raises where the server has none
        if sink.user is not None and password is not None:
            server.login(sink.user, password)
        refused = server.send_message(mail)
    if refused:
        raise smtplib.SMTPRecipientsRefused(refused)
