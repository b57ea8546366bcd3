"""`llmctl metrics`: the figures to watch, for Prometheus, a program or a person."""

from __future__ import annotations

import base64
import platform
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal
from urllib.parse import quote, urlsplit

from typer import Option, Typer

from llmctl.cli.context import Context, load_settings
from llmctl.cli.options import command, parsed
from llmctl.cli.output import drawn, print_json, write_stdout
from llmctl.errors import AuthFailed, BadResponse, CallError, NoKeyError, UsageError

if TYPE_CHECKING:
    from llmctl.reports.report import Report
    from llmctl.storage.ledger_queries import Activity, Reading

_LIMIT = 30.0  # seconds that a push may take
_SAID = 300  # bytes of what a Pushgateway says of its refusal
_NAMES = {
    "calls": "calls",
    "refused_calls": "refused here, not sent",
    "error_rate": "errors",
    "cache_hit_rate": "cache hits",
    "rate_limit_hit_rate": "rate-limit hits",
    "retries": "retries",
    **{f"latency_p{share}_ms": f"latency p{share}" for share in (50, 95, 99)},
    **{f"first_token_p{share}_ms": f"first token p{share}" for share in (50, 95, 99)},
    "input_tokens": "tokens in",
    "output_tokens": "tokens out",
    "token_trend": "tokens, against the time before",
    "cost_usd": "cost",
    "mean_cost_usd": "cost of a call",
    "may_have_been_billed_usd": "may have been billed besides",
    "calls_in_flight": "calls in flight now",
    "rows_in_batches": "rows in providers' batches now",
    "queue_depth": "calls that wait for their turn now",
    "circuits_not_closed": "circuits not closed now",
}


app = Typer()


@command(app, "metrics", "config", "json")
def metrics(
    context: Context,
    window: Annotated[
        str, Option(metavar="1h", help="How far back latencies, and the table, go.")
    ] = "1h",
    output: Annotated[
        Path | None,
        Option("--output", "-o", metavar="FILE", help="Write there, whole or not at all."),
    ] = None,
    push: Annotated[
        str | None, Option(metavar="URL", help="Send to a Pushgateway; replaces what it had.")
    ] = None,
    push_key: Annotated[
        str | None,
        Option(metavar="VARIABLE", help="Holds the Pushgateway's token, or user:password."),
    ] = None,
    format: Annotated[Literal["prometheus", "table", "json"], Option(help="See below.")] = (
        "prometheus"
    ),
) -> int:
    """Show the figures to watch, from the ledger on this machine.

    Prometheus text is what `llmctl serve` shows at /metrics, without its HTTP requests: counters of
    all time, percentiles of the window, and what goes on now in all processes. It is for the
    textfile collector of node_exporter (-o, from cron), or for a Pushgateway (--push; as job llmctl
    and this host, unless the address names a group: /metrics/job/…). It needs the extra `metrics`.

    The table and JSON show the window, each figure beside its healthy target where it has one.
    Rates are shares of the calls that were not refused here, rate-limit hits of the requests to
    providers. Waiting calls are told every 10 s.

    \b
    --format json (or --json), one object; null is unknown, or there is none:
      from, to, window_s
      figures    {NAME: {value, target {below or above}, met}}; names say units:
                 _ms, _usd, _rate (a share); token_trend is 0.12 for 12% more
                 than in the window before
      error_types  {TYPE: calls}
      circuits   [{provider, profile, state, processes}]: open or half-open

    \b
    Examples:
      llmctl metrics --format table --window 24h
      llmctl metrics -o /var/lib/node_exporter/llmctl.prom
      llmctl metrics --push https://push.example --push-key PUSH_TOKEN
    """
    from llmctl.config.settings import parse_age
    from llmctl.storage.ledger import read_ledger

    seconds = parsed(
        "--window", "a time such as 30m, 1h or 7d", window, lambda text: parse_age(text) or None
    )
    assert seconds is not None
    plain = context.json or format != "prometheus"
    if plain and (output or push):
        raise UsageError("-o and --push are for Prometheus: leave --json and --format out")
    if push_key is not None and push is None:
        raise UsageError("--push-key goes with --push URL")
    address = None if push is None else _address(push, secret=push_key is not None)
    headers = {} if push_key is None else _authorization(context, push_key)
    now = round(context.clock.wall() * 1000)
    ledger = load_settings(context).folders.state / "ledger.db"
    if plain:
        report, activity = read_ledger(ledger, lambda reading: _watch(reading, now, seconds))
        if context.json:
            print_json(_json(report, activity, seconds))
        else:
            write_stdout(_table(report, activity), coloured=True)
        return 0
    from llmctl.auth.extras import needs_extra

    needs_extra("metrics", "prometheus_client", "prometheus-client")
    from llmctl.reports.metrics import snapshot, text

    page = text(read_ledger(ledger, lambda reading: snapshot(reading, now, seconds)))
    if output is not None:
        _write(output, page)
    if address is not None:
        _push(address, headers, page)
        context.info(f"pushed to {address}")
    if output is None and address is None:
        write_stdout(page.decode())
    return 0


