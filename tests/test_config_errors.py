"""What a wrong file is told: file, line, and what would be right."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from llmctl.config import trust
from llmctl.config.paths import find_folders
from llmctl.errors import ConfigError
from tests.configuring import World


@pytest.fixture(params=["libyaml", "python"])
def world(tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> World:
    """An empty world, once with PyYAML's C parser and once without."""
    if request.param == "python":
        monkeypatch.delattr(yaml, "CSafeLoader", raising=False)
    return World(tmp_path)


def refusal(world: World, text: str) -> str:
    """The message for a user's file of this text, without the file's name."""
    path = world.user(text)
    with pytest.raises(ConfigError) as caught:
        world.load()
    message = str(caught.value)
    assert message.isprintable()
    assert caught.value.exit_code == 2
    assert message.startswith(str(path))
    return message.removeprefix(str(path))


def in_profile(world: World, lines: str) -> str:
    """The message for a profile of these keys, the first of them on line 4."""
    body = "".join(f"    {line}\n" for line in lines.splitlines())
    return refusal(world, f"profiles:\n  p:\n    provider: openai\n{body}")


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("modle: x", ':4: profiles.p has an unknown key "modle"; did you mean "model"?'),
        ("limits:\n  rmp: 4", ':5: profiles.p.limits has an unknown key "rmp"; did you mean "rpm"'),
        ("temperature: 1", 'unknown key "temperature"; it belongs under params'),
        ("api_key: sk-1", 'unknown key "api_key"; write key: {env: NAME}'),
        ("breaker: {error_rate: 2}", ".breaker.error_rate must be a number from 0.01 to 1"),
        ("on_overflow: fallback", ":4: profiles.p.on_overflow needs `fallback:`"),
        ("fallback: [opnai]", 'fallback names no profile: "opnai"; did you mean "openai"?'),
        ("key: {command: ''}", ":4: profiles.p.key.command must be a program"),
        ("key: {keyring: sk a}", ":4: profiles.p.key.keyring must be a name of letters"),
        ("key: {keyring: a, env: B}", ":4: profiles.p.key must be one of {env: NAME}"),
        ("key: {secret: 'vault://llm/openai'}", ".key.secret must be vault://MOUNT/PATH#FIELD"),
        ("key: {secret: 'vualt://llm/a#b'}", ".key.secret must be vault://MOUNT/PATH#FIELD"),
        ("key: {secret: 'op://team/key'}", ".key.secret must be op://VAULT/ITEM/FIELD"),
        ("key: {secret: [x]}", ".key.secret must be one of aws-sm://REGION/NAME#FIELD, aws-ssm"),
        ("auth: aws", ":4: profiles.p.auth aws signs for Amazon Bedrock alone"),
        ("auth: azure", ":4: profiles.p.auth azure is not for api.openai.com: write the address"),
        ("auth: gcp", ":4: profiles.p.auth gcp is not for api.openai.com: write the address"),
        ("api: batch", ':4: profiles.p.api must be chat or responses, not "batch"'),
        ("key_header: 'x: y'", ":4: profiles.p.key_header must be the name of a header"),
        ('model: "a\\e[31mb"', ":4: profiles.p.model must be text on one line"),
        ("limits: {rpm: 0}", "rpm must be a whole number from 1 to 1000000000, not"),
        ("limits: {rpm: 1.5}", "must be a whole number"),
        ("limits: {rpm: '5'}", "must be a whole number"),
        ("limits: {rpm: 010}", "must be a whole number"),
        ("limits: {rpm: " + "9" * 5000 + "}", "must be a whole number"),
        ("timeout: {total: 2d}", "at most 24h"),
        ("cache: {enabled: 1}", ":4: profiles.p.cache.enabled must be true or false"),
        ("params: {temperature: hot}", "must be a number from 0 to 100"),
        ("params: {model: x}", 'profiles.p.params cannot have the name "model"'),
        ("params: {seed: 99999999999999999999}", "more than 64 bits"),
        ("params: {big: 1e999}", "more than 64 bits"),
        ("price: {input: 1}", ":4: profiles.p.price needs output"),
        ("price: {as: openai/gpt-4o, input: 1}", ":4: profiles.p.price is either amounts or `as`"),
        ("price: {as: opnai/gpt-4o}", 'names no provider, "opnai"; did you mean "openai"?'),
        ("price: {as: gpt-4o}", "price.as must be PROVIDER/MODEL such as"),
        ("extends: opnai", ':4: profiles.p.extends names no profile: "opnai"; did you mean'),
        ("extends: p", ":4: profiles.p.extends makes a circle: p → p"),
        ("headers: {Authorization: x}", 'headers cannot have the name "Authorization"'),
        ("headers: {x-api-key: x}", 'headers cannot have the name "x-api-key"'),
        ("headers: {content-type: x}", 'headers cannot have the name "content-type"'),
        ("headers: {x-a: Bearer x}", "headers.x-a must be ASCII on one line, never a key"),
        ("headers: {x-a: ü}", "headers.x-a must be ASCII on one line, never a key"),
        ("proxy: http://me:pw@h:1", ":4: profiles.p.proxy must be http:// or https:// and host"),
        ("proxy: socks5://h:1", ":4: profiles.p.proxy must be http:// or https:// and host"),
        ('system: "a\\e[31mb"', ":4: profiles.p.system must be text, not empty"),
        ("tags: {a=b: x}", 'tags cannot have the name "a=b", only printable names without ='),
        *(
            (f"base_url: {url}", ":4: profiles.p.base_url must be http:// or https:// and a host")
            for url in (
                "ftp://x/v1", "localhost:8000/v1", "https:///v1", "https://h:99999/v1",
                "https://h:0/v1", "https://[::1/v1", "https://h/v1?x=1", "'https://h/v1#x'",
                "https://h\\@evil/v1", "https://a:b@h/v1", "https://h/v1/chat/completions",
                "https://h/v1/models/", '"https://h/v1\\e[2J"',
            )
        ),
        ("provider: openai", ':4: "provider" is written twice, first at'),
    ],
)  # fmt: skip
def test_profile_errors(world: World, lines: str, message: str) -> None:
    """Each mistake in a profile is named with its line, its key and what would be right."""
    assert message in in_profile(world, lines)


