"""Every knob of the program: frozen structs with units, bounds and hints, the schema of the files.

Fields are the keys of a file, but for those named `derived`. `yaml_nodes.read` reads by the types:
`description` completes the error "must be …", `extra` may hold `parse` (text to value, None: not
such a text), `forms` (text to a description; the text may be a key and is not shown) and `typed`
(types of some names of a mapping); `hints` end errors about other keys.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from decimal import Decimal
from fnmatch import fnmatchcase
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, get_args
from urllib.parse import urlencode, urlsplit

from msgspec import Meta, Struct, field
from msgspec.structs import force_setattr

from llmctl.config.route import RouteSettings, parse_command, parse_pattern
from llmctl.config.semantic import SemanticPolicy
from llmctl.privacy.findings import IDENTIFIERS, KINDS, Kind
from llmctl.providers.registry import PRESETS
from llmctl.types import Price

_DURATION = re.compile(r"([0-9]{1,12}(?:\.[0-9]{0,20})?(?:e-[0-9]{1,3})?) ?(ms|s|m|h|d|w)?")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
_SIZE = re.compile(r"([0-9]{1,15}(?:\.[0-9]{0,6})?) ?(?:([kmgt])(i?)b?|b)?")
_SHARE = re.compile(r"(0?\.[0-9]{1,6}|1(\.0+)?)|([0-9]{1,2}(\.[0-9]{1,4})?|100)%")
_HOST = re.compile(r"[\w.-]+|[0-9a-fA-F:.]+(%[\w.-]+)?")


def parse_duration(text: str) -> float | None:
    """Seconds of `10`, `1.5`, `500ms`, `10s`, `5m`, `2h`, `7d` or `1w`. None: no duration."""
    match = _DURATION.fullmatch(text.strip())
    return None if match is None else float(match[1]) * _SECONDS[match[2] or "s"]


def parse_age(text: str) -> float | None:
    """Seconds of a duration that says its unit: `7` alone may mean days, and what is older is
    removed. None: no such duration."""
    return parse_duration(text) if text.strip()[-1:].isalpha() else None


def parse_size(text: str) -> int | None:
    """Bytes: kB, MB, GB, TB are powers of 1000, KiB, MiB, GiB, TiB of 1024. None: no size."""
    match = _SIZE.fullmatch(text.strip().lower())
    if match is None:
        return None
    base = 1024 if match[3] else 1000
    return int(float(match[1]) * base ** (" kmgt".index(match[2]) if match[2] else 0))


def parse_share(text: str) -> Decimal | None:
    """`0.8` or `80%` as a number above 0 and up to 1. None: no share."""
    if not _SHARE.fullmatch(text):
        return None
    return Decimal(text.rstrip("%")) / (100 if text.endswith("%") else 1) or None


def _parse_base_url(text: str) -> str | None:
    """The address without its trailing slash; None where it is none (see `BaseUrl`)."""
    try:
        parts = urlsplit(text)
        host, port = parts.hostname or "", parts.port
    except ValueError:  # its message may repeat a password
        return None
    wrong = re.search(r'[\s\\<>"?#]|/(chat/completions|responses|messages|models)/*\Z', text)
    if parts.scheme not in ("http", "https") or not _HOST.fullmatch(host) or "@" in parts.netloc:
        return None
    return None if wrong or port == 0 else text.rstrip("/")


def _parse_server(text: str) -> str | None:
    """The address of a model's server; `node:8000/v1` is port 8000 of the machine that calls."""
    return _parse_base_url(re.sub(r"\Anode:(?=[0-9])", "http://127.0.0.1:", text))


def _parse_proxy(text: str) -> str | None:
    """The address of an HTTP proxy; None where it is none, or holds a password."""
    url = _parse_base_url(text)
    return url if url and not urlsplit(url).path else None


def _parse_prompt(text: str) -> str | None:
    return text if text.strip() else None


def _text(description: str, pattern: str = "") -> Meta:
    return Meta(pattern=pattern, description=description)


def _parse_kinds(text: str) -> tuple[str, ...] | None:
    """Kinds of identifiers: all, or a single one. None: no such kind."""
    if text == "all":
        return KINDS
    return (text,) if text in KINDS else None


def _written(description: str, parse: Callable[[str], Any]) -> Meta:
    return Meta(description=description, extra={"parse": parse})


_DURATION_WORDS = _written("a duration such as 10, 10s or 5m, at most 24h", parse_duration)

