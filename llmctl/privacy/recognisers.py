"""Identifiers in a text: mail, card, telephone, IBAN, SSN and IP numbers, keys; names by `ner`."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Collection, Iterator
from functools import lru_cache, partial

from llmctl.privacy.findings import NAMES, Finding, Kind, without_overlaps
from llmctl.privacy.folding import fold
from llmctl.privacy.key_prefixes import find_keys
from llmctl.privacy.names import find_names
from llmctl.privacy.numbers import NUMBER_KINDS, find_numbers

# Letters of scripts that put blanks between words; in others the words around an address would
# be taken for a part of it.
_LETTER = "A-Za-z0-9À-ɏͰ-ϿЀ-ԯ"
_MAIL = re.compile(
    rf"(?<![{_LETTER}.!#$%'*+^`{{|}}~_-])[{_LETTER}.!#$%'*+^`{{|}}~_-]{{1,64}}@"
    rf"(?:[{_LETTER}](?:[{_LETTER}-]{{0,61}}[{_LETTER}])?\.){{1,8}}"
    rf"(?:xn--[A-Za-z0-9-]{{2,59}}|[A-Za-zÀ-ɏͰ-ϿЀ-ԯ]{{2,24}})(?![{_LETTER}-])"
)
_FILES = (".png", ".jpg", ".jpeg", ".gif", ".svg", ".webp", ".css", ".js", ".ts")  # icon@2x.png
# Patterns begin with one character of a set, which `re` looks for faster than for anything else.
_V4 = re.compile(
    r"[0-9](?:(?<=2)5[0-5]|(?<=2)[0-4][0-9]|(?<=1)[0-9]{2}|[0-9])?(?:\.(?:25[0-5]|2[0-4][0-9]|1?[0-9]?[0-9])){3}"
    r"(?![\w-]|\.[0-9])"
)
_V6 = re.compile(r"[0-9A-Fa-f][0-9A-Fa-f]{0,3}(?::[0-9A-Fa-f]{0,4}){2,7}(?![\w:])")
_GLOBAL_V6 = re.compile(r"(?:[23][0-9a-f]{3}|f[cd][0-9a-f]{2}|fe[89ab][0-9a-f]):", re.IGNORECASE)
_VERSION = re.compile(
    r"(?:version|release|build|firmware|driver|chapter|section|clause|§|\bv|\bver\.?)[ :=]{0,3}\Z",
    re.IGNORECASE,
)
_SSN = re.compile(r"[0-9][0-9]{2}([- .]?)[0-9]{2}\1[0-9]{4}(?![0-9]|[-.][0-9])")
_SSN_WORDS = re.compile(
    r"(?P<yes>\bssn|social security|\bitin\b|taxpayer)|(?P<no>\b(?:order|invoice|ticket|case|ref|"
    r"reference|part|model|serial|sku|tracking|id|zip|phone|isbn)\b)",
    re.IGNORECASE,
)
_IBAN = re.compile(r"[A-Za-z][A-Za-z][0-9]{2}(?=[ -]?[A-Za-z0-9]{4})")


def find(text: str, kinds: Collection[Kind]) -> list[Finding]:
    """What of these kinds is in the text, in its order, without overlaps.

    Digits of any script count, full-width forms, and values with invisible characters inside.
    Not found: values in base64 or URL-encoded, spelt out (`name at example dot com`), or broken
    over lines. Raises `SetupError` where an extra is missing: `pii`, or for names `ner`.
    """
    folded, places = fold(text)
    found = [each for look in _looks(frozenset(kinds)) for each in look(folded)]
    kept = without_overlaps(found)
    if not isinstance(places, range):
        kept = [
            Finding(each.kind, places[each.start], places[each.end - 1] + 1, each.score)
            for each in kept
        ]
    return kept


def check_extras(kinds: Collection[Kind]) -> None:
    """Raises `SetupError` where an extra that these kinds need is missing."""
    from llmctl.auth.extras import needs_extra
    from llmctl.privacy.names import check_model

    if "phone" in kinds:
        needs_extra("pii", "phonenumbers", "phonenumbers")
    if "iban" in kinds:
        needs_extra("pii", "stdnum", "python-stdnum")
    if NAMES.intersection(kinds):
        check_model()


@lru_cache(maxsize=64)
def _looks(kinds: frozenset[Kind]) -> tuple[Callable[[str], Iterator[Finding]], ...]:
    """The recognisers of these kinds."""
    simple: dict[Kind, Callable[[str], Iterator[Finding]]] = {
        "email": find_mail,
        "ip": find_ip,
        "ssn": find_ssn,
        "iban": find_iban,
        "secret": find_keys,
    }
    looks = [look for kind, look in simple.items() if kind in kinds]
    if NUMBER_KINDS & kinds:
        looks.append(partial(find_numbers, cards="card" in kinds, phones="phone" in kinds))
    if NAMES & kinds:
        looks.append(partial(find_names, kinds=NAMES & kinds))
    return tuple(looks)


def find_mail(text: str) -> Iterator[Finding]:
    """Addresses of mail (RFC 5321, 6531)."""
    for match in _MAIL.finditer(text) if "@" in text else ():
        ssh = match[0].startswith("git@") and text[match.end() : match.end() + 1] == ":"
        if not ssh and not match[0].lower().endswith(_FILES):
            yield Finding("email", match.start(), match.end(), 0.9)


def find_ip(text: str) -> Iterator[Finding]:
    """Addresses of hosts (RFC 791, 4291), but for loopback and masks, which are everybody's."""
    for match in _V4.finditer(text) if text.count(".") > 2 else ():
        before = text[max(0, match.start() - 12) : match.start()]
        part = before[-1:].isalnum() or before[-1:] in {".", "-", "_"}
        host = not match[0].startswith(("127.", "0.", "255."))
        if host and not part and not _VERSION.search(before):
            yield Finding("ip", match.start(), match.end(), 0.95)
    for match in _V6.finditer(text) if text.count(":") > 1 else ():
        before = text[max(0, match.start() - 1) : match.start()]
        if not before.isalnum() and before != ":" and _is_v6(match[0]):
            yield Finding("ip", match.start(), match.end(), 0.95)


