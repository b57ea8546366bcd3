"""Edits of a configuration's text: numbers change, everything else stays, or nothing does."""

from __future__ import annotations

import difflib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmctl.config.yaml_edit import NotEditable, as_yaml, edited
from llmctl.config.yaml_nodes import parse_yaml
from llmctl.errors import ConfigError

LIMITS = ("profiles", "sim", "limits")
VALUES: dict[tuple[str, ...], int] = {(*LIMITS, "rpm"): 500, (*LIMITS, "tpm"): 200_000}
LINE = "+     limits: {rpm: 500, tpm: 200000}\n"
NEW = ["+ profiles:\n", "+   sim:\n", LINE]
HEAD = "# my own\ndefault: sim\nprofiles:\n  sim:   # here\n    provider: openai\n"


def changed(before: str, values: dict[tuple[str, ...], int] | None = None) -> list[str]:
    """The lines that an edit takes away and adds."""
    after = edited(before.encode(), VALUES if values is None else values).decode()
    lines = difflib.ndiff(before.splitlines(keepends=True), after.splitlines(keepends=True))
    return [line for line in lines if line[0] in "+-"]


FILES: dict[str, tuple[str, list[str]]] = {
    "no limits yet": (
        f"{HEAD}    model: m  # small\n\n  # another\n  other:\n    provider: groq\n",
        [LINE],
    ),
    "limits in lines": (
        f"{HEAD}    limits:\n        rpm:   5  # asked for\n        concurrency: 4\n    model: m\n",
        [
            "-         rpm:   5  # asked for\n",
            "+         rpm:   500  # asked for\n",
            "+         tpm: 200000\n",
        ],
    ),
    "limits in braces": (
        f"{HEAD}    limits: {{concurrency: 4, rpm: 5,}} # so\n",
        [
            "-     limits: {concurrency: 4, rpm: 5,} # so\n",
            "+     limits: {concurrency: 4, rpm: 500, tpm: 200000,} # so\n",
        ],
    ),
    "empty braces": (f"{HEAD}    limits: {{}}\n", ["-     limits: {}\n", LINE]),
    "limits that say nothing": (
        f"{HEAD}    limits:   # later\n    model: m\n",
        [
            "-     limits:   # later\n",
            "+     limits: {rpm: 500, tpm: 200000}   # later\n",
        ],
    ),
    "limits that are null": (f"{HEAD}    limits: ~\n", ["-     limits: ~\n", LINE]),
    "a profile in braces": (
        "profiles: {sim: {provider: openai, model: 'm, n'}, b: {}}\n",
        [
            "- profiles: {sim: {provider: openai, model: 'm, n'}, b: {}}\n",
            (
                "+ profiles: {sim: {provider: openai, model: 'm, n', "
                "limits: {rpm: 500, tpm: 200000}}, b: {}}\n"
            ),
        ],
    ),
    "a last value of several lines": (
        f"{HEAD}    system: |\n      limits:\n        rpm: 1\n\n\n  b: {{}}\n",
        [LINE],
    ),
    "a value folded in quotation marks": (
        f'{HEAD}    system: "a\n      b"\n  b: {{}}\n',
        [LINE],
    ),
    "a list at the end": (f"{HEAD}    fallback:\n    - a\n    - b   # last\n# end\n", [LINE]),
    "no newline at the end": (
        f"{HEAD}    model: m",
        ["-     model: m", "+     model: m\n", LINE],
    ),
    "no such profile": (
        "profiles:\n    b: {}\n",
        ["+     sim:\n", "+       limits: {rpm: 500, tpm: 200000}\n"],
    ),
    "no profiles": ("default: sim\n", NEW),
    "nothing": ("", NEW),
    "only comments": ("# nothing yet\n", NEW),
    "a profile that says nothing": (
        "profiles:\n  sim:\n  b: {}\n",
        ["-   sim:\n", "+   sim: {limits: {rpm: 500, tpm: 200000}}\n"],
    ),
    "quoted keys": (
        "'profiles':\n  \"sim\":\n    'limits': {'rpm': 1}\n",
        ["-     'limits': {'rpm': 1}\n", "+     'limits': {'rpm': 500, tpm: 200000}\n"],
    ),
    "an alias beside it": (
        "b: &x {c: d}\nprofiles:\n  sim:\n    model: m\n    tags: *x\n",
        [LINE],
    ),
    "the same already": (f"{HEAD}    limits: {{rpm: 5_00, tpm: 200000}}\n", []),
}