Label = Annotated[str, _text("text on one line, without control characters")]
Text = Annotated[str, _text("text on one line, printable, not empty", r"\S")]
LabelName = Annotated[str, _text("printable names", ".")]
TagName = Annotated[str, _text("printable names without =", r"\A[^=]+\Z")]
StoredName = Annotated[
    str, _text("a name of letters, digits, dots, dashes and _", r"\A\w[\w.-]{0,63}\Z")
]
Variable = Annotated[
    str,
    _text(
        "the name of an environment variable; a key itself never belongs in a file",
        r"\A[A-Za-z_][A-Za-z0-9_]{0,99}\Z",
    ),
]
Header = Annotated[
    str,
    Meta(pattern=r"\A[A-Za-z][A-Za-z0-9-]{0,63}\Z"),
    _written("the name of a header, such as api-key", str.lower),
]
Headers = Mapping[
    Annotated[
        str,
        _text(
            "names of headers that llmctl does not set itself and that hold no key (a key is "
            "named by key: {env: NAME})",
            r"(?i)\A(?!(proxy-)?authorization\Z|(set-)?cookie\Z|.*(api-?key|token|secret)"
            r"|(host|connection|transfer-encoding|content-(length|type|encoding)"
            r"|accept-encoding)\Z)[a-z][a-z0-9-]{0,63}\Z",
        ),
    ],
    Annotated[
        str,
        _text("ASCII on one line, never a key", r"\A(?!(?i:bearer|basic) |sk-)[ -~]+\Z"),
    ],
]
Prompt = Annotated[
    str, Meta(description="text, not empty", extra={"parse": _parse_prompt, "lines": True})
]
Command = Annotated[
    tuple[Text, ...],
    Meta(min_length=1),
    _written("a program and its arguments, such as op read op://…", parse_command),
]
Kinds = Annotated[
    tuple[Kind, ...],
    Meta(min_length=1),
    _written(f"all, or a list of {', '.join(KINDS)}", _parse_kinds),
]
_BASE_URL = (
    "http:// or https:// and a host, such as https://host:8000/v1, without user, password, "
    "query (?), fragment (#), spaces or quotes (a key is named by key: {env: NAME}), and must "
    "end before the endpoint's own name, such as /chat/completions"
)
BaseUrl = Annotated[str, _written(_BASE_URL, _parse_base_url)]
ServerUrl = Annotated[
    str,
    _written(f"{_BASE_URL}; node:8000/v1 is port 8000 of the machine that calls", _parse_server),
]
ServerUrls = Annotated[
    tuple[ServerUrl, ...],
    Meta(min_length=1, description="the address of a server, or a list of addresses"),
]
"""Of servers of the same model, which share a profile's calls. The first stands for all of them
where one address is asked for: in the identity of answers, for prices, and in batches."""
ProxyUrl = Annotated[
    str,
    _written(
        "http:// or https:// and host:port, without user and password (a proxy that needs them is "
        "named by HTTPS_PROXY in the environment)",
        _parse_proxy,
    ),
]
Seconds = Annotated[float, Meta(gt=0, le=86400), _DURATION_WORDS]
Pause = Annotated[float, Meta(ge=0, le=86400), _DURATION_WORDS]
Age = Annotated[
    float, Meta(gt=0, le=36500 * 86400), _written("a duration such as 24h or 7d", parse_duration)
]
PerMinute = Annotated[int, Meta(ge=1, le=1_000_000_000)]
PerDay = Annotated[int, Meta(ge=1, le=1_000_000_000)]
MaxTokens = Annotated[int, Meta(ge=1, le=100_000_000)]
Temperature = Annotated[float, Meta(ge=0, le=100)]
_OWN = r"\A(?!(model|messages|stream|stream_options)\Z)"
Parameters = Annotated[
    Mapping[
        Annotated[str, _text("names of parameters that llmctl does not set itself", _OWN)], Any
    ],
    Meta(extra={"typed": {"max_tokens": MaxTokens | None, "temperature": Temperature | None}}),
]
Size = Annotated[int, Meta(ge=1), _written("a size such as 500MB, 1GB or 2GiB", parse_size)]
Share = Annotated[Decimal, _written("a share of the limit such as 0.8 or 80%", parse_share)]
Dollars = Annotated[Decimal, Meta(description="an amount in USD such as 25 or 2_000.50")]


class ModelLimits(Struct, frozen=True):
    """Limits of one model; what it does not say is as the profile says."""

    rpm: PerMinute | None = None
    tpm: PerMinute | None = None
    rpd: PerDay | None = None


class Limits(Struct, frozen=True):
    """`concurrency`: calls in flight; `rpm`, `tpm`: requests and tokens a minute, `rpd`: requests a
    day (of UTC, of Pacific time at Google), None: any. `models`: by a name, or a pattern such as
    `gpt-5*`, those that have limits of their own, each entry counted apart. `tier`: the provider's
    published figures where the profile says none (`providers/tiers.py`)."""

    concurrency: Annotated[int, Meta(ge=1, le=10_000)] = 8
    rpm: PerMinute | None = None
    tpm: PerMinute | None = None
    rpd: PerDay | None = None
    models: Mapping[LabelName, ModelLimits] = field(default_factory=dict)
    tier: Text | None = None

    def entry(self, model: str) -> str | None:
        """Which entry of `models` the model has: its own, else the first whose pattern it fits."""
        if model in self.models:
            return model
        return next((each for each in self.models if fnmatchcase(model, each)), None)

    def of(self, model: str) -> Limits:
        """The limits that calls of the model have."""
        name = self.entry(model)
        if name is None:
            return self
        own = self.models[name]
        rpm, tpm, rpd = own.rpm or self.rpm, own.tpm or self.tpm, own.rpd or self.rpd
        return Limits(self.concurrency, rpm, tpm, rpd)


class Timeouts(Struct, frozen=True):
    """Seconds: to connect, from sending to the first byte of the answer, and for one attempt."""

    connect: Seconds = 10.0
    first_byte: Seconds = 60.0
    total: Seconds = 300.0


class RetryPolicy(Struct, frozen=True):
    """`attempts`: tries in all; `max_wait`: longest pause between two, in seconds;
    `ambiguous_attempts`: retries after a failure that the provider may have billed."""

    attempts: Annotated[int, Meta(ge=1, le=100)] = 4
    max_wait: Pause = 60.0
    ambiguous_attempts: Annotated[int, Meta(ge=0, le=100)] = 1


class BreakerPolicy(Struct, frozen=True):
    """A provider is down after `failures` in a row, or when at least `error_rate` (a share) of the
    calls of the last `window` seconds failed; then nothing is sent for `open_for` seconds."""

    failures: Annotated[int, Meta(ge=1, le=1_000_000)] = 5
    error_rate: Annotated[float, Meta(ge=0.01, le=1)] = 0.5
    window: Seconds = 60.0
    open_for: Seconds = 60.0


class BatchPolicy(Struct, frozen=True):
    """The provider's batches (`--engine provider`). `poll`: seconds until the first look at one;
    `queued_tokens`: of input that all of them may hold at a time, which is the provider's limit."""

    poll: Seconds = 15.0
    queued_tokens: Annotated[int, Meta(ge=1, le=1_000_000_000_000)] | None = None


class CachePolicy(Struct, frozen=True):
    """`ttl`: seconds an answer may be reused, None for ever; `semantic`: also for questions that
    mean the same, None (`off` in a file): only for those of the same words."""

    enabled: bool = True
    ttl: Age | None = None
    semantic: SemanticPolicy | None = None

    def __post_init__(self) -> None:
        if self.semantic is not None and self.semantic.mode == "off":
            force_setattr(self, "semantic", None)


_ENDPOINT = "https:// and a host (http:// only on this machine), without user and password"


def is_loopback(host: str) -> bool:
    """Whether the host, a name or an address, is this machine."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def parse_endpoint(text: str) -> str | None:
    """An address that a secret or a caller's token may be sent to; None where it is none."""
    try:
        parts = urlsplit(text)
        host, port = parts.hostname or "", parts.port
    except ValueError:  # its message may repeat a password
        return None
    if parts.scheme not in ("http", "https") or not _HOST.fullmatch(host) or "@" in parts.netloc:
        return None
    if (parts.scheme == "http" and not is_loopback(host)) or port == 0 or parts.fragment:
        return None
    return None if re.search(r'[\s\\<>"]', text) else text


