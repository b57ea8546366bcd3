"""`alerts:` in a configuration."""

from __future__ import annotations

import inspect
import textwrap

import pytest

from llmctl.cli.alerts import list_rules
from llmctl.config.alerts import BUILT_IN, UNITS
from llmctl.config.settings import AlertSink, SinkSecret, WebhookSink
from llmctl.config.trust import Untrusted
from llmctl.errors import ConfigError
from tests.configuring import World

SINKS = """
  sinks:
    ops: {webhook: https://hooks.example/llm}
    team: {slack: {env: SLACK_URL}}
    post: {smtp: {host: mail.example, from: a@b.example, to: [x@y.example], user: me,
           key: {env: MAIL_PASSWORD}}}
    am: {alertmanager: http://am.internal:9093/}
    pager: {command: /bin/page now}
    any: {apprise: {command: op read x}}
"""


def test_ten_rules_are_built_in(world: World) -> None:
    """Without a word all are on, and nobody hears of them."""
    alerts = world.load().alerts
    assert list(alerts.rules) == list(BUILT_IN)
    assert all(rule.enabled for rule in alerts.rules.values())
    assert [(r.severity, r.figure, r.above, r.below, r.over) for r in alerts.rules.values()] == [
        ("critical", "error_rate", 0.05, None, 300),
        ("critical", "p95", 10, None, 300),
        ("critical", "daily_spend", 1.5, None, 300),
        ("critical", "auth_errors", 0, None, 300),
        ("critical", "circuits", 0, None, 300),
        ("warning", "error_rate", 0.01, None, 900),
        ("warning", "daily_spend", 1.2, None, 300),
        ("warning", "rate_limits", 10, None, 3600),
        ("warning", "hit_rate", None, 0.3, 3600),
        ("warning", "traffic", 3, None, 3600),
    ]
    assert not alerts.sinks


def test_off_by_a_word_changed_and_new(world: World) -> None:
    """A built-in rule is switched off by a word or changed in part; others are the user's own."""
    world.user(
        "budgets: [{name: team, limit_usd: 5, period: month}]\nalerts:\n  to: ops\n  rules:\n"
        "    error_rate_warning: off\n"
        "    error_rate_critical: {above: 10%, to: [team, ops]}\n"
        "    hit_rate_warning: {above: 99%}\n"
        "    slow: {figure: p95, above: 8s, resolve: 500ms, over: 10m, for: 5m, profile: openai,\n"
        "           severity: critical, min_calls: 5}\n"
        "    money: {figure: cost, above: $20, over: 1h}\n"
        "    month: {figure: budget, above: 80%, budget: team}" + SINKS
    )
    alerts = world.load().alerts
    rules = alerts.rules
    assert not rules["error_rate_warning"].enabled
    changed = rules["error_rate_critical"]
    assert (changed.above, changed.over, changed.to) == (0.1, 300, ("team", "ops"))
    assert (rules["hit_rate_warning"].above, rules["hit_rate_warning"].below) == (0.99, None)
    slow = rules["slow"]
    assert (slow.above, slow.resolve, slow.over, slow.held, slow.min_calls) == (8, 0.5, 600, 300, 5)
    assert (rules["money"].above, rules["month"].above) == (20, 0.8)
    assert alerts.to == ("ops",)