def _is_v6(word: str) -> bool:
    """Whether it is an address, and no time, hardware address or name of C++."""
    if word.count(":") != 7 and not _GLOBAL_V6.match(word):
        return False
    try:
        ipaddress.IPv6Address(word)
    except ValueError:
        return False
    return True


def find_ssn(text: str) -> Iterator[Finding]:
    """Social security numbers of the United States, and taxpayers' numbers of the same form."""
    for match in _SSN.finditer(text):
        start = match.start()
        before = text[max(0, start - 2) : start]
        if before[-1:].isalnum() or (before[-1:] in {"-", "."} and before[:1].isalnum()):
            continue
        meant = None
        for word in _SSN_WORDS.finditer(text, max(0, start - 40), start):
            meant = word["yes"] is not None
        if (meant or (meant is None and match[1] == "-")) and _is_issued(match[0]):
            yield Finding("ssn", start, match.end(), 0.95 if meant else 0.85)


def _is_issued(number: str) -> bool:
    """Whether area, group and serial are ones that are given out (ssa.gov, "SSN randomization";
    from 900 on: irs.gov, ITIN)."""
    area, group, serial = number[:3], number[-6 if number[3].isdigit() else -7 :][:2], number[-4:]
    issued = area not in {"000", "666"} and group != "00" and serial != "0000"
    return issued and (area < "900" or group >= "50")


def find_iban(text: str) -> Iterator[Finding]:
    """International bank account numbers (ISO 13616), of their country's length."""
    end = 0
    for match in _IBAN.finditer(text):
        start = match.start()
        if start < end or text[max(0, start - 1) : start].isalnum():
            continue
        length = _iban_length(match[0][:2].upper())
        rest = re.compile(rf"(?:[ -]?[A-Za-z0-9]){{{length}}}(?![A-Za-z0-9])") if length else None
        whole = rest.match(text, start) if rest else None
        if whole and _is_iban(whole[0].replace(" ", "").replace("-", "").upper()):
            end = whole.end()
            yield Finding("iban", start, end, 1.0)


@lru_cache(maxsize=1024)
def _iban_length(country: str) -> int:
    """Characters of an IBAN of the country; 0 where it has none."""
    from stdnum import numdb

    parts = numdb.get("iban").info(country + "00")[0]
    bban = parts[1].get("bban", "")
    return 4 + sum(map(int, re.findall(r"([0-9]+)!?[anc]", bban))) if bban else 0


def _is_iban(number: str) -> bool:
    # The sum first, which is quick: of what has the form by chance it leaves one in 97.
    rotated = number[4:] + number[:4]
    if int("".join(str(int(each, 36)) for each in rotated)) % 97 != 1:
        return False
    from stdnum import iban

    return bool(iban.is_valid(number, check_country=False))