class Secret(Struct, frozen=True):
    """The environment variable that holds a secret."""

    env: Variable


SecretPlace = Annotated[Secret, Meta(description="{env: NAME}, never a secret itself")]


class SecretUri(Struct, frozen=True):
    """Where a secrets manager keeps a key: its `scheme`, the parts of the path as the scheme names
    them, and the `field` of a secret that holds several. `text` is the address as it was written.

    Parts: `aws-sm`, `aws-ssm`: region, name; `azure-kv`: vault, name; `gcp-sm`: project, name,
    version (`latest` where none is said); `vault`: mount, path; `op`: the whole reference;
    `doppler`: project, config, name.
    """

    scheme: str
    parts: tuple[str, ...]
    field: str | None
    text: str

    def __str__(self) -> str:
        return self.text


_SECRETS = {
    "aws-sm": ("REGION/NAME#FIELD", r"([a-z]{2}(?:-[a-z0-9]+)+)/([\w/+=.@:!-]+)(?:#(.+))?"),
    "aws-ssm": ("REGION/NAME", r"([a-z]{2}(?:-[a-z0-9]+)+)/([\w/.-]+)()"),
    "azure-kv": ("VAULT/NAME", r"([\w.:-]+)/([A-Za-z0-9-]{1,127})()"),
    "gcp-sm": (
        "PROJECT/NAME",
        r"([\w:.-]+)/([\w-]{1,255})(?:/(latest|[0-9]+|[a-z][\w-]*))?()",
    ),
    "vault": ("MOUNT/PATH#FIELD", r"([\w.-]+)/([\w./@ -]+)(?:#(.+))"),
    "op": ("VAULT/ITEM/FIELD", r"([^#?/]+(?:/[^#?/]+){2,3}(?:\?attribute=\w+)?)()"),
    "doppler": ("PROJECT/CONFIG/NAME", r"([\w-]+)/([\w-]+)/([A-Za-z_]\w*)()"),
}
"""Scheme → what stands behind `://`, for people and as a pattern, whose last group is the field."""


def parse_secret_uri(text: str) -> SecretUri | None:
    """The address of a secret (`_SECRETS`). None: no such address."""
    scheme, mark, rest = text.strip().partition("://")
    match = re.fullmatch(_SECRETS[scheme][1], rest) if mark and scheme in _SECRETS else None
    if match is None or "//" in rest.lstrip("/") or {".", ".."} & set(rest.split("/")):
        return None
    *parts, named = match.groups()
    if scheme == "gcp-sm":
        parts[2] = parts[2] or "latest"
    return SecretUri(scheme, tuple(parts), named or None, text.strip())


def _secret_forms(text: str = "") -> str:
    """The form of an address, by the scheme that the text seems to have; else all of them."""
    from difflib import get_close_matches

    forms = {scheme: f"{scheme}://{form}" for scheme, (form, _) in _SECRETS.items()}
    meant = get_close_matches(text.partition(":")[0].strip(), forms, n=1)
    return forms[meant[0]] if meant else f"one of {', '.join(forms.values())}; never a key itself"


SecretAddress = Annotated[
    SecretUri,
    Meta(
        description=_secret_forms(),
        extra={"parse": parse_secret_uri, "forms": _secret_forms},
    ),
]
"""Where a secrets manager has it."""


class KeyPlaces(Struct, frozen=True):
    """Where a profile's key comes from: the variable `env`, then the keyring's entry `keyring`; or
    a secrets manager, or what `command` prints. `hidden` are variables of other keys, which the
    command may not see."""

    derived: ClassVar[frozenset[str]] = frozenset({"hidden"})

    env: Variable | None = None
    keyring: StoredName | None = None
    secret: SecretAddress | None = None
    command: Command | None = None
    hidden: tuple[str, ...] = ()


KeyPlace = Annotated[
    KeyPlaces,
    Meta(
        description="one of {env: NAME}, {keyring: NAME}, {secret: …} and {command: …}, never a "
        "key itself"
    ),
]


class GcpAuth(Struct, frozen=True):
    """Google Cloud's credentials. `credentials`: a file (a service account's, or of workload
    identity federation) instead of the usual places; `quota_project` is billed for the quota."""

    credentials: Path | None = None
    quota_project: Text | None = None


class AzureAuth(Struct, frozen=True):
    """Microsoft Entra ID's credentials: an application, or what azure-identity finds. `scope` is
    what the token is for."""

    tenant: Text | None = None
    client_id: Text | None = None
    client_secret: SecretPlace | None = None
    scope: Text = "https://cognitiveservices.azure.com/.default"


class AwsAuth(Struct, frozen=True):
    """The AWS credential chain. `profile` is one of ~/.aws/config."""

    profile: Text | None = None


class TokenPlace(Struct, frozen=True):
    """Where an OIDC token is: in the variable `env`, or in a `file`."""

    env: Variable | None = None
    file: Path | None = None


class OidcAuth(Struct, frozen=True):
    """An OIDC token that the provider exchanges for one of its own, which lives for minutes.

    Attributes:
        token: where it is. None: GitHub Actions is asked for one for the `audience`.
        identity_provider_id, service_account_id: OpenAI's names of who asks.
        federation_rule_id, organization_id, workspace_id: Anthropic's, which may have a
            `service_account_id`, too.
        token_type: what OpenAI is to take the token for.
        url: where it is exchanged, instead of the provider's own address.

    """

    token: Annotated[TokenPlace, Meta(description="one of {env: NAME} and {file: PATH}")] | None = (
        None
    )
    token_type: Literal["jwt", "id_token"] = "jwt"  # noqa: S105 - a kind
    audience: Text | None = None
    identity_provider_id: Text | None = None
    service_account_id: Text | None = None
    federation_rule_id: Text | None = None
    organization_id: Text | None = None
    workspace_id: Text | None = None
    url: Annotated[str, _written(_ENDPOINT, parse_endpoint)] | None = None


class AuthPlaces(Struct, frozen=True):
    """What proves who asks, instead of a key: exactly one."""

    words: ClassVar[frozenset[str]] = frozenset({"gcp", "azure", "aws"})

    gcp: GcpAuth | None = None
    azure: AzureAuth | None = None
    aws: AwsAuth | None = None
    oidc: OidcAuth | None = None

    @property
    def kind(self) -> str:
        """Which of them it is."""
        return next(name for name in self.__struct_fields__ if getattr(self, name) is not None)