def test_sinks_and_what_their_commands_see(world: World) -> None:
    """One kind each; secrets are in their places, and no command sees the variables of others."""
    world.user("alerts:" + SINKS)
    alerts = world.load().alerts
    sinks = alerts.sinks
    assert [sink.kind for sink in sinks.values()] == [
        "webhook", "slack", "smtp", "alertmanager", "command", "apprise",
    ]  # fmt: skip
    assert sinks["ops"] == AlertSink(webhook=WebhookSink("https://hooks.example/llm"))
    assert sinks["team"].slack == SinkSecret(env="SLACK_URL")
    assert sinks["am"].alertmanager
    assert sinks["am"].alertmanager.url == "http://am.internal:9093"
    assert sinks["pager"].command == ("/bin/page", "now")
    hidden = {"SLACK_URL", "MAIL_PASSWORD", "OPENAI_API_KEY"}
    assert hidden <= set(alerts.hidden)
    assert sinks["any"].apprise
    assert hidden <= set(sinks["any"].apprise.hidden)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("rules: {hit_rate: off}", 'did you mean "hit_rate_warning"'),
        ("rules: {x: {above: 5}}", f"one of {', '.join(UNITS)}"),
        ("rules: {x: {figure: p95}}", "needs above or below"),
        ("rules: {x: {figure: p95, above: 5s, below: 1s}}", "needs above or below"),
        ("rules: {x: {figure: p95, above: 5%}}", "must be a duration such as 8s"),
        ("rules: {x: {figure: p95, above: 5}}", "must be a duration such as 8s"),
        ("rules: {error_rate_critical: {above: 5}}", "must be a share such as 5%"),
        ("rules: {x: {figure: errors, above: 5.5}}", "must be a number such as 10"),
        ("rules: {x: {figure: p95, above: 5s, resolve: 6s}}", "is above what fires it"),
        ("rules: {x: {figure: hit_rate, below: 50%, resolve: 40%}}", "is below what fires it"),
        ("rules: {x: {figure: budget, above: 80%, over: 5m}}", "is not for budget"),
        ("rules: {x: {figure: errors, above: 5, budget: b}}", "is not for errors"),
        ("rules: {x: {figure: budget, above: 80%, budget: b}}", "names no budget"),
        ("rules: {x: {figure: errors, above: 5, profile: opnai}}", 'did you mean "openai"'),
        ("rules: {x: {figure: traffic, above: 5, over: 2d}}", "is at most 24h"),
        ("rules: {x: {figure: errors, above: 5, over: 5}}", "a duration from 1m to 7d"),
        ("to: nobody", 'names no sink: "nobody"; write it below `sinks`'),
        ("{to: opps, sinks: {ops: {command: x}}}", 'did you mean "ops"'),
        ("sinks: {a: {webhook: http://x.example/}}", "only on this machine"),
        ("sinks: {a: {webhook: {key: {env: K}}}}", "needs url or secret_url"),
        ("sinks: {a: {slack: https://hooks.slack.com/services/S3CRET}}", "never a secret itself"),
        ("sinks: {a: {slack: {keyring: x}}}", "one of {env: NAME}, {secret: …} and {command: …}"),
        ("sinks: {a: {smtp: {host: h, from: nobody, to: a@b.c}}}", "an address of mail"),
        ("sinks: {a: {smtp: {host: h, from: a@b.c, to: []}}}", "at least one address"),
        ("sinks: {a: {smtp: {host: h, from: a@b.c, to: a@b.c, user: u}}}", "needs user and key"),
        (
            "sinks: {a: {smtp: {host: h, from: a@b, to: a@b, tls: off, user: u, key: {env: K}}}}",
            "cannot be off where a password is sent",
        ),
        ("sinks: {a: {alertmanager: {url: http://x.y, key: {env: K}}}}", "in the clear"),
        ("sinks: {a: {}}", "must be one of {webhook: URL}"),
        ("sinks: {a: {webhok: https://x.example}}", 'did you mean "webhook"?'),
        ("sinks: {a: {webhook: https://x.example, comand: x}}", 'did you mean "command"?'),
        ("sinks: {a: {slack: {evn: SLACK_URL}}}", 'did you mean "env"?'),
    ],
)
def test_what_it_may_not_say(world: World, text: str, words: str) -> None:
    """An error names the file, the line and what is wanted, and shows no secret."""
    world.user(f"alerts: {text if text.startswith('{') else f'{{{text}}}'}")
    with pytest.raises(ConfigError) as caught:
        world.load()
    assert caught.value.message.startswith(f"{world.own}:1: alerts.")
    assert words in caught.value.message
    assert "S3CRET" not in caught.value.message


def test_the_example_of_the_help(world: World) -> None:
    """What `alerts list -h` shows can be written as it stands there."""
    text = inspect.getdoc(list_rules) or ""
    _, _, text = text.partition("In the configuration:\n")
    text = textwrap.dedent(text.partition("\n\n")[0])
    world.user(
        "profiles: {claude: {provider: anthropic}}\n"
        "budgets: [{name: team, limit_usd: 5, period: month}]\n" + text
    )
    alerts = world.load().alerts
    assert {"slow", "month"} <= alerts.rules.keys()
    assert {sink.kind for sink in alerts.sinks.values()} == {*AlertSink.__struct_fields__}


def test_a_project_needs_trust(world: World) -> None:
    """Who hears, what is run, and what nobody hears of any more, is the user's word."""
    world.user("alerts: {sinks: {ops: {command: page}}}")
    for text in ("{sinks: {a: {command: evil}}}", "{to: []}", "{rules: {auth_critical: off}}"):
        world.project(f"alerts: {text}")
        with pytest.raises(Untrusted):
            world.load()
