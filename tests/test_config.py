"""Sources of configuration, their order, and what a project may not do."""

from __future__ import annotations

import os
from decimal import Decimal
from pathlib import Path

import pytest

from llmctl.config.load import Overrides
from llmctl.config.paths import find_folders, home
from llmctl.config.profiles import as_yaml
from llmctl.config.settings import CachePolicy, KeyPlaces, Limits, RetryPolicy, Timeouts
from llmctl.errors import ConfigError
from llmctl.pricing import Prices
from llmctl.providers.registry import BUILT_IN
from llmctl.request import target_for
from llmctl.tokens import Counter
from llmctl.types import Price, Usage
from tests.configuring import World

FULL = """\
default: fast
profiles:
  fast:
    provider: openai
    model: gpt-5-mini
    api: chat
    base_url: http://gpu.internal:8000/v1/
    key: {env: CORP_KEY}
    params: {temperature: 0.5, max_tokens: 512, top_p: 0.9, stop: [a, "1"], deep: {on: yes}}
    limits: {concurrency: 64, rpm: 500, tpm: 200_000}
    timeout: {connect: 1.5, first_byte: 90s, total: 5m}
    retry: {attempts: 2, max_wait: 500ms, ambiguous_attempts: 0}
    cache: {enabled: no, ttl: 24h}
    history: false
    price: {input: 0.1, output: 2, cached_input: 0.0000001, cache_write: 1e-3}
    tags: {team: search, number: 42, empty: ""}
    context: 8192
    http: standard
"""


def test_presets_work_without_any_file(world: World) -> None:
    """Every built-in profile is complete when nothing is configured."""
    settings = world.load()
    openai, local = settings.profiles["openai"], settings.profiles["local"]
    assert openai.key == KeyPlaces("OPENAI_API_KEY", keyring="openai")
    assert openai.base_url == "https://api.openai.com/v1"
    assert openai.source == "built in"
    assert (settings.default, settings.files) == (None, ())
    assert local.key is None
    assert local.price == Price(Decimal(0), Decimal(0))
    assert (local.limits.concurrency, local.parallel, local.context) == (4, 4, 2048)
    assert local.timeout.first_byte == 300


def test_either_variable_of_a_preset_holds_its_key(world: World) -> None:
    """Of two names that the provider's own tools know, the first that is set counts."""
    for variable in ("GOOGLE_API_KEY", "GEMINI_API_KEY"):
        world.environ[variable] = "k"
        assert world.load().profiles["gemini"].key == KeyPlaces(variable, "gemini")


def test_azure(world: World) -> None:
    """The header of the key and the query of every address are the user's to say."""
    world.user(
        "profiles:\n  az:\n    provider: openai\n    base_url: https://x.openai.azure.com/openai\n"
        "    key_header: Api-Key\n    query: {api-version: 2024-10-21}\n"
    )
    profile = world.load().profiles["az"]
    assert profile.key_header == "api-key"
    assert profile.url == "https://x.openai.azure.com/openai?api-version=2024-10-21"


def test_every_key_arrives(world: World) -> None:
    """Each key of a profile is read into its field, in its unit."""
    path = world.user(FULL)
    settings = world.load()
    fast = settings.profiles["fast"]
    assert settings.default == "fast"
    assert settings.files == (path,)
    assert (fast.provider, fast.adapter, fast.model) == ("openai", "openai", "gpt-5-mini")
    assert fast.base_url == "http://gpu.internal:8000/v1"
    assert fast.key == KeyPlaces("CORP_KEY")
    assert (fast.temperature, fast.max_tokens) == (0.5, 512)
    assert fast.params == {"top_p": 0.9, "stop": ["a", "1"], "deep": {"on": "yes"}}
    assert fast.limits == Limits(64, 500, 200_000)
    assert fast.timeout == Timeouts(1.5, 90, 300)
    assert fast.retry == RetryPolicy(2, 0.5, 0)
    assert fast.cache == CachePolicy(enabled=False, ttl=86400)
    assert fast.history is False
    assert fast.tags == {"team": "search", "number": "42", "empty": ""}
    assert (fast.context, fast.http) == (8192, "standard")
    assert fast.price == Price(
        Decimal("0.1"), Decimal(2), Decimal("0.0000001"), Decimal("0.001")
    )  # exact decimals, not the nearest binary numbers
    assert fast.source == f"{path}:3"


