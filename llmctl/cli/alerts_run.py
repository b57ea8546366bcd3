"""Use cases of `llmctl alerts`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import closing
from datetime import UTC
from typing import Any, TypeVar

from llmctl.alerts.alarm import Alarm, Delivery, Standing, sinks_of
from llmctl.alerts.message import condition, of_test, shown, span
from llmctl.cli.alerts_batch import no_sink
from llmctl.cli.context import Context, load_settings
from llmctl.cli.output import age, plural, print_json, print_lines, print_table
from llmctl.config.alerts import WITHOUT_SPAN
from llmctl.config.settings import Alerts, Settings
from llmctl.errors import UsageError
from llmctl.reports.periods import iso
from llmctl.storage.ledger import empty_reading, open_ledger
from llmctl.storage.ledger_queries import Reading

T = TypeVar("T")


def run_list(context: Context) -> int:
    """Print the rules as they stand."""
    settings = load_settings(context)
    with _alarm(settings, context) as alarm:
        found = alarm.standings(_read(settings, alarm.measured))
    if context.json:
        print_json({"rules": [_rule_json(one, settings.alerts) for one in found]})
        return 0
    now = context.clock.wall()
    heard = [", ".join(sinks_of(settings.alerts, one.rule)) or "-" for one in found]
    apart = len({*heard}) > 1
    print_table(
        ("rule", "severity", "state", "now", "fires", *(["sinks"] if apart else [])),
        [
            (
                one.rule.name,
                one.rule.severity,
                _state(one, now, " "),
                shown(one.rule.figure, one.measured.value),
                _fires(one, _SIGNS[one.rule.above is None]),
                *([sinks] if apart else []),
            )
            for one, sinks in zip(found, heard, strict=True)
        ],
        whole=("rule",),
    )
    if settings.alerts.sinks and found and not apart:
        context.info(f"each of them tells {heard[0]}" if heard[0] != "-" else "none tells a sink")
    if off := [name for name, rule in settings.alerts.rules.items() if not rule.enabled]:
        context.info(f"off: {', '.join(off)}")
    if not settings.alerts.sinks:
        context.info(_NO_SINKS)
    return 0


_SIGNS = ("> ", "< ")  # shorter than words: the table fits a terminal of 80 columns

_NO_SINKS = (
    "there are no sinks: nobody is told, and only `alerts check` looks (write `alerts: sinks:` in "
    "the configuration, see `llmctl alerts list -h`)"
)


def run_check(context: Context) -> int:
    """Look, tell, and print what fires."""
    settings = load_settings(context)
    with _alarm(settings, context) as alarm:
        found = _read(settings, alarm.check)
        sent = asyncio.run(alarm.deliver())
    firing = [one for one in found if one.state.phase == "firing"]
    if context.json:
        print_json(
            {
                "firing": [one.rule.name for one in firing],
                "rules": [_rule_json(one, settings.alerts) for one in found],
                "sent": [_delivery_json(one) for one in sent],
            }
        )
    else:
        now = context.clock.wall()
        print_lines(*(_line(one, now) for one in found if one.event or one.state.phase != "quiet"))
        if not firing and not context.quiet:
            print_lines(f"nothing fires ({plural(len(found), 'rule')})")
        for one in sent:
            if one.failure is None:
                context.info(f"told {one.sink}: {one.message.title}")
    return 1 if firing else 0


def run_test(name: str, context: Context) -> int:
    """Send a test to a sink, or to all sinks of a rule."""
    settings = load_settings(context)
    alerts = settings.alerts
    if name in alerts.sinks:
        sinks: Sequence[str] = (name,)
    elif name in alerts.rules:
        sinks = sinks_of(alerts, alerts.rules[name])
    else:
        raise no_sink(name, {*alerts.sinks, *alerts.rules} if alerts.sinks else ())
    if not sinks:
        raise UsageError(f"no sink hears of the rule {name}: write `alerts: sinks:`")
    now = context.clock.wall()

    async def all_of_them(alarm: Alarm) -> list[Delivery]:
        return await asyncio.gather(*(alarm.send(of_test(one, now), one) for one in sinks))

    with _alarm(settings, context) as alarm:
        sent = asyncio.run(all_of_them(alarm))
    if context.json:
        print_json({"sent": [_delivery_json(one) for one in sent]})
    for one in sent:
        how = "took it" if one.failure is None else f"did not take it: {one.failure}"
        line = f"{one.sink} ({alerts.sinks[one.sink].kind}) {how}"
        if one.failure is not None:
            context.warn(line)
        elif not context.json:
            print_lines(line)
    return 0 if all(one.failure is None for one in sent) else 1


def _alarm(settings: Settings, context: Context) -> Alarm:
    return Alarm(settings, context.environ, context.clock, context.warn)


def _read(settings: Settings, work: Callable[[Reading], T]) -> T:
    """What `work` makes of the ledger; where there is none yet, of an empty one."""
    path = settings.folders.state / "ledger.db"
    if not path.exists():
        with empty_reading() as empty:
            return work(empty)
    with closing(open_ledger(path, "", "")) as ledger:
        return ledger.report(work)


def _state(one: Standing, now: float, since: str = " for ") -> str:
    phase = one.state.phase
    return phase if phase == "quiet" else f"{phase}{since}{age(now - one.state.since)}"


def _fires(one: Standing, sign: str = "") -> str:
    rule = one.rule
    threshold = condition(rule)
    if sign:
        threshold = sign + threshold.partition(" ")[2]
    over = "" if rule.figure in WITHOUT_SPAN else f" over {span(rule.over)}"
    held = f" for {span(rule.held)}" if rule.held else ""
    of = f" of {rule.profile or rule.budget}" if rule.profile or rule.budget else ""
    return f"{rule.figure}{of} {threshold}{over}{held}"


def _line(one: Standing, now: float) -> str:
    value = shown(one.rule.figure, one.measured.value)
    detail = f" ({one.measured.detail})" if one.measured.detail else ""
    state = "resolved" if one.event == "resolved" else _state(one, now)
    return f"{one.rule.severity} {one.rule.name}: {state}: now {value}, {_fires(one)}{detail}"


def _rule_json(one: Standing, alerts: Alerts) -> dict[str, Any]:
    rule, phase = one.rule, one.state.phase
    return {
        "name": rule.name,
        "severity": rule.severity,
        "state": phase,
        "since": None if phase == "quiet" else iso(round(one.state.since * 1000), UTC),
        "figure": rule.figure,
        "value": one.measured.value,
        "calls": one.measured.calls,
        "detail": one.measured.detail,
        "above": rule.above,
        "below": rule.below,
        "over_s": None if rule.figure in WITHOUT_SPAN else rule.over,
        "for_s": rule.held,
        "to": list(sinks_of(alerts, rule)),
    }


def _delivery_json(one: Delivery) -> dict[str, Any]:
    message = one.message
    return {
        "sink": one.sink,
        "name": message.name,
        "status": message.status,
        "error": one.failure,
    }
