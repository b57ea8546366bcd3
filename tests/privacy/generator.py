"""Texts with identifiers that are valid, and with what only looks like them; seeded."""

from __future__ import annotations

import random
import string
import zlib
from collections.abc import Callable

from llmctl.privacy.findings import Kind
from llmctl.privacy.numbers import luhn

BASE62 = string.digits + string.ascii_uppercase + string.ascii_lowercase
_FIRST = ("ann", "li.wei", "o_brien", "jean-luc", "maria+news", "x99")
_HOSTS = ("example.com", "mail.example.org", "example.co.uk", "ex-ample.io", "example.de")

Row = tuple[str, Kind | None, str]
"""A text, the kind of identifier in it, and the identifier; None and nothing in a near miss."""


def digits(draw: random.Random, count: int) -> str:
    """So many digits."""
    return "".join(draw.choice(string.digits) for _ in range(count))


def card(draw: random.Random) -> str:
    """A number with its check digit, in one of the ways it is written."""
    prefix, length = draw.choice(
        [("4", 16), ("52", 16), ("2221", 16), ("37", 15), ("6011", 16), ("3530", 16), ("62", 16)]
    )
    body = prefix + digits(draw, length - len(prefix) - 1)
    number = next(body + each for each in string.digits if luhn(body + each))
    sizes = (4, 6, 5) if length == 15 else (4, 4, 4, 4)
    return draw.choice(("", " ", "-")).join(_groups(number, sizes))


def _groups(number: str, sizes: tuple[int, ...]) -> list[str]:
    ends = [sum(sizes[: at + 1]) for at in range(len(sizes))]
    return [number[end - size : end] for size, end in zip(sizes, ends, strict=True)]


def iban(draw: random.Random) -> str:
    """An account of Germany, Britain, France or the Netherlands, with its check digits."""
    letters = "".join(draw.choice(string.ascii_uppercase) for _ in range(4))
    country, bban = draw.choice(
        [
            ("DE", digits(draw, 18)),
            ("GB", letters + digits(draw, 14)),
            ("FR", digits(draw, 23)),
            ("NL", letters + digits(draw, 10)),
        ]
    )
    value = int("".join(str(int(each, 36)) for each in f"{bban}{country}00"))
    number = f"{country}{98 - value % 97:02d}{bban}"
    if draw.random() < 0.5:
        number = " ".join(number[at : at + 4] for at in range(0, len(number), 4))
    return number.lower() if draw.random() < 0.2 else number


def ssn(draw: random.Random) -> str:
    """A number of an area, group and serial that are given out."""
    return f"{draw.randint(100, 599)}-{draw.randint(1, 99):02d}-{draw.randint(1, 9999):04d}"


def ip(draw: random.Random) -> str:
    """An address of either version, of no special use."""
    if draw.random() < 0.3:
        return ":".join(f"{draw.randint(4096, 65535):x}" for _ in range(8))
    return ".".join(str(draw.randint(20, 250)) for _ in range(4))


def email(draw: random.Random) -> str:
    """An address of mail."""
    return f"{draw.choice(_FIRST)}@{draw.choice(_HOSTS)}"


def phone(draw: random.Random) -> str:
    """A number as people write it: North American, British, French, German, international."""
    d = draw
    return d.choice(
        [
            f"({d.choice(('212', '415', '617'))}) {d.randint(220, 899)}-{digits(d, 4)}",
            f"+1 {d.choice(('212', '415', '617'))}-{d.randint(220, 899)}-{digits(d, 4)}",
            f"+44 20 7946 {digits(d, 4)}",
            f"020 7946 {digits(d, 4)}",
            "06 " + " ".join(f"{d.randint(10, 99)}" for _ in range(4)),
            f"+49 30 {d.randint(2000000, 8999999)}",
            f"0171 {d.randint(2000000, 8999999)}",
        ]
    )


def token(draw: random.Random, length: int, letters: str = BASE62) -> str:
    """So many letters and digits."""
    return "a1B2c3D4"[: min(8, length)] + "".join(draw.choice(letters) for _ in range(length - 8))


def github(draw: random.Random) -> str:
    """A token with its checksum."""
    body, number, checksum = token(draw, 30), 0, ""
    number = zlib.crc32(body.encode())
    while number:
        number, digit = divmod(number, 62)
        checksum = BASE62[digit] + checksum
    return f"ghp_{body}{checksum.rjust(6, '0')}"