AuthPlace = Annotated[
    AuthPlaces,
    Meta(
        description="gcp, azure or aws, or one of them or oidc with settings, such as {oidc: {…}}",
    ),
]


class EnvFile(Struct, frozen=True):
    """A `.env` file for development, which may be written as its path alone. `shared`: it is used
    although others can read it."""

    text: ClassVar[str] = "path"

    path: Path
    shared: bool = False


class Privacy(Struct, frozen=True):
    """What becomes of identifiers in what is asked; in a file `mask`, `action` and `restore`.

    `mask` are the kinds; `all` has names of people and places, too, which need the extra `ner`.
    `action`: `mask` puts a token such as `[[EMAIL_1a2b]]` in the place of each, `block` does not
    send a question that has one, `report` only counts. `restore` puts values back into answers;
    secrets never are.
    """

    mask: Kinds = IDENTIFIERS
    action: Literal["mask", "block", "report"] = "mask"
    restore: bool = True


class DegradeStep(Struct, frozen=True):
    """What is given while the provider and all fallbacks are down; exactly one.

    Attributes:
        stale: seconds since an answer was kept, up to which it is given although it has expired.
        static: a text that is given instead of an answer.

    """

    stale: Age | None = None
    static: Prompt | None = None


_STEPS = Meta(description='{stale: 24h}, {static: "…"} or queue')
DegradeSteps = tuple[
    Annotated[Literal["queue"], _STEPS] | Annotated[DegradeStep, _STEPS],
    ...,
]
"""What is done while the provider and all fallbacks are down, in this order. `queue`: a call of
`ask`, or a row of `batch`, is kept until `llmctl queue run` sends it; callers of `llmctl serve`
wait for their answers, and their calls are not."""


Api = Literal["chat", "responses"]


class SummariseOverflow(Struct, frozen=True):
    """What is done with a prompt longer than the window: its longest text becomes the summary that
    the profile `summarise` makes of it."""

    summarise: Text


_WORDS_OF_OVERFLOW = Meta(description="reject, truncate, fallback or {summarise: PROFILE}")
Overflow = (
    Annotated[Literal["reject", "truncate", "fallback"], _WORDS_OF_OVERFLOW] | SummariseOverflow
)
"""What is done with a prompt longer than the window."""


Region = Annotated[str, _text("a region such as eu or eu-central-1", r"\A[a-z][a-z0-9-]{0,40}\Z")]
Retention = Literal["none"]
Agreement = Annotated[
    str, _text("a name in small letters such as baa", r"\A[a-z][a-z0-9-]{0,40}\Z")
]


class DataRules(Struct, frozen=True):
    """Where data may go, `data:` at the top of a file; None: anywhere.

    Attributes:
        regions: every call goes only to profiles whose `region` is one of these, or lies in one
            (`eu-central-1` in `eu`).
        retention: `none`: every call goes only to profiles with `retention: none`; what switches
            storage off at the provider is sent, and no provider's batches are made, which are
            files there.
        agreements: every call goes only to profiles that have all of these.
        classes: by name the only profiles that calls of that class may go to.

    One call asks for more by its tags, those of its profile included: `data.region=eu`,
    `data.retention=none`, `data.agreement=baa`, `data.class=NAME`. All that is asked must hold.
    A profile of `provider: local` is on this machine: only classes bind it. An answer that is kept
    on this machine is given again whatever the rules say: nothing is sent.

    """

    regions: (
        Annotated[
            tuple[Region, ...], Meta(min_length=1, description="a list of one region or more")
        ]
        | None
    ) = None
    retention: Retention | None = None
    agreements: tuple[Agreement, ...] = ()
    classes: Mapping[StoredName, tuple[Text, ...]] = field(default_factory=dict)