def test_precedence(world: World) -> None:
    """Flag beats environment beats project beats user beats preset, knob by knob."""
    world.user(
        "default: openai\nprofiles: {openai: {model: user, limits: {rpm: 3, tpm: 3,"
        " concurrency: 3}, params: {temperature: 1, max_tokens: 2, seed: 1, user: u}}}"
    )
    world.project(
        "profiles: {openai: {limits: {rpm: 2, tpm: 2, concurrency: 2}, "
        "params: {max_tokens: 1, temperature: 2, seed: 2}}}"
    )
    world.environ |= {"LLMCTL_RPM": "3", "LLMCTL_TPM": "3", "LLMCTL_TEMPERATURE": "3"}
    profiles = world.load(Overrides(rpm=4, temperature=4)).profiles
    profile = profiles["openai"]
    assert profile.model == "user"
    assert profile.limits == Limits(concurrency=2, rpm=4, tpm=3)
    assert (profile.temperature, profile.max_tokens) == (4, 1)
    assert profile.params == {"seed": 2, "user": "u"}
    assert profile.timeout == Timeouts()
    assert profiles["groq"].limits == Limits()  # only the profile that is used is overridden
    assert "LLMCTL_TPM" in profile.source
    assert "--rpm" in profile.source


def test_environment(world: World) -> None:
    """Each variable sets its knob of the profile that is used; an empty one sets nothing."""
    world.environ |= {"LLMCTL_MODEL": "m", "LLMCTL_MAX_TOKENS": "7", "LLMCTL_TEMPERATURE": "0.25"}
    world.environ |= {"LLMCTL_CONCURRENCY": "3", "LLMCTL_RPM": "60", "LLMCTL_TPM": ""}
    found = world.load().profiles["local"]
    assert (found.model, found.max_tokens, found.temperature) == ("m", 7, 0.25)
    assert found.limits == Limits(3, 60)


@pytest.mark.parametrize(
    ("overrides", "name"),
    [
        (Overrides(rpm=0), "--rpm"),
        (Overrides(max_tokens=0), "--max-tokens"),
        (Overrides(temperature=float("nan")), "--temperature"),
        (Overrides(model=" "), "--model"),
    ],
)
def test_bad_flags_and_variables_are_named(world: World, overrides: Overrides, name: str) -> None:
    """A flag or variable out of range is refused by its name, whatever profile is used."""
    with pytest.raises(ConfigError, match=rf"^{name} must be"):
        world.load(overrides)
    world.environ["LLMCTL_RPM"] = "many"
    with pytest.raises(ConfigError, match=r'^LLMCTL_RPM must be a whole number .* not "many"'):
        world.load()


def test_unreadable_files(world: World) -> None:
    """A folder in the file's place, bytes that are not UTF-8, a huge file, and one that was named
    with `--config` and is missing."""
    with pytest.raises(ConfigError, match=r"nowhere\.yaml: cannot be read: No such file"):
        world.load(config=world.root / "nowhere.yaml")
    world.own.mkdir(parents=True)
    with pytest.raises(ConfigError, match=r"config\.yaml: cannot be read: Is a directory"):
        world.load()
    world.own.rmdir()
    world.own.write_bytes(b"default: openai\nprofiles: \xff\n")
    with pytest.raises(ConfigError, match=r"config\.yaml:2: this is not UTF-8"):
        world.load()
    world.own.write_bytes(b"\xef\xbb\xbfdefault: openai\r\n")  # as Windows' editors write it
    assert world.load().default == "openai"
    world.own.write_bytes(b"#" * 1_000_001)
    with pytest.raises(ConfigError, match="too large"):
        world.load()


def test_empty_files(world: World) -> None:
    """A file that says nothing changes nothing."""
    for text in ("", "# nothing\n", "profiles:\n", "default:\n", "null", "---\n"):
        world.user(text)
        assert list(world.load().profiles) == list(BUILT_IN)


def test_key_belongs_to_an_origin(world: World) -> None:
    """At another address a preset's own key variable is not used; a named one is."""
    world.user(
        "profiles:\n"
        "  other: {provider: openai, base_url: 'https://example.com/v1'}\n"
        "  port: {provider: openai, base_url: 'https://api.openai.com:8443/v1'}\n"
        "  plain: {provider: openai, base_url: 'http://api.openai.com/v1'}\n"
        "  named: {provider: openai, base_url: 'https://example.com/v1', key: {env: K}}\n"
        "  same: {provider: openai, base_url: 'HTTPS://API.openai.com:443/other'}\n"
        "  openai: {base_url: 'http://localhost:8000/v1'}\n"
    )
    mine = ("openai", "local", "other", "port", "plain", "named", "same")
    keys = {name: world.load().profiles[name].key for name in mine}
    own = {"named": KeyPlaces("K"), "same": KeyPlaces("OPENAI_API_KEY", keyring="openai")}
    assert keys == {**dict.fromkeys(mine), **own}