def secret(draw: random.Random) -> str:
    """A key of one of many makers."""
    return draw.choice(
        [
            f"sk-proj-{token(draw, 60)}",
            f"sk-ant-api03-{token(draw, 93)}AA",
            f"sk-or-v1-{token(draw, 64, '0123456789abcdef').lower()}",
            f"gsk_{token(draw, 52)}",
            f"xai-{token(draw, 80)}",
            f"AIza{token(draw, 35)}",
            "AKIA" + "".join(draw.choice("ABCDEFGHIJKLMNOPQRSTUVWXYZ234567") for _ in range(16)),
            github(draw),
            f"hf_{token(draw, 34)}",
            f"glpat-{token(draw, 20)}",
            f"xoxb-{digits(draw, 11)}-{token(draw, 24)}",
            f"sk_live_{token(draw, 24)}",
            f"lk-{token(draw, 43)}",
        ]
    )


_SENTENCES: dict[Kind, tuple[str, ...]] = {
    "card": ("my card is {}", "Charge {} please.", "Visa: {}, valid thru 12/27", "{}"),
    "iban": ("Send it to {}.", "IBAN {}", "({})", "account {} in Berlin"),
    "ssn": ("SSN: {}", "It is {}, I think.", "social security number {}"),
    "ip": ("from {} at noon", "host={}", "[{}]", "Blocked: {}."),
    "email": ("Write to {}.", "<{}>", "mailto:{}", '{{"to": "{}"}}', "cc {}; thanks"),
    "phone": ("Call me on {}.", "Tel.: {}", "my mobile number is {}", "Fax {}"),
    "secret": ("key={}", '"{}"', "Authorization: Bearer {}", "I pasted {} by mistake"),
}
_MAKERS = {
    "card": card,
    "iban": iban,
    "ssn": ssn,
    "ip": ip,
    "email": email,
    "phone": phone,
    "secret": secret,
}


def identifiers(draw: random.Random, count: int) -> list[Row]:
    """So many texts of each kind."""
    rows: list[Row] = []
    for kind, sentences in _SENTENCES.items():
        for _ in range(count):
            value = _MAKERS[kind](draw)
            rows.append((draw.choice(sentences).format(value), kind, value))
    return rows


def near_misses(draw: random.Random, count: int) -> list[Row]:
    """So many texts without an identifier."""
    d = draw
    kinds: list[Callable[[], str]] = [
        lambda: f"order 4{digits(d, 15)} was shipped",
        lambda: f"tracking number {digits(d, 12)}",
        lambda: f"on {d.randint(1, 28):02d}.{d.randint(1, 12):02d}.{d.randint(1990, 2030)}",
        lambda: f"since 20{digits(d, 2)}-{d.randint(1, 12):02d}-{d.randint(1, 28):02d} 10:30:00",
        lambda: f"call it at 10:30 on {d.randint(1, 28)}/{d.randint(1, 12)}/2026",
        lambda: (
            f"version {d.randint(1, 20)}.{d.randint(0, 20)}.{d.randint(0, 20)}.{d.randint(0, 99)}"
        ),
        lambda: f"numpy=={d.randint(1, 3)}.{d.randint(0, 30)}.{d.randint(0, 9)}",
        lambda: f"sha256:{''.join(d.choice('0123456789abcdef') for _ in range(64))}",
        lambda: f"commit {''.join(d.choice('0123456789abcdef') for _ in range(40))}",
        lambda: f"it costs ${d.randint(1, 999)},{digits(d, 3)}.{digits(d, 2)}",
        lambda: f"EUR {digits(d, 3)}.{digits(d, 3)},00 in total",
        lambda: f"0.{digits(d, 16)} of {d.randint(1, 9)}.{digits(d, 15)}",
        lambda: f"{d.randint(10, 23)}:{d.randint(10, 59)}:{d.randint(10, 59)}.{digits(d, 6)}",
        lambda: f"timestamp {d.randint(1_600_000_000_000, 1_800_000_000_000)}",
        lambda: f"ISBN 978-3-16-{digits(d, 6)}-{digits(d, 1)}",
        lambda: f"std::vector<int> v{digits(d, 1)}; a::b()",
        lambda: ":".join(f"{d.randint(0, 255):02x}" for _ in range(6)),
        lambda: "@media (min-width: 600px) { @import url(icon@2x.png) }",
        lambda: "git clone git@github.com:someone/something.git",
        lambda: f"{d.randint(1000, 9999)}-{d.randint(10, 99)}-{digits(d, 4)} is the part",
        lambda: (
            f"uuid {token(d, 8, '0123456789abcdef').lower()}-4{digits(d, 3)}-8abc-{digits(d, 12)}"
        ),
        lambda: "sk-learn and sk-xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx are no keys",
        lambda: "set OPENAI_API_KEY=your-api-key-goes-here-please first",
        lambda: f"127.0.0.1:{digits(d, 4)} and 255.255.255.0",
        lambda: f"DE{digits(d, 2)} and FR{digits(d, 8)}",
        lambda: f"rows {digits(d, 4)} {digits(d, 3)} {digits(d, 3)} of the table",
    ]
    return [(kinds[at % len(kinds)](), None, "") for at in range(count)]