class Profile(Struct, frozen=True):
    """One provider profile, complete: preset, file, environment and flags merged.

    `price_as` is the address and model whose price it has, as `price` says.
    `admin_key` is another key, which makes and revokes those of the provider (`keys rotate`).
    `auth` proves who asks instead of a `key`; `region` and `project` are a cloud's.
    `query` stands in the address of every call, `url` is `base_url` with it, `key_header` the
    header of the key where it is not the usual one (Azure's `api-version` and `api-key`).
    `servers` are all addresses of a `base_url` that is a list: servers of the same model, which
    share the calls; `base_url` is the first, and stands for all of them. Written `node:8000/v1`,
    it is the server on the machine that makes the call: `http://127.0.0.1:8000/v1`.
    `context` is the model's window in tokens; `model_path`, `parallel` (answers at once) belong to
    `local`. `max_tokens` and `temperature` stand among `params` in a file. `fallback` are the
    profiles asked, in this order, when this one cannot serve. `default_max_tokens` limits answers
    that nothing else limits, under a budget. `system` is the system prompt of
    questions that bring none; `route` says which questions a cheaper profile is asked instead;
    `headers` go with every call, by way of `proxy` where one is named; `privacy` masks identifiers
    in what is asked, also where a fallback is asked; `degrade` is what is done in an outage, when
    no fallback answers;
    `extends` names the profile that this one is over, which is none once it is complete. `region`,
    `retention` and `agreements` are what the user knows of the provider, which `data`, the rules
    that bind all profiles, are held against. `source` says where the profile was
    defined; `chosen` why it is the one in use. `summariser` is the
    profile that `on_overflow` names.
    """

    derived: ClassVar[frozenset[str]] = frozenset(
        {"name", "adapter", "max_tokens", "temperature", "source", "chosen", "url", "servers",
         "price_as", "data", "summariser"}
    )  # fmt: skip
    hints: ClassVar[Mapping[str, str]] = {
        **dict.fromkeys(
            ("api_key", "token", "key_env"),
            "write key: {env: NAME}, where NAME is the environment variable that holds the key",
        ),
        **dict.fromkeys(("temperature", "max_tokens"), "it belongs under params"),
        **dict.fromkeys(("concurrency", "rpm", "tpm", "rpd"), "it belongs under limits"),
        "data": "it stands beside profiles; a profile asks by tags: {data.class: NAME}",
    }

    name: str
    provider: Text
    adapter: str
    base_url: ServerUrl
    model: Text
    key: KeyPlace | None = None
    admin_key: KeyPlace | None = None
    auth: AuthPlace | None = None
    region: Region | None = None
    project: Annotated[str, _text("a project's id", r"\A[\w:.-]{1,100}\Z")] | None = None
    api: Api = "chat"
    query: Mapping[LabelName, Label] = field(default_factory=dict)
    key_header: Header | None = None
    max_tokens: MaxTokens | None = None
    temperature: Temperature | None = None
    params: Parameters = field(default_factory=dict)
    limits: Limits = Limits()
    timeout: Timeouts = Timeouts()
    retry: RetryPolicy = RetryPolicy()
    breaker: BreakerPolicy = BreakerPolicy()
    cache: CachePolicy = CachePolicy()
    batch: BatchPolicy = BatchPolicy()
    privacy: Privacy | None = None
    degrade: DegradeSteps = ()
    history: bool = True
    on_overflow: Overflow = "reject"
    default_max_tokens: MaxTokens = 8192
    fallback: tuple[Text, ...] = ()
    route: RouteSettings | None = None
    price: Price | None = None
    tags: Mapping[TagName, Label] = field(default_factory=dict)
    context: Annotated[int, Meta(ge=1, le=1_000_000_000)] | None = None
    model_path: Path | None = None
    parallel: Annotated[int, Meta(ge=1, le=256)] = 4
    http: Literal["standard"] | None = None
    extends: Text | None = None
    system: Prompt | None = None
    headers: Headers = field(default_factory=dict)
    proxy: ProxyUrl | None = None
    env_file: EnvFile | None = None
    retention: Retention | None = None
    agreements: tuple[Agreement, ...] = ()
    source: str = "built in"
    chosen: str = ""
    url: str = ""
    servers: tuple[str, ...] = ()
    price_as: tuple[str, str] | None = None
    data: DataRules = DataRules()
    summariser: Profile | None = None

    def __post_init__(self) -> None:
        """Join the address once: it is read for every row."""
        query = f"?{urlencode(self.query)}" if self.query else ""
        force_setattr(self, "url", self.base_url + query)
        if self.price is not None and self.price.like:
            provider, _, model = self.price.like.partition("/")
            force_setattr(self, "price_as", (PRESETS[provider].base_url, model))

    @property
    def urls(self) -> tuple[str, ...]:
        """The addresses of all servers, each with the query; the first is `url`."""
        query = self.url.removeprefix(self.base_url)
        return tuple(server + query for server in self.servers or (self.base_url,))


Period = Literal["day", "week", "month"]  # of the calendar; a week begins on Monday

PERIODS: tuple[Period, ...] = get_args(Period)


_MATCHES = _text(
    "profile, provider, model, user and tags", r"\A(profile|provider|model|user|tags)\Z"
)


class Budget(Struct, frozen=True):
    """At most `limit` US dollars a period, for the calls that have all of `match`: a value by
    `profile`, `provider`, `model`, `user` or `tag:NAME` (in a file, those stand below `tags`).
    `warn_at` are shares of the limit, ascending."""

    name: Text
    limit: Dollars = field(name="limit_usd")
    period: Period
    warn_at: tuple[Share, ...] = ()
    match: Annotated[
        Mapping[Annotated[str, _MATCHES], Text],
        Meta(extra={"typed": {"tags": Mapping[LabelName, Label]}}),
    ] = field(default_factory=dict)


# The gateway, `llmctl serve`.

QuotaPeriod = Literal["minute", "hour", "day", "week", "month"]  # of UTC; a week begins on Monday

_PERIOD_WORDS: Mapping[str, QuotaPeriod] = {
    "min": "minute",
    **{period: period for period in get_args(QuotaPeriod)},
}
_QUOTA = re.compile(
    r"(\$?)([0-9]{1,15}(?:_[0-9]{1,15}){0,4}(?:\.[0-9]{1,9})?) ?/ ?"
    rf"({'|'.join(_PERIOD_WORDS)})"
)


class Rate(Struct, frozen=True):
    """At most `amount` requests or tokens a `period`; written `60/minute`."""

    amount: int
    period: QuotaPeriod

    def __str__(self) -> str:
        return f"{self.amount}/{self.period}"


class Allowance(Struct, frozen=True):
    """At most `amount` US dollars a `period`; written `5/day`."""

    amount: Decimal
    period: QuotaPeriod

    def __str__(self) -> str:
        return f"{self.amount}/{self.period}"


def parse_rate(text: str) -> Rate | None:
    """`60/minute`, `60/min` or `10_000/day`. None: no such rate, or one of 0."""
    match = _QUOTA.fullmatch(text.strip())
    if match is None or match[1] or "." in match[2] or not int(match[2]):
        return None
    return Rate(int(match[2]), _PERIOD_WORDS[match[3]])


def parse_allowance(text: str) -> Allowance | None:
    """`5/day`, `$5/day` or `2_000.50/month`, in US dollars. None: no such allowance."""
    match = _QUOTA.fullmatch(text.strip())
    return None if match is None else Allowance(Decimal(match[2]), _PERIOD_WORDS[match[3]])


RateText = Annotated[
    Rate, _written("a number and a period, such as 60/minute or 10_000/day", parse_rate)
]
AllowanceText = Annotated[
    Allowance, _written("US dollars and a period, such as 5/day or 100/month", parse_allowance)
]


class Caps(Struct, frozen=True):
    """What one caller, team or organisation may use: requests, tokens (input and output) and
    dollars, each by any number of periods that all hold. Empty: any amount."""

    requests: tuple[RateText, ...] = ()
    tokens: tuple[RateText, ...] = ()
    budget: tuple[AllowanceText, ...] = ()


class Group(Caps, frozen=True):
    """A team or an organisation: what all its callers may use together, and which `profiles`
    (None: all that are served)."""

    profiles: tuple[Text, ...] | None = None


def _parse_jwks(text: str) -> str | None:
    """The address of a key set, or a file's path; None where it is neither."""
    return parse_endpoint(text) if "://" in text else text.strip() or None


def _parse_network(text: str) -> str | None:
    """A network in its usual form; one address is a network of one."""
    try:
        return str(ip_network(text.strip()))
    except ValueError:
        return None