class TestLocal:
    """The profile of the embedded model, and profiles that serve a file."""

    def test_model_path(self, world: World) -> None:
        """`~` is the home folder, other paths begin at the file; the file names the model."""
        world.user(
            "profiles:\n"
            "  a: {provider: local, model_path: ~/m/tiny.q4.gguf}\n"
            "  b: {provider: local, model_path: ../b.gguf, model: bee}\n"
            "  c: {provider: local, model_path: /abs/c.gguf, parallel: 2}\n"
        )
        found = world.load().profiles
        home = world.root / "home"
        assert found["a"].model_path == home / "m/tiny.q4.gguf"
        assert found["a"].model == "tiny.q4"
        assert found["b"].model_path == home / ".config/b.gguf"
        assert found["b"].model == "bee"
        assert found["c"].model_path == Path("/abs/c.gguf")
        assert found["c"].limits.concurrency == 2


def test_aliases_and_merged_keys(world: World) -> None:
    """An alias repeats what its anchor named, `<<` lays what it names under what is written, and
    messages name the place where it is repeated."""
    text = """
profiles:
  openai: &o
    limits: &l {rpm: 5, concurrency: 2}
    params: {temperature: 0, stop: &s [a, b]}
  groq:
    limits: *l
    params: {stop: *s}
  mistral: {<<: *o, model: m, limits: {<<: [{tpm: 7}, *l], rpm: 6}}
"""
    world.user(text)
    found = world.load().profiles
    assert found["groq"].limits == found["openai"].limits == Limits(concurrency=2, rpm=5)
    assert found["groq"].params == {"stop": ["a", "b"]}
    assert found["mistral"].limits == Limits(concurrency=2, rpm=6, tpm=7)
    assert (found["mistral"].model, found["mistral"].temperature) == ("m", 0)
    path = world.user("profiles:\n  openai: {tags: &t {rpm: a}}\n  groq:\n    limits: *t\n")
    with pytest.raises(ConfigError, match="must be a whole number") as caught:
        world.load()
    assert str(caught.value).startswith(f"{path}:4: profiles.groq.limits.rpm ")


class TestProject:
    """The configuration of a repository that may come from anybody."""

    def test_merges_over_the_users(self, world: World) -> None:
        """What a project may say is laid over the user's file, key by key."""
        own = world.user("default: a\nprofiles: {a: {provider: openai, tags: {x: '1', y: '1'}}}")
        path = world.project(
            "profiles: {a: {tags: {y: '2'}, model: m, params: {seed: 1}, limits: {rpm: 1}}}"
        )
        settings = world.load()
        a = settings.profiles["a"]
        assert settings.default == "a"
        assert settings.files == (own, path)
        assert a.tags == {"x": "1", "y": "2"}
        assert (a.model, a.params, a.limits.rpm) == ("m", {"seed": 1}, 1)
        assert a.source == f"{own}:2, {path}:1"

    def test_found_upward_to_the_repositorys_root(self, world: World) -> None:
        """The nearest file counts, and none above the root of the repository."""
        deep = world.repo / "a/b"
        deep.mkdir(parents=True)
        (world.root / "llmctl.yaml").write_text("default: outside")
        assert world.load(cwd=deep).files == ()
        path = world.project("profiles: {local: {model: m}}")
        assert world.load(cwd=deep).files == (path,)
        (world.repo / "a/llmctl.yaml").write_text("profiles: {local: {model: n}}")
        assert world.load(cwd=deep).profiles["local"].model == "n"

    def test_root_of_a_repository(self, world: World) -> None:
        """A `.git` file, as worktrees have it, marks a root too; outside a repository a parent's
        file does not count, for it may be anybody's."""
        deep = world.root / "elsewhere/deep"
        deep.mkdir(parents=True)
        (deep.parent / "llmctl.yaml").write_text("profiles: {local: {model: m}}")
        assert world.load(cwd=deep).files == ()
        assert world.load(cwd=deep.parent).profiles["local"].model == "m"
        (deep.parent / ".git").write_text("gitdir: elsewhere")
        assert world.load(cwd=deep).profiles["local"].model == "m"


