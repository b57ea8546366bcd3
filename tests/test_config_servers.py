"""`base_url` as a list: servers of the same model."""

from __future__ import annotations

import pytest

from llmctl.config.profiles import as_yaml
from llmctl.errors import ConfigError
from llmctl.request import target_for
from llmctl.types import origin_of
from tests.configuring import World

LIST = "https://a.example/v1, https://b.example/v1/"


def profile(base_url: str, more: str = "") -> str:
    """A file with a profile `p` at this address."""
    return f"profiles:\n  p: {{provider: openai, model: m, base_url: {base_url}{more}}}\n"


def test_a_list_of_servers(world: World) -> None:
    """The first address is the profile's: answers have the identity, and the price, of that one.
    Each has the profile's query. What is shown can be put into a file and means the same."""
    world.user(profile(f"[{LIST}]", ", query: {version: '1'}"))
    found = world.load().profiles["p"]
    assert found.base_url == "https://a.example/v1"
    assert found.servers == ("https://a.example/v1", "https://b.example/v1")
    assert found.urls == ("https://a.example/v1?version=1", "https://b.example/v1?version=1")
    alone = world.load(config=world.user(profile("https://a.example/v1"))).profiles["p"]
    assert (alone.servers, alone.urls) == ((), ("https://a.example/v1",))
    assert origin_of(target_for(found).base_url) == origin_of(target_for(alone).base_url)
    world.user(as_yaml(found))
    again = world.load().profiles["p"]
    assert (again.base_url, again.servers, again.urls) == (
        found.base_url,
        found.servers,
        found.urls,
    )


def test_a_list_of_one_is_an_address(world: World) -> None:
    """A list of one server is no other profile than that server."""
    world.user(profile("[https://a.example/v1]"))
    found = world.load().profiles["p"]
    assert (found.base_url, found.servers) == ("https://a.example/v1", ())


def test_a_server_on_each_node(world: World) -> None:
    """`node:PORT` is the machine that makes the call, alone or in a list."""
    world.user(profile("node:8000/v1"))
    assert world.load().profiles["p"].base_url == "http://127.0.0.1:8000/v1"
    world.user(profile('["node:8000/v1", "node:8001/v1"]'))
    servers = world.load().profiles["p"].servers
    assert servers == ("http://127.0.0.1:8000/v1", "http://127.0.0.1:8001/v1")


def test_the_providers_key_goes_to_no_list(world: World) -> None:
    """OpenAI's key, and its organisation, are for none of the servers of a list."""
    world.environ |= {"OPENAI_API_KEY": "sk-test", "OPENAI_ORG_ID": "org-1"}
    world.user(profile(f"[{LIST}]"))
    found = world.load().profiles["p"]
    assert (found.key, found.headers) == (None, {})


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (profile("[]"), ":2: profiles.p.base_url must be the address of a server, or a list"),
        (profile("[https://a.example/v1, a.example]"), "profiles.p.base_url[1] must be http:// or"),
        (profile("[https://a.example/v1, [x]]"), "profiles.p.base_url[1] must be http:// or"),
        (profile("node:x/v1"), "node:8000/v1 is port 8000 of the machine that calls"),
        (profile(f"[{LIST}, https://b.example/v1]"), "profiles.p.base_url lists an address twice"),
        (
            profile(f"[{LIST}, https://api.openai.com/v1]"),
            "lists https://api.openai.com:443, the provider's own address, beside other servers",
        ),
        (
            profile(f"[{LIST}]", ", region: eu-west-1").replace("openai", "bedrock"),
            "is one address for bedrock",
        ),
    ],
)
def test_lists_that_are_none(text: str, words: str, world: World) -> None:
    """What cannot be a list of servers is refused with file, line and reason."""
    world.user(text)
    with pytest.raises(ConfigError) as caught:
        world.load()
    assert words in caught.value.message


def test_a_project_may_not_list_plain_addresses(world: World) -> None:
    """No address of a project's list is plain http to another machine, trusted or not."""
    world.project(profile("[https://a.example/v1, http://b.example/v1]"))
    with pytest.raises(ConfigError, match=r"base_url\[1\] must be https://"):
        world.load()
