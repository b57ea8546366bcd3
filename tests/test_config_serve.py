"""`serve:` in configuration files: what it says, and what a wrong one is told."""

from __future__ import annotations

import re
from decimal import Decimal

import pytest

from llmctl.config import trust
from llmctl.config.paths import find_folders
from llmctl.config.settings import (
    Allowance,
    Caps,
    Claims,
    Group,
    IntrospectionSettings,
    IpSettings,
    JwtSettings,
    Rate,
    ScreenRule,
    Secret,
    Serve,
    ServeLimits,
    TlsFiles,
    parse_allowance,
    parse_rate,
)
from llmctl.config.trust import Untrusted
from llmctl.errors import ConfigError
from tests.configuring import World

JWT = "issuer: i, audience: a"
RULE = "{name: a, pattern: x, action: mask}"


def refusal(world: World, text: str) -> str:
    """The message for a user's file with these lines below `serve:`, without the file's name."""
    body = "".join(f"  {line}\n" for line in text.splitlines())
    path = world.user(f"profiles: {{fast: {{provider: openai}}}}\nserve:\n{body}")
    with pytest.raises(ConfigError) as caught:
        world.load()
    message = str(caught.value)
    assert message.isprintable()
    assert message.startswith(f"{path}:")
    return message.removeprefix(str(path))


def test_without_any_the_gateway_is_closed_to_other_machines(world: World) -> None:
    """Nothing said is the loopback address, and bounds on what a caller may send."""
    world.user("serve:\n")
    assert world.load().serve == Serve()
    assert (Serve().host, Serve().limits.body, Serve().limits.n) == ("127.0.0.1", 10 * 2**20, 8)


