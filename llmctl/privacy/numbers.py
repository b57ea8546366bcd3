"""Card and telephone numbers in a text: groups of digits, checksums, and the words beside them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from itertools import pairwise

from llmctl.privacy.findings import Finding, Kind

_NUMBER = re.compile(r"[0-9][0-9]*(?:(?: - | ?\(|\) ?[-/]? ?|[-./ ])[0-9]+){0,24}\)?")
_GROUP = re.compile(r"[0-9]+")
_BEFORE = 48  # characters before a number in which a word says what it is
_AFTER = 16

# What says that a number is something else. The word nearest to the number counts.
_OTHER = (
    r"order|invoice|ticket|case|tracking|track|ref|reference|id|isbn|ean|gtin|upc|sku|imei|serial|"
    r"version|release|build|part|model|commit|port|zip|passport|licen[cs]e|policy|parcel|shipment|"
    r"amount|total|price|sum|quantity|qty|count|size|width|height|lat|lon|latitude|longitude|"
    r"batch|timestamp|hash|sha|md5|row|line|page|barcode|vin|vat|tax|bestellnummer|rechnung|"
    r"commande|facture|pedido|factura|ordine"
)
_CARD_WORDS = re.compile(
    r"(?P<yes>card|credit|debit|visa|master ?card|maestro|amex|american express|diners|discover|"
    r"jcb|union ?pay|\bcc\b|\bpan\b|\bcvv|\bcvc|kreditkarte|karte|carte|tarjeta|cart[ãa]o|carta di|"
    r"kaart|kort\b|karta|карт|カード|卡|카드|بطاقة)"
    rf"|(?P<no>\b(?:{_OTHER}|iban|account)\b)",
    re.IGNORECASE,
)
_PHONE_WORDS = re.compile(
    r"(?P<yes>phone|\btel\b|\btel[.:]|mobile|\bmob\b|\bcell|\bfax|\bcall|\bdial|\btext(?:ed|ing)? "
    r"(?:me|us|him|her|them|at|to)|\bsms\b|whats ?app|\bsignal\b|telegram|viber|contact|reach|"
    r"\bring\b|hotline|landline|voicemail|answer|pick(?:ed|s)? up|messages? (?:to|on|at|from)|"
    r"registered|\b(?:my|his|her|our|their|your|new) (?:\w+ )?(?:number|no\.?|nr\.?)|\bdesk\b|"
    r"\boffice\b|telefon|t[ée]l[ée]phone|tel[ée]fon|handy|m[óo]vil|cellulare|celular|puhelin|\bgsm\b|"
    r"rufnummer|durchwahl|erreich|\banruf|\bruf|appel|joindre|llama|\bligu?e|chiam|\bbel\b|"
    r"тел|моб|звон|電話|电话|手机|携帯|전화|휴대폰|هاتف|जी?फ़?ोन|τηλ)"
    rf"|(?P<no>\b(?:{_OTHER}|iban|account|card|ssn|social security|usd|eur|gbp)\b)",
    re.IGNORECASE,
)
_PHONE_AFTER = re.compile(
    r"[-\s,(]{0,3}(?:office|fax|mobile|cell|home|work|desk|phone|tel\b|landline)", re.IGNORECASE
)
_CARD_AFTER = re.compile(
    r"[\s,;(]{0,3}(?:exp|cvv|cvc|valid|visa|master|amex|card|\d\d/\d\d)", re.IGNORECASE
)
_PREFIX = re.compile(r"(?<![0-9A-Za-z])(?:\+ ?\(?|\()\Z")
_EXTENSION = re.compile(r"[ ,]{0,2}(?:x|ext\.?|extension) ?[0-9]{1,6}(?![0-9])", re.IGNORECASE)
_DAY = r"(?:0?[1-9]|[12][0-9]|3[01])"
_MONTH = r"(?:0?[1-9]|1[0-2])"
_DATE = re.compile(
    rf"(?:(?:{_DAY}([-./]){_MONTH}\1|{_MONTH}([-./]){_DAY}\2)(?:19|20)?[0-9]{{2}}"
    rf"|(?:19|20)[0-9]{{2}}([-./]){_MONTH}\3{_DAY})(?![-./]?[0-9])"
)
_ADDRESS = re.compile(r"[0-9]{1,3}(?:\.[0-9]{1,3}){3}(?![0-9])")
_PRICE_BEFORE = re.compile(r"[$€£¥₹₩₽%#]\s?\Z|(?:USD|EUR|GBP|CHF|JPY)\s\Z")
_PRICE_AFTER = re.compile(
    r"\s?(?:[$€£¥₹₩₽%]|(?:USD|EUR|GBP|CHF|JPY|dollars?|euros?|bytes?|[kKMG]i?B|rows?|items?|"
    r"people|times|tokens?|years?|miles|km|kg|ms)\b)"
)

_CARD_GROUPS = {(4, 4, 4, 4), (4, 6, 5), (4, 6, 4), (4, 4, 4, 4, 3), (4, 4, 5), (4, 4, 4)}
# First digits and lengths (ISO/IEC 7812-1, and the networks' published ranges) that say of
# themselves whose card it is; the others need a word beside them.
_ISSUERS = re.compile(
    r"4[0-9]{15}"  # Visa
    r"|5[1-5][0-9]{14}|2(?:22[1-9]|2[3-9][0-9]|[3-6][0-9]{2}|7[01][0-9]|720)[0-9]{12}"  # Mastercard
    r"|3[47][0-9]{13}"  # American Express
    r"|(?:6011|64[4-9][0-9]|65[0-9]{2})[0-9]{12}"  # Discover
    r"|35(?:2[89]|[3-8][0-9])[0-9]{12}"  # JCB
    r"|62[0-9]{14,17}"  # UnionPay
    r"|220[0-4][0-9]{12}"  # Mir
)

# Whose national forms are found without a word beside them.
_REGIONS = (
    "GB",
    "DE",
    "FR",
    "IT",
    "ES",
    "NL",
    "BE",
    "CH",
    "AT",
    "SE",
    "AU",
    "JP",
    "KR",
    "IN",
    "BR",
)
_NORTH_AMERICA = re.compile(
    r"(?:1[-. ])?(?:\([2-9][0-9]{2}\) ?|[2-9][0-9]{2}[-. ])[2-9][0-9]{2}[-. ][0-9]{4}"
)


def luhn(digits: str) -> bool:
    """Whether the last digit is the check digit (ISO/IEC 7812-1, annex B)."""
    odd = sum(map(int, digits[-1::-2]))
    return (odd + sum(int("0246813579"[int(each)]) for each in digits[-2::-2])) % 10 == 0


def find_numbers(text: str, *, cards: bool, phones: bool) -> Iterator[Finding]:
    """Card and telephone numbers in a folded text; see `folding.fold`."""
    for match in _NUMBER.finditer(text):
        if match.end() - match.start() < 7 or _inside_word(text, match.start(), match.end()):
            continue
        groups = [each.span() for each in _GROUP.finditer(text, *match.span())]
        found = _card(text, groups) if cards else None
        if not found and phones:
            found = _phone(text, groups)
        if found:
            yield found


def _inside_word(text: str, start: int, end: int) -> bool:
    """Whether the digits are a piece of a name, a decimal fraction or a hash."""
    before = text[max(0, start - 2) : start]
    word = before[-1:].isalnum() and before[-1:].isascii()
    fraction = before[-1:] in {".", ",", "_"} and before[:1].isdigit()
    after = text[end : end + 2]
    return word or fraction or after[:1] == "_" or (after[:1].isalpha() and _in_hash(after))


def _in_hash(after: str) -> bool:
    return after.isascii() and after[:1].lower() in "abcdef" and after[1:].isalnum()


def _meant(words: re.Pattern[str], text: str, start: int) -> bool | None:
    """What the last word before a number says of it; None where none does."""
    meant = None
    for match in words.finditer(text, max(0, start - _BEFORE), start):
        meant = match["yes"] is not None
    return meant


def _card(text: str, groups: list[tuple[int, int]]) -> Finding | None:
    """The first run of groups that is a card number."""
    for first, (start, begins) in enumerate(groups):
        if begins - start >= 12:
            spans = [(start, begins)]
        elif begins - start == 4:
            spans = [(start, end) for _, end in groups[first + 2 : first + 5]]
        else:
            continue
        for span in reversed(spans):
            if found := _card_in(text, *span):
                return found
    return None


def _card_in(text: str, start: int, end: int) -> Finding | None:
    shown = text[start:end]
    digits = shown.replace(" ", "").replace("-", "")
    if not (12 <= len(digits) <= 19 and digits.isdigit() and luhn(digits)):
        return None
    if len(set(digits)) == 1:
        return None
    sizes = tuple(len(each) for each in re.split("[ -]", shown))
    if len(sizes) > 1 and sizes not in _CARD_GROUPS:
        return None
    meant = _meant(_CARD_WORDS, text, start)
    if meant is None and _CARD_AFTER.match(text, end):
        meant = True
    if meant or (meant is None and _ISSUERS.fullmatch(digits)):
        return Finding("card", start, end, 1.0 if meant else 0.8)
    return None


def _phone(text: str, groups: list[tuple[int, int]]) -> Finding | None:
    """The longest run of groups that is a telephone number; up to three groups at either end may
    belong to something else."""
    count = len(groups)
    runs = [
        (first, last)
        for first in range(min(4, count))
        for last in range(max(first, count - 4), count)
        if 7 <= sum(end - start for start, end in groups[first : last + 1]) <= 15
    ]
    for first, last in sorted(runs, key=lambda run: run[0] - run[1]):
        if found := _phone_in(text, groups[first : last + 1]):
            return found
    return None


def _phone_in(text: str, groups: list[tuple[int, int]]) -> Finding | None:
    start, end = groups[0][0], groups[-1][1]
    prefix = _PREFIX.search(text[max(0, start - 4) : start])
    shown = text[start:end]
    if _DATE.match(shown) or _ADDRESS.fullmatch(shown):
        return None
    whole = start - (len(prefix[0]) if prefix else 0)
    if _PRICE_BEFORE.search(text[max(0, whole - 4) : whole]) or _PRICE_AFTER.match(text, end):
        return None
    score = _phone_score(text, whole, groups)
    if not score:
        return None
    tail = _EXTENSION.match(text, end)
    return Finding("phone", whole, tail.end() if tail else end, score)


def _phone_score(text: str, start: int, groups: list[tuple[int, int]]) -> float:
    """How sure it is that these groups are a telephone number; 0 where they are none."""
    end = groups[-1][1]
    shown = text[start:end]
    sizes = [stop - begin for begin, stop in groups]
    digits = "".join(text[begin:stop] for begin, stop in groups)
    international = shown.startswith("+") or (digits.startswith("00") and len(digits) > 9)
    meant = _meant(_PHONE_WORDS, text, start)
    if _PHONE_AFTER.match(text, end):
        meant = True
    if international:
        number = "+" + digits.removeprefix("00")
        # Who writes groups means a number, be it one of a film.
        spaced = len(sizes) > 2 and "." not in shown
        if meant or _is_valid(number, None) or (spaced and _is_possible(number)):
            return 0.9
    if meant:
        fits = (len(sizes) > 1 and max(sizes) > 2) or len(digits) >= 8 or set(sizes) == {2}
        return 0.7 if fits and len(digits) >= 7 else 0.0
    if meant is None and _NORTH_AMERICA.fullmatch(shown.removeprefix("+")):
        return 0.6
    grouped = len(sizes) > 2 and 9 <= len(digits) <= 11 and digits[0] == "0"
    if meant is None and grouped and len(set(_separators(text, groups))) == 1:
        return 0.5 if any(_is_written_so(digits, sizes, each) for each in _REGIONS) else 0.0
    return 0.0


def _separators(text: str, groups: list[tuple[int, int]]) -> list[str]:
    return [text[one[1] : other[0]] for one, other in pairwise(groups)]


@lru_cache(maxsize=4096)
def _is_valid(digits: str, region: str | None) -> bool:
    import phonenumbers

    try:
        return phonenumbers.is_valid_number(phonenumbers.parse(digits, region))
    except phonenumbers.NumberParseException:
        return False


@lru_cache(maxsize=4096)
def _is_possible(digits: str) -> bool:
    import phonenumbers

    try:
        return phonenumbers.is_possible_number(phonenumbers.parse(digits, None))
    except phonenumbers.NumberParseException:
        return False


@lru_cache(maxsize=4096)
def _written(digits: str, region: str) -> tuple[int, ...]:
    """Sizes of the groups in which a region writes the number; none where it is not valid."""
    import phonenumbers

    if not _is_valid(digits, region):
        return ()
    number = phonenumbers.parse(digits, region)
    shown = phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.NATIONAL)
    return tuple(len(each) for each in _GROUP.findall(shown))


def _is_written_so(digits: str, sizes: list[int], region: str) -> bool:
    return _written(digits, region) == tuple(sizes)


NUMBER_KINDS: frozenset[Kind] = frozenset({"card", "phone"})
"""What `find_numbers` finds."""