def _watch(reading: Reading, now: int, seconds: float) -> tuple[Report, Activity]:
    from datetime import UTC

    from llmctl.reports.periods import Span
    from llmctl.reports.report import Query, make

    span = Span(max(0, now - round(seconds * 1000)), now + 1)
    return make(reading, Query(span, (), UTC, now), ()), reading.activity(now)


def _json(report: Report, activity: Activity, seconds: float) -> dict[str, Any]:
    from llmctl.cli.figures import figure_json
    from llmctl.reports.periods import iso
    from llmctl.reports.targets import figures

    span, zone = report.query.span, report.query.zone
    return {
        "from": iso(span.start, zone),
        "to": iso(span.end - 1, zone),
        "window_s": seconds,
        "figures": {one.name: figure_json(one) for one in figures(report, activity)},
        "error_types": report.error_types,
        "circuits": [
            {"provider": provider, "profile": profile, "state": state, "processes": count}
            for (lane, state), count in activity.circuits.items()
            for provider, _, profile in [lane.partition("/")]
        ],
    }


def _table(report: Report, activity: Activity) -> str:
    from rich.table import Table
    from rich.text import Text

    from llmctl.cli.figures import target_words, value_words
    from llmctl.redact import printable
    from llmctl.reports.periods import iso
    from llmctl.reports.targets import figures

    span, zone = report.query.span, report.query.zone
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for name in ("", "value", "target", ""):
        table.add_column(name, justify="right" if name == "value" else "left")
    asked = report.total.calls - report.total.kept - report.total.refused
    for one in figures(report, activity):
        # Without a call there is no price that could be unknown.
        value = value_words(one) if asked or one.value is not None else "-"
        met = {None: Text(), True: Text("met", "green"), False: Text("missed", "bold red")}[one.met]
        table.add_row(_NAMES[one.name], value, target_words(one), met)
    remarks = [f"Errors: {name} {count:,}" for name, count in report.error_types.items()]
    remarks += [
        f"Circuit {lane}: {state}" + (f" in {count:,} processes" if count > 1 else "")
        for (lane, state), count in activity.circuits.items()
    ]
    first, last = (iso(at // 1000 * 1000, zone) for at in (span.start, span.end - 1))
    head = Text(f"LLM metrics, {first} to {last}", "bold")
    lines = [Text(printable(" ".join(line.split())), "yellow") for line in remarks]
    return drawn(head, Text(), table, *([Text(), *lines] if lines else []))


def _write(path: Path, page: bytes) -> None:
    """Replace the file, for any reader: a collector is another user. Raises `DiskError`."""
    from llmctl.storage.files import replacing

    with replacing(path, mode=0o644) as file:
        file.write(page)


def _address(url: str, *, secret: bool) -> str:
    """The address of the group of metrics. Raises `UsageError`."""
    from llmctl.config.settings import parse_endpoint

    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and parts.hostname
    except ValueError:
        usable = False
    if not usable or parts.query or parts.fragment:
        raise UsageError("--push wants an address such as https://push.example")
    if "@" in parts.netloc:
        raise UsageError(
            "--push takes no password, which others could see: name its variable by --push-key"
        )
    if secret and parse_endpoint(url) is None:
        raise UsageError("with --push-key, --push wants https:// (http:// only on this machine)")
    if "/metrics/job" in parts.path:
        return url
    return f"{url.rstrip('/')}/metrics/job/llmctl/instance/{quote(platform.node() or '-', safe='')}"


def _authorization(context: Context, variable: str) -> dict[str, str]:
    """The header with a user and password, or a token. Raises `NoKeyError`."""
    from llmctl.redact import remember

    value = context.environ.get(variable, "").strip()
    if not value:
        raise NoKeyError(f"--push-key names the variable {variable}, which is not set: set it")
    remember(value)
    if ":" in value:
        return {"authorization": f"Basic {base64.b64encode(value.encode()).decode()}"}
    return {"authorization": f"Bearer {value}"}


def _push(url: str, headers: dict[str, str], page: bytes) -> None:
    """Put the metrics in the place of the group's. Raises `CallError`."""
    import asyncio

    from llmctl.http import build, fetch
    from llmctl.reports.metrics import CONTENT_TYPE

    request = build("PUT", url, {"content-type": CONTENT_TYPE, **headers}, page)
    try:
        reply = asyncio.run(fetch(request, _LIMIT, _SAID))
    except CallError as error:
        reason = error.message.partition(";")[0]  # the rest is about providers
        raise type(error)(f"the metrics were not pushed: {reason}; check --push") from error
    if not 200 <= reply.status < 300:
        raise _refused(request.url.host, reply.status, reply.body)


def _refused(host: str, status: int, body: bytes) -> CallError:
    said = " ".join(body.decode("utf-8", "replace").split())
    why = f"{host} answers {status}" + (f": {said}" if said else "")
    if status in (401, 403):
        return AuthFailed(f"the metrics were not pushed: {why}; check --push-key")
    return BadResponse(f"the metrics were not pushed: {why}; check --push", http_status=status)