def _parse_origin(text: str) -> str | None:
    """An origin as browsers send it: in lower case, without the scheme's own port."""
    match = re.fullmatch(r"(https?)://([a-z0-9.-]+|\[[0-9a-f:.]+\])(:[0-9]{1,5})?/?", text.lower())
    if match is None:
        return None
    own = {"http": ":80", "https": ":443"}[match[1]]
    port = match[3] or ""
    return f"{match[1]}://{match[2]}{'' if port == own else port}"


class ServeLimits(Struct, frozen=True):
    """What a caller may send and wait for.

    `body`: bytes; `depth`: levels of JSON; `messages`: of a conversation, or texts to embed;
    `max_tokens`: of output that a caller may ask for (None: any); `n`: answers to one question;
    `logit_bias`: tokens it names. `queue`: calls that wait for a provider's limits or a budget
    before more are refused; `wait`: seconds that one waits for a held budget to come free.
    """

    body: Size = 10 * 2**20
    depth: Annotated[int, Meta(ge=4, le=200)] = 64
    messages: Annotated[int, Meta(ge=1, le=1_000_000)] = 1000
    max_tokens: MaxTokens | None = None
    n: Annotated[int, Meta(ge=1, le=1000)] = 8
    logit_bias: Annotated[int, Meta(ge=0, le=1_000_000)] = 300
    queue: Annotated[int, Meta(ge=0, le=1_000_000)] = 1000
    wait: Pause = 30.0


class ScreenRule(Struct, frozen=True):
    """A regular expression (Python's) that no prompt may match: the call is refused, or what
    matches is replaced by `[NAME]`."""

    name: StoredName
    pattern: Annotated[
        re.Pattern[str],
        _written(
            r"a regular expression in Python's syntax, such as '\bproject-x\b', that does not "
            "match empty text",
            parse_pattern,
        ),
    ]
    action: Literal["refuse", "mask"]


class IpSettings(Struct, frozen=True):
    """Who may connect. `allow`: networks in CIDR form, none for any; `trusted_proxies`: how many
    proxies stand before the gateway, each of which adds to X-Forwarded-For."""

    allow: tuple[
        Annotated[
            str, _written("an address or a network such as 10.0.0.0/8 or ::1", _parse_network)
        ],
        ...,
    ] = ()
    trusted_proxies: Annotated[int, Meta(ge=0, le=20)] = 0


class Claims(Struct, frozen=True):
    """Names of the claims that say who a caller is. `profiles` is a list or text with spaces,
    `budget` text such as 5/day, or a list of it."""

    user: Text = "sub"
    team: Text = "team"
    organisation: Text = "organisation"
    profiles: Text = "profiles"
    budget: Text = "budget"


Algorithm = Literal["RS256", "ES256", "HS256"]


class JwtSettings(Struct, frozen=True):
    """How a JWT is checked: its issuer and audience (one of), and the key of its signature, either
    from a key set, `jwks` (an address, or the absolute path of a file), or a shared `secret`.
    `leeway`: seconds that clocks may differ by."""

    issuer: Text
    audience: Annotated[tuple[Text, ...], Meta(min_length=1, description="at least one audience")]
    jwks: Annotated[str, _written(f"a file, or {_ENDPOINT}", _parse_jwks)] | None = None
    secret: SecretPlace | None = None
    algorithms: tuple[Algorithm, ...] = ()
    claims: Claims = Claims()
    leeway: Annotated[float, Meta(ge=0, le=300), _DURATION_WORDS] = 30.0


class IntrospectionSettings(Struct, frozen=True):
    """How an opaque token is asked about (RFC 7662): at `url`, as `client_id`. `audience` (one of)
    and `issuer` are demanded where they are set; `cache`: seconds that an answer holds."""

    url: Annotated[str, _written(_ENDPOINT, parse_endpoint)]
    client_id: Text
    client_secret: SecretPlace
    audience: tuple[Text, ...] = ()
    issuer: Text | None = None
    claims: Claims = Claims()
    cache: Annotated[float, Meta(ge=0, le=3600), _DURATION_WORDS] = 30.0


class TlsFiles(Struct, frozen=True):
    """The certificate (with its chain) and its private key, PEM files."""

    cert: Path
    key: Path


class Serve(Struct, frozen=True):
    """The gateway. `host`, `port` (0: any free one) and `workers` (processes) say where it stands.

    Attributes:
        profiles: that callers may use, if they and their team may. None: all that have a key.
        models: names that callers may use as `model`, each for a profile or `profile/model`.
        limits, screen: what a caller may send.
        caller: what each caller may use that has no caps of its own.
        teams, organisations: what their callers may use together, by name.
        cors: origins of web pages that may call, as browsers send them.
        ip, jwt, introspection: who may call, beside holders of `llmctl tokens`.
        tls: files; None: plain HTTP.

    """

    host: Annotated[str, _text("a host name or an address", r"\A[\w.:%-]+\Z")] = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65535)] = 8400
    workers: Annotated[int, Meta(ge=1, le=256)] = 1
    profiles: tuple[Text, ...] | None = None
    models: Mapping[LabelName, Text] = field(default_factory=dict)
    limits: ServeLimits = ServeLimits()
    screen: tuple[ScreenRule, ...] = ()
    caller: Caps = Caps()
    teams: Mapping[LabelName, Group] = field(default_factory=dict)
    organisations: Mapping[LabelName, Group] = field(default_factory=dict)
    cors: tuple[
        Annotated[str, _written("an origin such as https://app.example", _parse_origin)], ...
    ] = ()
    ip: IpSettings = IpSettings()
    jwt: JwtSettings | None = None
    introspection: IntrospectionSettings | None = None
    tls: TlsFiles | None = None


def _parse_checkpoint(text: str) -> str | None:
    """An address, or the name of a file; None where it is neither."""
    return parse_endpoint(text) if "://" in text else text or None


class Audit(Struct, frozen=True):
    """The audit log: which `content` of calls it holds, for how long whole segments are kept
    (seconds; None: for ever), and where its head is written to, a file or an address."""

    content: Literal["none", "masked", "full"] = "none"
    retain: (
        Annotated[
            float,
            Meta(gt=0, le=36500 * 86400),
            _written("an age with its unit, such as 90d", parse_age),
        ]
        | None
    ) = None
    checkpoint: Annotated[str, _written(f"a file, or {_ENDPOINT}", _parse_checkpoint)] | None = None


