"""Sinks of alerts: where a message goes, and in which form.

webhook        the message's JSON (`message.Message`), POST; any 2xx is a yes
slack          {"text"}: title and text, nothing of which is markup or mentions anybody
smtp           see `mail`
alertmanager   POST /api/v2/alerts; what fires ends by itself after a week
command        the message's JSON on stdin; exit 0 is a yes, and it has 10 s
apprise        title and text to any service that apprise knows

Redirects are not followed, and no message of an error holds an address' path or a secret.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from llmctl.alerts.mail import send_mail
from llmctl.alerts.message import LIMIT, Message, SinkFailure, one_line
from llmctl.config.settings import AlertmanagerSink, AlertSink, SinkSecret, parse_endpoint
from llmctl.errors import CallError, CallTimeout, NoKeyError, SetupError
from llmctl.keys.command import output_of
from llmctl.keys.keyring_store import PASSWORD
from llmctl.keys.secret_place import secret_of

_LATE = f"it did not reply within {LIMIT:.0f} s"
_SHOWN = 200  # characters of what a sink replies
_LASTS = timedelta(days=7)  # without an end of ours Alertmanager ends an alert after 5 minutes
_NEWS = timedelta(minutes=5)  # a batch that ended, and a test


async def send(
    message: Message, sink: AlertSink, environ: Mapping[str, str], hidden: tuple[str, ...] = ()
) -> None:
    """Give the message to the sink; its command does not see the `hidden` variables. Raises
    `SinkFailure`, `NoKeyError` where there is no secret, `SetupError` and `ConfigError`."""
    try:
        await _send(message, sink, environ, hidden)
    except CallError as error:
        raise SinkFailure(_why(error)) from error
    except TimeoutError as error:
        raise SinkFailure(_LATE) from error


async def _send(
    message: Message, sink: AlertSink, environ: Mapping[str, str], hidden: tuple[str, ...]
) -> None:
    if sink.webhook is not None:
        url = sink.webhook.url or await _address(sink.webhook.secret_url, environ)
        await _post(url, message, await _bearer(sink.webhook.key, environ))
    elif sink.slack is not None:
        text = f"{message.title}\n{message.text}"
        for character, entity in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;")):
            text = text.replace(character, entity)
        said = {"text": text, "mrkdwn": False, "unfurl_links": False, "unfurl_media": False}
        await _post(await _address(sink.slack, environ), said)
    elif sink.alertmanager is not None:
        await _alertmanager(message, sink.alertmanager, environ)
    elif sink.smtp is not None:
        key = None if sink.smtp.key is None else await secret_of(sink.smtp.key, environ)
        await send_mail(message, sink.smtp, key)
    elif sink.command is not None:
        await _run(message, sink.command, environ, hidden)
    else:
        assert sink.apprise is not None
        await _apprise(message, await secret_of(sink.apprise, environ))


async def _address(place: SinkSecret | None, environ: Mapping[str, str]) -> str:
    """The address at a place. Raises `SinkFailure` where it is none, without repeating it."""
    assert place is not None
    url = await secret_of(place, environ)
    if parse_endpoint(url) is None:
        raise SinkFailure(
            "its secret is no address: it must be https:// and a host (http:// only on this "
            "machine), without user and password"
        )
    return url


async def _bearer(place: SinkSecret | None, environ: Mapping[str, str]) -> dict[str, str]:
    if place is None:
        return {}
    return {"authorization": f"Bearer {await secret_of(place, environ)}"}


async def _alertmanager(
    message: Message, sink: AlertmanagerSink, environ: Mapping[str, str]
) -> None:
    now = datetime.fromisoformat(message.time)
    end = now + (_LASTS if message.status == "firing" else _NEWS)
    rule = message.rule or {}
    labels = {
        # What is told of a batch, or as a test, is no incident that another of its kind ends.
        "alertname": message.name if message.rule else f"llmctl_{message.name}",
        "severity": message.severity,
        "service": "llmctl",
        "instance": message.host,
        **{name: rule[name] for name in ("profile", "budget") if rule.get(name)},
        **({} if message.rule else {"incident": message.dedupe_key}),
    }
    alert = {
        "labels": labels,
        "annotations": {
            "summary": message.title,
            "description": message.text,
            "dedupe_key": message.dedupe_key,
        },
        "startsAt": message.starts_at,
        "endsAt": message.time if message.status == "resolved" else end.astimezone(UTC).isoformat(),
    }
    await _post(f"{sink.url}/api/v2/alerts", [alert], await _bearer(sink.key, environ))


async def _post(url: str, body: Any, headers: Mapping[str, str] | None = None) -> None:
    """Send JSON. Raises `CallError` and `SinkFailure`."""
    from llmctl.http import build, fetch

    request = build(
        "POST",
        url,
        {"content-type": "application/json", **(headers or {})},
        msgspec.json.encode(body),
    )
    reply = await fetch(request, LIMIT, _SHOWN)
    if 200 <= reply.status < 300:
        return
    why = " (redirects are not followed)" if 300 <= reply.status < 400 else ""
    said = one_line(reply.body.decode("utf-8", "replace"))
    raise SinkFailure(
        f"{request.url.host} replies HTTP {reply.status}{why}{f': {said}' if said else ''}"
    )


async def _run(
    message: Message, command: tuple[str, ...], environ: Mapping[str, str], hidden: tuple[str, ...]
) -> None:
    seen = {name: environ[name] for name in {*environ} - {*hidden, PASSWORD}}
    named = f"the command {command[0]}"
    body = msgspec.json.encode(message) + b"\n"
    try:
        await output_of(
            command, seen, named, "check the sink's `command`", stdin=body, mend="let it print less"
        )
    except NoKeyError as error:
        raise SinkFailure(error.message) from error


async def _apprise(message: Message, url: str) -> None:
    try:
        import apprise
    except ImportError:
        raise SetupError(
            "a sink of apprise needs the package apprise: install llmctl with its extra `alerts`, "
            "from its checkout with `pip install '.[alerts]'`"
        ) from None
    kinds = {"critical": "failure", "warning": "warning", "info": "info"}
    kind = "success" if message.status == "resolved" else kinds[message.severity]

    def notify() -> bool:
        service = apprise.Apprise()
        if not service.add(url):
            raise SinkFailure("its secret is no address that apprise knows")
        title, text = message.title, message.text
        return bool(service.notify(text, title, notify_type=kind, body_format="text"))

    async with asyncio.timeout(LIMIT):
        if not await asyncio.to_thread(notify):
            raise SinkFailure("the service did not take it; apprise says no more")


def _why(error: CallError) -> str:
    """Why a sink could not be reached: no profile's settings have to do with it."""
    if isinstance(error, CallTimeout):
        return _LATE
    return error.message.partition("; check the network")[0]