@pytest.mark.parametrize("name", FILES)
def test_only_the_numbers_change(name: str) -> None:
    """Lines, comments, order and quotation marks stay, wherever the numbers go; again: nothing."""
    before, wanted = FILES[name]
    assert changed(before) == wanted
    again = edited(before.encode(), VALUES)
    assert edited(again, VALUES) == again


def test_line_ends_and_byte_order_mark_stay() -> None:
    """A file of Windows stays one."""
    before = ("\ufeff" + HEAD).replace("\n", "\r\n").encode()
    assert edited(before, VALUES) == before + b"    limits: {rpm: 500, tpm: 200000}\r\n"


def test_models_of_their_own() -> None:
    """A section in a section, with names that YAML would read as something else."""
    place = (*LIMITS, "models")
    text = f"{HEAD}    limits: {{models: {{'a: b': {{rpm: 1}}}}}}\n"
    assert changed(text, {(*place, "a: b", "rpm"): 2, (*place, "1e3", "rpm"): 3}) == [
        "-     limits: {models: {'a: b': {rpm: 1}}}\n",
        "+     limits: {models: {'a: b': {rpm: 2}, '1e3': {rpm: 3}}}\n",
    ]


@pytest.mark.parametrize(
    "text",
    [
        "a: &l {rpm: 1}\nprofiles:\n  sim:\n    limits: *l\n",
        "a: {rpm: &r 1}\nprofiles:\n  sim:\n    limits: {rpm: *r}\n",
        "profiles:\n  sim:\n    limits: &l {rpm: 1}\n  b:\n    limits: *l\n",
        "profiles:\n  sim:\n    limits: {rpm: &r 1}\n  b:\n    limits: {rpm: *r}\n",
        "a: &a\n  limits: {concurrency: 3}\nprofiles:\n  sim:\n    <<: *a\n    model: m\n",
        "profiles:\n  sim:\n    limits: [1]\n",
        "profiles:\n  sim:\n    limits: fast\n",
        "profiles: [sim]\n",
        "[]\n",
        "profiles:\n  sim:\n    limits: {rpm: {a: b}}\n",
    ],
)
def test_what_cannot_be_edited_alone_is_left(text: str) -> None:
    """Where a change would change something else, or there is no such section."""
    with pytest.raises(NotEditable):
        edited(text.encode(), VALUES)


def test_what_is_no_yaml_is_an_error_of_the_file() -> None:
    """As it is for every command."""
    with pytest.raises(ConfigError):
        edited(b"a: [\n", VALUES)


def test_by_hand() -> None:
    """What a person is told to write means the same."""
    assert as_yaml(VALUES) == "profiles:\n  sim:\n    limits: {rpm: 500, tpm: 200000}\n"


def limits(raw: bytes) -> Any:
    """What a file says of the profile's limits."""
    node = parse_yaml(raw, "f")
    for name in LIMITS:
        assert node is not None
        node = node.mapping()[name]
    assert node is not None
    return {name: child.value for name, child in node.mapping().items()}


@given(
    indent=st.integers(1, 6),
    before=st.lists(st.sampled_from(["model: m", "x: 'y: z'", "a: [1,\n@ 2]", "# c"]), max_size=4),
    style=st.sampled_from(["", "limits: {rpm: 7}", "limits: {}", "limits:\n@  rpm: 7"]),
    after=st.lists(st.sampled_from(["t: {a: b}", "s: >\n@  k\n", "", "# d", "e: ~"]), max_size=4),
)
def test_any_layout_keeps_its_meaning(
    indent: int, before: list[str], style: str, after: list[str]
) -> None:
    """Whatever stands around it, every other line is as it was."""
    pad = " " * (1 + indent)
    lines = ["provider: openai", *dict.fromkeys(before), style, *dict.fromkeys(after)]
    body = "".join(f"{pad}{line.replace('@', pad)}\n" if line else "\n" for line in lines)
    raw = f"profiles:\n sim:\n{body} z: {{}}\n".encode()
    found = edited(raw, VALUES)
    assert limits(found) == {"rpm": "500", "tpm": "200000"}
    kept = [line for line in raw.splitlines() if b"limits" not in line and b"rpm" not in line]
    new = [line for line in found.splitlines() if b"limits" not in line]
    assert [line for line in new if b"rpm" not in line and b"tpm" not in line] == kept