def parse_collector(text: str) -> str | None:
    """`env`, or the address of a collector, before /v1/traces; None where it is neither."""
    url = text if text == "env" else _parse_base_url(text)
    return None if url is None or re.search(r"/v1/(traces|metrics)/*\Z", url) else url


class Telemetry(Struct, frozen=True):
    """OpenTelemetry's spans and metrics of calls, by OTLP over HTTP.

    Attributes:
        otlp: the collector's address; `env`: what OpenTelemetry's own variables say, and nothing is
            sent where they name none.
        headers: of every request, by name the variables that hold their values.
        content: spans say what was asked and answered.
        metrics: they are sent, too.
        service: the name of what calls. None: what the environment says, or `llmctl`.

    """

    otlp: Annotated[
        str,
        _written(
            "http:// or https:// and a host, such as http://127.0.0.1:4318, without user, password "
            "and /v1/traces; or env (OTEL_EXPORTER_OTLP_ENDPOINT and its like)",
            parse_collector,
        ),
    ]
    headers: Mapping[
        Annotated[
            str,
            _text(
                "names of headers that llmctl does not set itself",
                r"(?i)\A(?!(host|connection|transfer-encoding|content-(length|type|encoding)"
                r"|accept-encoding)\Z)[a-z][a-z0-9-]{0,63}\Z",
            ),
        ],
        SecretPlace,
    ] = field(default_factory=dict)
    content: bool = False
    metrics: bool = True
    service: Text | None = None


# Alerts, `alerts:`.

Figure = Literal[
    "error_rate",
    "p50",
    "p95",
    "p99",
    "calls",
    "errors",
    "auth_errors",
    "rate_limits",
    "retries",
    "hit_rate",
    "cost",
    "traffic",
    "circuits",
    "budget",
    "daily_spend",
]
Severity = Literal["critical", "warning", "info"]

_AMOUNT = re.compile(r"\$?([0-9]{1,12}(?:\.[0-9]{1,9})?)(%?)")


def parse_amount(text: str) -> float | None:
    """A figure's threshold: `5%` (0.05), `8s` or `500ms` (seconds), `$20`, or a number."""
    if match := _AMOUNT.fullmatch(text.strip()):
        return float(match[1]) / (100 if match[2] else 1)
    return parse_age(text)


Amount = Annotated[
    float,
    Meta(ge=0),
    _written("a threshold such as 5%, 8s, $20 or 10", parse_amount),
]
Webhook = Annotated[str, _written(_ENDPOINT, parse_endpoint)]


class SinkSecret(Struct, frozen=True):
    """Where a sink's secret is: in the variable `env`, in a secrets manager, or what `command`
    prints. `hidden` are variables of other secrets, which the command may not see."""

    derived: ClassVar[frozenset[str]] = frozenset({"hidden"})

    env: Variable | None = None
    secret: SecretAddress | None = None
    command: Command | None = None
    hidden: tuple[str, ...] = ()


SinkSecretPlace = Annotated[
    SinkSecret,
    Meta(
        description="one of {env: NAME}, {secret: …} and {command: …}, never a secret itself",
    ),
]


class WebhookSink(Struct, frozen=True):
    """An address that gets the message as JSON; `secret_url` names the place of one that is secret
    itself. `key` goes with it as a bearer token."""

    text: ClassVar[str] = "url"

    url: Webhook | None = None
    secret_url: SinkSecretPlace | None = None
    key: SinkSecretPlace | None = None


class AlertmanagerSink(Struct, frozen=True):
    """The address of a Prometheus Alertmanager, without /api/v2/alerts; `http://` to any host, for
    it mostly is on a network of one's own. `key` goes with it as a bearer token."""

    text: ClassVar[str] = "url"

    url: BaseUrl
    key: SinkSecretPlace | None = None


class SmtpSink(Struct, frozen=True):
    """A mail server. `tls`: `starttls` (port 587), from the first byte (`on`, 465), or `off` (25),
    which no password goes over but on this machine. `sender` is who it comes from."""

    host: Annotated[str, _text("a host name or an address", r"\A[\w.:-]+\Z")]
    sender: Annotated[str, _text("an address of mail", r"\A[^\s@<>,;]+@[^\s@<>,;]+\Z")] = field(
        name="from"
    )
    to: Annotated[
        tuple[Annotated[str, _text("addresses of mail", r"\A[^\s@<>,;]+@[^\s@<>,;]+\Z")], ...],
        Meta(min_length=1, description="at least one address of mail"),
    ]
    port: Annotated[int, Meta(ge=1, le=65535)] | None = None
    tls: Literal["starttls", "on", "off"] = "starttls"
    user: Text | None = None
    key: SinkSecretPlace | None = None


class AlertSink(Struct, frozen=True):
    """Where alerts go, one of them. `slack` and `apprise` name the place of an address that is
    secret itself; `command` gets the message as JSON on its stdin."""

    webhook: WebhookSink | None = None
    slack: SinkSecretPlace | None = None
    smtp: SmtpSink | None = None
    alertmanager: AlertmanagerSink | None = None
    command: Command | None = None
    apprise: SinkSecretPlace | None = None

    @property
    def kind(self) -> str:
        """Which of them it is."""
        return next(name for name in self.__struct_fields__ if getattr(self, name) is not None)

    @property
    def secrets(self) -> tuple[SinkSecret, ...]:
        """The places of its secrets."""
        held = [one.key for one in (self.webhook, self.smtp, self.alertmanager) if one is not None]
        held += [self.webhook.secret_url if self.webhook else None, self.slack, self.apprise]
        return tuple(place for place in held if place is not None)


SinkPlace = Annotated[
    AlertSink,
    Meta(
        description="one of {webhook: URL}, {slack: {env: NAME}}, {smtp: {…}}, "
        "{alertmanager: URL}, {command: …} and {apprise: {env: NAME}}, never a secret itself"
    ),
]