BOMB = "profiles:\n  openai:\n    params:\n      a0: &a0 [x, x]\n" + "".join(
    f"      a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 30)
)
"""Thirty lines that stand for a billion values."""


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("defualt: x", ':1: there is an unknown key "defualt"; did you mean "default"?'),
        ("profiles: {local: {key: {env: K}}}", ":1: profiles.local.key is not for `provider:"),
        ("profiles:\n  fast:\n    model: x", ':2: the profile "fast" needs a `provider:`'),
        ("modus: x", 'unknown key "modus"; there are: default, profiles, budgets, cache'),
        ("privacy: {mask: email}", ':1: there is an unknown key "privacy"; it belongs in a prof'),
        ("cache: {max_size: lots}", ":1: cache.max_size must be a size such as 500MB"),
        ("- a", ":1: a configuration file holds"),
        ("profiles:\n  a b: {provider: openai}", ':2: profiles cannot have the name "a b"'),
        ('profiles: {"\\e[2J": {}}', 'cannot have the name "\\x1b[2J"'),
        ("\n\ndefault: opnai", ':3: default names no profile: "opnai"; did you mean "openai"?'),
        ("profiles: {p: {provider: opnai}}", 'no provider, "opnai"; did you mean "openai"?'),
        ("default: a\n---\ndefault: b", "is one YAML document"),
        ("default: {", ":1: this is not YAML"),
        ("default: &x [*x]", ":1: *x repeats nothing that ends before it"),
        ("? [a]\n: b", ":1: a key must be plain text"),
        ("<<: 3", ":1 must be a mapping"),
        ("<<: {" * 100_000, ":1: t"),
        ("default: *x", ":1: *x repeats nothing that ends before it"),
        (BOMB, ":15: tags (!), more than 40 levels and more than 10,000 values by aliases (*) are"),
        ("default: !!python/object:os.system x", ":1: tags (!)"),
        ('default: "\\UFFFFFFFF"', "this is not YAML"),
        ("[" * 100_000, ":1: t"),
        ("- " * 1000, "more than 40 levels"),
    ],
)  # fmt: skip
def test_file_errors(world: World, text: str, message: str) -> None:
    """Each mistake in a file's structure is named with its line."""
    assert message in refusal(world, text)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (
            "provider: bedrock, region: eu west",
            ".region must be a region such as eu or eu-central-1",
        ),
        ("provider: vertex, project: a/b, region: eu", ".project must be a project's id"),
        ("provider: bedrock, region: eu-west-1, auth: gcp", "gcp is not for bedrock, which has"),
        ("provider: vertex, region: eu, project: p, auth: aws", "aws signs for Amazon Bedrock"),
    ],
)
def test_clouds(world: World, lines: str, message: str) -> None:
    """Region and project are checked before the address is made of them; one cloud's credentials
    are nothing for another one."""
    assert message in refusal(world, f"profiles: {{p: {{{lines}}}}}")


def test_secrets_are_not_repeated(world: World) -> None:
    """A key or password written into the file by mistake does not appear in the message."""
    for line in (
        "key: sk-proj-5ecret",
        "key: {env: sk-proj-5ecret}",
        "key: {sk-proj-5ecret: }",
        "key: [sk-proj-5ecret]",
        "key: {secret: sk-proj-5ecret}",
        "api_key: sk-proj-5ecret",
        "base_url: https://user:sk-proj-5ecret@host/v1",
        "base_url: https://host/v1?key=sk-proj-5ecret",
        "base_url: https://[sk-proj-5ecret]/v1",
    ):
        assert "5ecret" not in in_profile(world, line)


def test_params_are_json(world: World) -> None:
    """Values of params mean what JSON's means; quoted ones and odd ones are text."""
    world.user(
        "profiles: {openai: {params: {a: true, b: null, c: -1, d: 1e3, e: '1', f: on, g: 1:30, "
        "h: 007, i: 2020-01-01, j: 18446744073709551615, k: .5, l: {m: [~, no]}}}}"
    )
    assert world.load().profiles["openai"].params == {
        "a": True, "b": None, "c": -1, "d": 1000.0, "e": "1", "f": "on", "g": "1:30",
        "h": "007", "i": "2020-01-01", "j": 2**64 - 1, "k": 0.5, "l": {"m": [None, "no"]},
    }  # fmt: skip


def test_nothing_written_means_no_limit(world: World) -> None:
    """`null` takes a limit away again that another file set."""
    world.user("profiles: {openai: {limits: {rpm: 5}, params: {max_tokens: 5}}}")
    said = "limits: {rpm: }, params: {max_tokens: null}, tags: "
    path = world.project(f"profiles: {{openai: {{{said}}}}}")
    trust.record(find_folders(world.environ, world.repo), path, path.read_bytes())
    profile = world.load().profiles["openai"]
    assert (profile.limits.rpm, profile.max_tokens) == (None, None)