def test_everything_is_read_exactly(world: World) -> None:
    """Each key; paths begin at the file's folder or the home folder, origins and networks are in
    the form that they are compared in."""
    path = world.user(
        """
profiles: {fast: {provider: openai}, slow: {extends: fast}}
serve:
  host: 0.0.0.0
  port: 443
  workers: 4
  profiles: [fast, slow]
  models: {gpt-4o: fast, best: slow/gpt-5.1/x}
  limits: {body: 1MiB, depth: 20, messages: 50, max_tokens: 4096, n: 1, logit_bias: 0, queue: 9,
    wait: 5s}
  screen:
    - {name: project-x, pattern: '(?i)\\bproject x\\b', action: refuse}
    - {name: IBAN, pattern: 'DE[0-9]{20}', action: mask}
  caller: {requests: 60/minute, tokens: [100_000/hour, 1_000_000/day], budget: $5/day}
  teams:
    search: {profiles: fast, budget: [5.50/day, 100/month]}
    idle:
  organisations: {acme: {requests: 10_000/day}}
  cors: [HTTPS://App.Example:443/, "http://localhost:3000"]
  ip: {allow: [10.0.0.0/8, "::1"], trusted_proxies: 1}
  jwt: {issuer: "https://idp.example/", audience: llm, jwks: keys/jwks.json, claims: {team: grp}}
  introspection:
    url: https://idp.example/introspect
    client_id: gateway
    client_secret: {env: IDP_SECRET}
    cache: 1m
  tls: {cert: ../cert.pem, key: ~/key.pem}
"""
    )
    assert world.load().serve == Serve(
        host="0.0.0.0",
        port=443,
        workers=4,
        profiles=("fast", "slow"),
        models={"gpt-4o": "fast", "best": "slow/gpt-5.1/x"},
        limits=ServeLimits(2**20, 20, 50, 4096, 1, 0, 9, 5.0),
        screen=(
            ScreenRule("project-x", re.compile(r"(?i)\bproject x\b"), "refuse"),
            ScreenRule("IBAN", re.compile("DE[0-9]{20}"), "mask"),
        ),
        caller=Caps(
            (Rate(60, "minute"),),
            (Rate(100_000, "hour"), Rate(1_000_000, "day")),
            (Allowance(Decimal(5), "day"),),
        ),
        teams={
            "search": Group(
                budget=(Allowance(Decimal("5.50"), "day"), Allowance(Decimal(100), "month")),
                profiles=("fast",),
            ),
            "idle": Group(),
        },
        organisations={"acme": Group(requests=(Rate(10_000, "day"),))},
        cors=("https://app.example", "http://localhost:3000"),
        ip=IpSettings(("10.0.0.0/8", "::1/128"), 1),
        jwt=JwtSettings(
            "https://idp.example/",
            ("llm",),
            jwks=str(path.parent / "keys/jwks.json"),
            algorithms=("RS256", "ES256"),
            claims=Claims(team="grp"),
        ),
        introspection=IntrospectionSettings(
            "https://idp.example/introspect", "gateway", Secret("IDP_SECRET"), cache=60.0
        ),
        tls=TlsFiles(path.parent.parent / "cert.pem", world.root / "home/key.pem"),
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("prot: 1", ':3: serve has an unknown key "prot"; did you mean "port"?'),
        ("port: 70000", ":3: serve.port must be a whole number from 0 to 65535"),
        ("host: 'a b'", ":3: serve.host must be a host name or an address"),
        (
            "profiles: [fats]",
            ':3: serve.profiles[0] names no profile that the gateway has: "fats"; did',
        ),
        (
            "profiles: [fast]\nteams: {a: {profiles: openai}}",
            'gateway has: "openai"; there are: fast',
        ),
        ("organisations: {a: {profiles: [fast, x]}}", "organisations.a.profiles[1] names"),
        ("models: {a: fats/gpt-5}", ":3: serve.models.a names no profile that the"),
        ("models: {fast: openai}", ":3: serve.models.fast has the name of a profile"),
        ("limits: {body: lots}", ":3: serve.limits.body must be a size"),
        ("limits: {n: 0}", ":3: serve.limits.n must be a whole number from 1 to 1000"),
        (
            "screen: [{name: a, pattern: '(', action: mask}]",
            "[0].pattern must be a regular expression",
        ),
        ("screen: [{name: a, pattern: 'x*', action: mask}]", "does not match empty text"),
        ("screen: [{name: a, pattern: '[[a]', action: mask}]", "must be a regular expression"),
        ("screen: [{name: a, pattern: x, action: drop}]", "must be refuse or mask"),
        ("screen: [{name: a, pattern: x}]", ":3: serve.screen[0] needs action"),
        (f"screen:\n- {RULE}\n- {RULE}", ":5: serve.screen[1] has the name of another rule"),
        ("caller: {requests: 60}", 'such as 60/minute or 10_000/day, not "60"'),
        ("caller: {requests: 0/day}", "must be a number and a period"),
        ("caller: {budget: [5/day, 5/year]}", ":3: serve.caller.budget[1] must be US dollars and"),
        ("teams: {a: {rpm: 5}}", ':3: serve.teams.a has an unknown key "rpm"'),
        ("cors: ['*']", ":3: serve.cors[0] must be an origin such as https://app.example"),
        ("cors: https://app.example/page", "must be an origin"),
        ("ip: {allow: 10.0.0.1/8}", ":3: serve.ip.allow must be an address or a network"),
        ("ip: {trusted_proxies: yes}", "must be a whole number from 0 to 20"),
        (f"jwt: {{{JWT}}}", ":3: serve.jwt needs jwks (the issuer's public keys) or secret"),
        (f"jwt: {{{JWT}, jwks: a, secret: {{env: B}}}}", ":3: serve.jwt needs jwks"),
        ("jwt: {jwks: a, audience: b}", ":3: serve.jwt needs issuer"),
        ("jwt: {jwks: a, issuer: b, audience: []}", "jwt.audience must be at least one audience"),
        (
            f"jwt: {{{JWT}, jwks: 'http://idp.example/k'}}",
            "serve.jwt.jwks must be a file, or https://",
        ),
        (
            f"jwt: {{{JWT}, jwks: a, algorithms: [RS256, HS256]}}",
            "[1] does not go with jwks, which",
        ),
        (f"jwt: {{{JWT}, secret: {{env: B}}, algorithms: RS256}}", "does not go with secret"),
        (f"jwt: {{{JWT}, jwks: a, algorithms: none}}", "must be RS256 or ES256 or HS256"),
        ("introspection: {url: a, client_id: b, client_secret: {env: C}}", "url must be https://"),
        (
            "introspection: {url: 'https://u:p@a', client_id: b, client_secret: {env: C}}",
            "url must be https://",
        ),
        ("tls: {cert: a}", ":3: serve.tls needs key"),
    ],
)
def test_what_is_wrong_is_named(world: World, text: str, message: str) -> None:
    """With file and line, and what would be right."""
    assert message in refusal(world, text)