class AlertRule(Struct, frozen=True):
    """When to tell somebody: `figure` is `above` or `below` a threshold.

    Attributes:
        enabled: a rule may be written as `off` alone.
        over: seconds of calls, up to now, that the figure is taken of.
        held: seconds for which it must hold before it fires; `for` in a file.
        resolve: the figure has to come back as far as this before it is resolved.
        min_calls: with fewer calls nothing fires.
        profile: only its calls count; None: all.
        budget: the one that is looked at; None: whichever is used most.
        to: names of sinks; None: those of `alerts: to:`.

    """

    text: ClassVar[str] = "enabled"
    derived: ClassVar[frozenset[str]] = frozenset({"name"})

    name: str = ""
    figure: Figure = "errors"
    enabled: bool = True
    above: Amount | None = None
    below: Amount | None = None
    resolve: Amount | None = None
    over: Annotated[
        float,
        Meta(ge=60, le=7 * 86400),
        _written("a duration from 1m to 7d, such as 5m", parse_age),
    ] = 300.0
    held: Annotated[float, Meta(ge=0, le=86400), _DURATION_WORDS] = field(name="for", default=0.0)
    severity: Severity = "warning"
    min_calls: Annotated[int, Meta(ge=1, le=1_000_000_000)] = 20
    profile: Text | None = None
    budget: Text | None = None
    to: tuple[Text, ...] | None = None


class Alerts(Struct, frozen=True):
    """Rules over the ledger, and the sinks that hear of them. `to`: those of rules that name none;
    None: all. Nothing is sent, and live no rule is looked at, where there are no sinks. `hidden`
    are variables that hold secrets, which a sink's command may not see."""

    derived: ClassVar[frozenset[str]] = frozenset({"hidden"})

    to: tuple[Text, ...] | None = None
    rules: Mapping[StoredName, AlertRule] = field(default_factory=dict)
    sinks: Mapping[StoredName, SinkPlace] = field(default_factory=dict)
    hidden: tuple[str, ...] = ()


# Many machines, `coordinator:`.


def parse_redis_url(text: str, *, password: bool = False) -> str | None:
    """The address of a Redis; None where it is none. With `password` it may hold one."""
    try:
        parts = urlsplit(text)
        host, port, secret = parts.hostname or "", parts.port, parts.password
    except ValueError:  # its message may repeat a password
        return None
    if parts.scheme not in ("redis", "rediss") or not _HOST.fullmatch(host) or port == 0:
        return None
    if parts.query or parts.fragment or (secret is not None and not password):
        return None
    return text if re.fullmatch(r"(/[0-9]{0,5})?", parts.path) else None


def _redis_forms(text: str) -> str:
    """What the address of a Redis must be; the text is shown where it can hold no password."""
    shown = "" if re.search(r"[@?#\s]", text) or "://" not in text else f", not {text[:100]}"
    if re.fullmatch(r"rediss?://[^/@?#\s]+/[^@?#\s]+", text):
        return f"redis://HOST:PORT/NUMBER, where NUMBER is the database's{shown}"
    key = "" if shown else ", without password (its place is named by key: {env: NAME})"
    return f"redis://HOST:PORT/NUMBER, or rediss:// (TLS){key}{shown}"


class RedisSettings(Struct, frozen=True):
    """The Redis that machines share their limits, budgets and answers in.

    Attributes:
        url: its address; `secret_url` names the place of one that is secret itself.
        key: the place of the password.
        volatile: it may forget what was spent when it is started again.
        answers: seconds for which machines give answers to each other.

    """

    text: ClassVar[str] = "url"
    hints: ClassVar[Mapping[str, str]] = {
        "password": "its place is named by key: {env: NAME}",
        "user": "it is part of the url: redis://user@host:6379",
    }

    url: (
        Annotated[
            str,
            Meta(
                description="redis:// or rediss:// (TLS) and a host, such as redis://host:6379/0, "
                "without password (its place is named by key: {env: NAME})",
                extra={"parse": parse_redis_url, "forms": _redis_forms},
            ),
        ]
        | None
    ) = None
    secret_url: SinkSecretPlace | None = None
    key: SinkSecretPlace | None = None
    volatile: bool = False
    answers: Age = 86400.0

    @property
    def secrets(self) -> tuple[SinkSecret, ...]:
        """The places of its secrets."""
        return tuple(place for place in (self.secret_url, self.key) if place is not None)


class CacheSize(Struct, frozen=True):
    """What the cache of answers may grow to, in bytes."""

    hints: ClassVar[Mapping[str, str]] = dict.fromkeys(
        ("enabled", "ttl", "semantic"), "it belongs under the cache of a profile"
    )

    max_size: Size | None = None


class Store(Struct, frozen=True):
    """What is kept of questions and answers: whether llmctl `encrypt`s it (conversations, the cache
    of answers, files of providers' batches), by a key of the key store."""

    encrypt: bool = False


class ConfigFile(Struct, frozen=True):
    """A configuration file; its profiles, `serve` (see `Serve`), `alerts` (see `Alerts`) and `data`
    (see `DataRules`) are read once all files are merged."""

    hints: ClassVar[Mapping[str, str]] = dict.fromkeys(
        ("provider", "model", "base_url", "key", "limits", "price", "fallback", "privacy"),
        "it belongs in a profile: profiles: {NAME: {…}}",
    )

    default: Text | None = None
    profiles: Mapping[StoredName, object] = field(default_factory=dict)
    budgets: tuple[Budget, ...] = ()
    cache: CacheSize = CacheSize()
    serve: object = None
    audit: Audit | None = None
    telemetry: Telemetry | None = None
    data: object = None
    store: Store = Store()
    alerts: object = None
    coordinator: RedisSettings | None = None


class Folders(Struct, frozen=True):
    """Where the user's files, the ledger and conversations, the answers and the models are kept."""

    config: Path
    state: Path
    cache: Path
    data: Path


class Settings(Struct, frozen=True):
    """The outcome of configuration: `files` are those read, weakest first; `cache_size` is what the
    cache of answers may grow to, in bytes (None: any). `used` names the profile to use, which need
    not exist, `why` the reason; `audit` is None where no log of calls is kept, `telemetry` where
    none is sent; `encrypt`: what is kept of questions and answers is encrypted; `coordinator` is
    None where limits and budgets are this machine's."""

    profiles: Mapping[str, Profile]
    default: str | None
    folders: Folders
    files: tuple[Path, ...] = ()
    budgets: tuple[Budget, ...] = ()
    cache_size: int | None = None
    used: str = ""
    why: str = ""
    serve: Serve = Serve()
    audit: Audit | None = None
    telemetry: Telemetry | None = None
    encrypt: bool = False
    alerts: Alerts = Alerts()
    coordinator: RedisSettings | None = None