class TestFolders:
    """Where things are kept."""

    @pytest.mark.parametrize("kind", ["config", "state", "cache", "data"])
    def test_variables(self, kind: str) -> None:
        """LLMCTL_*_DIR names the folder, XDG_*_HOME its parent; a relative XDG one is ignored."""
        xdg, own = f"XDG_{kind.upper()}_HOME", f"LLMCTL_{kind.upper()}_DIR"

        def found(**environ: str) -> Path:
            return Path(getattr(find_folders({"HOME": "/h", **environ}, Path("/w")), kind))

        assert found(**{xdg: "/x"}) == Path("/x/llmctl")
        assert found(**{xdg: "rel"}) == found()
        assert found(**{xdg: "/x", own: "/o"}) == Path("/o")
        assert found(**{own: "o"}) == Path("/w/o")
        assert found(**{own: "", xdg: ""}) == found()
        default = {"config": ".config", "cache": ".cache"}.get(kind, f".local/{kind}")
        assert found() == Path("/h", default.replace("data", "share"), "llmctl")

    def test_nobody_knows_a_home(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Without a usable HOME the password database knows the home folder; who is unknown there
        is told which variables to set, and they suffice."""
        import pwd

        monkeypatch.delenv("HOME")
        found = Path(pwd.getpwuid(os.getuid()).pw_dir)
        assert find_folders({"HOME": "rel"}, Path("/w")).config == found / ".config/llmctl"

        def unknown(_: int) -> None:
            raise KeyError

        monkeypatch.setattr(pwd, "getpwuid", unknown)
        with pytest.raises(ConfigError, match="LLMCTL_STATE_DIR"):
            find_folders({}, Path("/w"))
        kinds = ("CONFIG", "STATE", "CACHE", "DATA")
        folders = find_folders({f"LLMCTL_{kind}_DIR": f"/{kind}" for kind in kinds}, Path("/w"))
        assert folders.data == Path("/DATA")

    def test_windows_without_home(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """On Windows, which sets no HOME, the folders are Windows' own, and `~` is the profile."""
        local = tmp_path / "AppData" / "Local"
        monkeypatch.setattr("sys.platform", "win32")
        monkeypatch.setattr("platformdirs.windows.get_win_folder", lambda _: str(local))
        monkeypatch.setattr(Path, "home", lambda: tmp_path)
        folders = find_folders({}, Path("/w"))
        for folder in (folders.config, folders.state, folders.cache, folders.data):
            assert folder.is_relative_to(local)
            assert "llmctl" in folder.parts
        assert home({}) == tmp_path
        own = find_folders({"LLMCTL_STATE_DIR": "s", "HOME": "/h"}, Path("/w"))
        assert own.state == Path("/w/s")
        assert own.config == Path("/h/.config/llmctl")


def test_extends(world: World) -> None:
    """Case 48: a profile says what is different from another one, which may be built in, or extend
    a third; sections are joined, and the result is shown complete."""
    world.user(
        "profiles:\n"
        "  fast: {extends: openai, model: gpt-5-nano, limits: {rpm: 5}, params: {top_p: 1}}\n"
        "  nightly:\n    extends: fast\n    limits: {tpm: 7}\n"
        "    system: |-\n      be\n      brief\n"
    )
    made = world.load().profiles["nightly"]
    assert (made.provider, made.model, made.system) == ("openai", "gpt-5-nano", "be\nbrief")
    assert (made.limits.rpm, made.limits.tpm, made.params) == (5, 7, {"top_p": 1})
    assert made.key is not None
    assert made.key.env == "OPENAI_API_KEY"
    assert "extends" not in as_yaml(made)


def test_the_price_of_another_model(world: World) -> None:
    """Case 22: `price: {as: …}` is the published price and window of a known model, also over
    amounts that stand in a profile below."""
    world.user(
        "profiles:\n"
        "  a: {provider: openai, base_url: 'https://gw.example/v1', price: {input: 1, output: 2}}\n"
        "  b: {extends: a, model: dep, price: {as: openai/gpt-4o}}\n"
        "  c: {extends: b, price: {input: 3, output: 4}}\n"
    )
    profiles = world.load().profiles
    target = target_for(profiles["b"])
    prices, usage = Prices(), Usage(input=1_000_000)
    assert prices.price(target, profiles["b"].price, usage, 1.8e9) == Decimal("2.5")
    assert Counter(prices.window).context_window(target) == 128_000
    assert profiles["c"].price == Price(Decimal(3), Decimal(4))
    assert "as: openai/gpt-4o" in as_yaml(profiles["b"])


def test_a_key_and_what_takes_its_place(world: World) -> None:
    """Who extends a profile may ask with a cloud's credentials instead of its key, and the other
    way round; one profile that says both is an error that names the line."""
    world.user(
        "profiles:\n"
        "  a: {provider: openai, base_url: 'https://r.example/v1', key: {env: A}}\n"
        "  b: {extends: a, auth: azure}\n"
        "  c: {extends: b, auth: {oidc: {audience: x}}}\n"
        "  d: {extends: c, key: {env: D}}\n"
    )
    found = world.load().profiles
    kinds = {name: profile.auth and profile.auth.kind for name, profile in found.items()}
    assert [kinds[name] for name in "abcd"] == [None, "azure", "oidc", None]
    assert [found[name].key is None for name in "abcd"] == [False, True, True, False]
    world.user("profiles:\n  a:\n    key: {env: A}\n    provider: openai\n    auth: azure\n")
    with pytest.raises(ConfigError, match=r":5: profiles\.a\.auth stands beside `key`"):
        world.load()
