"""`llmctl alerts`: rules over the ledger, looked at now, and the sinks that hear of them."""

from __future__ import annotations

from typing import Annotated

from typer import Argument

from llmctl.cli.context import Context
from llmctl.cli.options import command, command_group

app = command_group("alerts", "Watch errors, latency and spending; tell sinks of them.")


@command(app, "list", "config", "json")
def list_rules(context: Context) -> int:
    """List the rules, their figures now, and who hears.

    Nothing is sent, and no state changes.

    \b
    In the configuration:
      alerts:
        to: [ops]                      # of all rules; without it all sinks
        rules:
          hit_rate_warning: off
          error_rate_critical: {above: 10%}
          slow: {figure: p95, above: 8s, resolve: 6s, over: 10m, for: 5m,
                 profile: claude, severity: critical, to: [team, ops]}
          month: {figure: budget, above: 80%, budget: team}
        sinks:
          ops: {webhook: https://hooks.example.com/llm}
          team: {slack: {env: SLACK_WEBHOOK_URL}}
          post: {smtp: {host: mail.example.com, from: llm@example.com,
                 to: [ops@example.com], user: llm, key: {env: MAIL_PASSWORD}}}
          prometheus: {alertmanager: http://alertmanager:9093}
          pager: {command: /usr/local/bin/page}
          phone: {apprise: {secret: op://ops/pushover/url}}

    \b
    Figures, of the calls of the last `over` (5m):
      error_rate, errors   calls that got no answer
      auth_errors          calls whose key was refused
      p50, p95, p99        latency of the provider's answers
      rate_limits, retries, calls, cost
      hit_rate             of the calls that asked the cache
      circuits             circuits that are not closed now: providers that are
                           down, for which calls wait
      traffic              calls against the same time of day on the last 7
                           days that had any then
    Figures of budgets (UTC):
      budget               share used in its period, the highest of all
      daily_spend          today's spend against budgets of a day, or without one
                           against a day's part of longer ones

    A figure fires once it has been above (or below) its threshold `for` so long, and is resolved
    when it is back at `resolve`, 80% of the threshold where that is not said. Rates and latencies
    of fewer than `min_calls` (20) calls are not judged. A secret is never in the file: {env: NAME},
    {secret: URI} or {command: …}, as for keys.

    --json: {rules: [{name, severity, state, since, figure, value, calls, detail, above, below,
    over_s, for_s, to}]}.
    """
    from llmctl.cli.alerts_run import run_list

    return run_list(context)


@command(app, "check", "config", "json")
def check(context: Context) -> int:
    """Tell the sinks what has changed; exit 1 while a rule fires.

    For cron, and whoever wants to know now.

    Each firing and each end of one is told once, whichever process sees it first: `batch` and
    `serve` look every 30 seconds while they run. A sink that fails is tried again by later checks
    for a day, and is said on stderr.

    \b
    What a webhook is sent, and a command gets on stdin, is one JSON object:
      version 1; status "firing", "resolved", "ended" (of a batch) or "test";
      name, severity, title, text; dedupe_key, the same for all of one incident;
      time, starts_at, ends_at (ISO 8601, UTC); host;
      rule {figure, value, above, below, over_s, profile, budget} or null;
      batch {input, output, exit_code, rows, ok, failed, cost_usd, …} or null

    Slack gets title and text; mail both, with a Message-ID of dedupe_key and status; Alertmanager
    its v2 API, with the labels alertname, severity, service, instance (the host), profile, budget.

    --json: {firing: [name], rules: [as `alerts list`], sent: [{sink, name, status, error}]}; exit 1
    while anything fires.

    \b
    Example, in a crontab:
      */5 * * * * llmctl alerts check -q
    """
    from llmctl.cli.alerts_run import run_check

    return run_check(context)


@command(app, "test", "config", "json")
def test(
    context: Context,
    name: Annotated[str, Argument(metavar="NAME", help="A sink, or a rule: all who hear of it.")],
) -> int:
    """Send a marked test message, and say how that went.

    Exit 1 where a sink did not take it.

    \b
    Example:
      llmctl alerts test ops
    """
    from llmctl.cli.alerts_run import run_test

    return run_test(name, context)