@pytest.mark.parametrize(
    "text",
    [
        f"jwt: {{{JWT}, secret: hunter2}}",
        f"jwt: {{{JWT}, secret: {{key: hunter2}}}}",
        "introspection: {url: 'https://a', client_id: b, client_secret: hunter2}",
        "introspection: {url: 'https://a', client_id: b, client_secret: {env: hunter 2}}",
    ],
)
def test_a_secret_in_the_file_is_not_repeated(world: World, text: str) -> None:
    """A secret is a variable's name; what stands in its place is not shown."""
    message = refusal(world, text)
    assert "never" in message
    assert "hunter" not in message


def test_a_shared_secret_is_for_hs256(world: World) -> None:
    """The algorithms follow from the kind of key."""
    world.user(f"serve: {{jwt: {{{JWT}, secret: {{env: S}}}}}}")
    jwt = world.load().serve.jwt
    assert jwt == JwtSettings("i", ("a",), secret=Secret("S"), algorithms=("HS256",))


def test_a_command_does_not_see_the_gateways_secrets(world: World) -> None:
    """What gives a profile's key runs without the variables that hold other secrets."""
    world.user(
        f"serve: {{jwt: {{{JWT}, secret: {{env: JWT_KEY}}}},\n"
        "  introspection: {url: 'https://a', client_id: b, client_secret: {env: IDP_KEY}}}\n"
        "profiles: {p: {provider: openai, key: {command: pass show x}}}\n"
    )
    key = world.load().profiles["p"].key
    assert key is not None
    assert {"JWT_KEY", "IDP_KEY"} <= set(key.hidden)


def test_a_projects_gateway_needs_trust(world: World) -> None:
    """All of it, whatever it says; trusted, it stands over the user's own, key by key."""
    world.user("serve: {port: 1, limits: {n: 2, depth: 9}, teams: {a: , b: }}")
    path = world.project("serve: {limits: {n: 1}, teams: {b: {requests: 1/day}}}")
    with pytest.raises(Untrusted, match=re.escape(f"{path}:1: serve needs your trust")):
        world.load()
    trust.record(find_folders(world.environ, world.repo), path, path.read_bytes())
    serve = world.load().serve
    assert (serve.port, serve.limits) == (1, ServeLimits(n=1, depth=9))
    assert serve.teams == {"a": Group(), "b": Group(requests=(Rate(1, "day"),))}


@pytest.mark.parametrize(
    ("text", "rate"),
    [
        ("60/minute", Rate(60, "minute")),
        (" 60 / min ", Rate(60, "minute")),
        ("10_000/day", Rate(10_000, "day")),
        ("1/hour", Rate(1, "hour")),
        ("3/week", Rate(3, "week")),
        ("9/month", Rate(9, "month")),
        *((text, None) for text in ("", "60", "0/day", "-1/day", "1.5/day", "$5/day", "5/year")),
        *((text, None) for text in ("1__0/day", "_1/day", "5/days", "٣/day", "5/day x")),
    ],
)
def test_a_rate_is_a_number_and_a_period(text: str, rate: Rate | None) -> None:
    """None is what is no rate; what one says is read again as the same."""
    assert parse_rate(text) == rate
    assert rate is None or parse_rate(str(rate)) == rate


@pytest.mark.parametrize(
    ("text", "amount"),
    [
        ("5/day", "5"),
        ("$0.05/min", "0.05"),
        ("2_000.50/month", "2000.50"),
        ("0/day", "0"),
        *((text, None) for text in ("5", "€5/day", "-5/day", "1e3/day", "5./day", "nan/day")),
    ],
)
def test_an_allowance_is_exact(text: str, amount: str | None) -> None:
    """Dollars are decimal; None is what is no allowance."""
    found = parse_allowance(text)
    assert (found and str(found.amount)) == amount
    assert found is None or parse_allowance(str(found)) == found
