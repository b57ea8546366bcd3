"""Templates."""

from __future__ import annotations

import time
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from llmctl.batch.rows import RowError
from llmctl.batch.template import Template
from llmctl.errors import InputError


def test_fields_are_rendered(tmp_path: Path) -> None:
    """A template is text or a file, over the record's fields, not escaped as HTML is."""
    path = tmp_path / "t.txt"
    path.write_text("\ufeffSay {{ word|upper }} {% for n in range(2) %}{{ n }}{% endfor %}\n")
    assert Template(f"@{path}")({"word": "<é>"}) == "Say <É> 01"
    assert Template("{{ row.range }} {{ range }}")({"range": "mine"}) == "mine mine"
    sums = Template("{{ '%.1f' % 2 }} {{ 7 % 4 }} {{ '-' * 3 }} {{ 2 ** 8 }}")
    assert sums({}) == "2.0 3 --- 256"


def test_a_record_is_not_a_template() -> None:
    """Template marks in the data stay text."""
    assert Template("{{ x }}")({"x": "{{ 1 + 1 }}"}) == "{{ 1 + 1 }}"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{{ missing }}", "'missing' is undefined; the row has: name, big"),
        ("{{ row.nope }}", "has no attribute 'nope'"),
        ("{{ ''.__class__ }}", "not allowed"),
        ("{{ name.__class__.__mro__ }}", "not allowed"),
        ("{{ row.update({}) }}", "not allowed"),
        ("{{ 1 / 0 }}", "ZeroDivisionError"),
        ("{% include 'x' %}", "fails"),
        ("{% for i in range(10**9) %}x{% endfor %}", "OverflowError"),
        ("{{ 'x' * 10**9 }}", "too large"),
        ("{{ [0] * big }}", "too large"),
        ("{{ 9 ** 9999999 }}", "too large"),
        ("{{ 'x'.ljust(10**9) }}", "too large"),
        ("{{ lipsum(n=10**9) }}", "'lipsum' is undefined"),
        ("{% for i in range(999) %}{{ 'x' * 99999 }}{% endfor %}", "too large"),
        ("{{ name.encode('latin-1').decode('ascii', 'surrogateescape') }}", "not valid Unicode"),
        ("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "RecursionError"),
    ],
)
def test_what_a_template_may_not_do(text: str, says: str) -> None:
    """A template that fails, escapes or explodes is a sentence about the row, and soon."""
    record: dict[str, Any] = {"name": "Zoë", "big": 10**12}
    template = Template(text, limit=1_000_000)
    start = time.monotonic()
    with pytest.raises(RowError, match=r"^--template") as caught:
        template(record)
    assert says in str(caught.value)
    assert time.monotonic() - start < 5


@pytest.mark.parametrize(
    "text",
    [
        "{{ 'x'|center(w) }}",
        "{{ 'x'.center(w) }}",
        "{% filter center(w) %}x{% endfilter %}",
        "{{ range(1000)|map('center', 900000)|list|length }}",
        "{{ '%200000000d' % 1 }}",
        "{{ '%*d' % (w, 1) }}",
        "{{ '%.*f'|format(w, 1.5) }}",
        "{{ '%(a)s' * 100 % {'a': 'x' * 100000} }}",
        "{{ '{:200000000}'.format(1) }}",
        "{{ '{:{}}'.format(1, w) }}",
        "{{ 'a\\nb'|indent(w) }}",
        "{{ ('a' * 1000)|replace('a', 'b' * 100000) }}",
        "{{ ('a' * 1000).replace('a', 'b' * 100000) }}",
        "{{ range(1000)|map('string')|join('b' * 100000) }}",
        "{% for i in (1,) %}{{ ('b' * 100000).join('a' * 1000) }}{% endfor %}",
        "{{ 'a b'|wordwrap(1, wrapstring='x' * 900000) }}",
        "{{ [1]|batch(w, 'x')|list }}",
        "{{ {'a': 1}|tojson(indent=w) }}",
        "{{ (1).to_bytes(w, 'big') }}",
        "{{ '\\t'.expandtabs(w) }}",
        (
            "{% set n = namespace(x='x') %}{% for i in range(99) %}"
            "{% set n.x = n.x ~ n.x %}{% endfor %}"
        ),
        (
            "{% set n = namespace(x='x') %}{% for i in range(99) %}"
            "{% set n.x = n.x + n.x %}{% endfor %}"
        ),
        (
            "{% set n = namespace(x='x') %}{% for i in range(99) %}"
            "{% set n.x %}{{ n.x }}{{ n.x }}{% endset %}{% endfor %}"
        ),
    ],
)
def test_what_grows_too_large_is_never_made(text: str) -> None:
    """A width, a factor or a loop that asks for more text than is allowed is refused before the
    memory is taken: at a limit of a million characters the peak stays far below 200 million."""
    template = Template(text, limit=1_000_000)
    tracemalloc.start()
    try:
        with pytest.raises(RowError, match="not allowed: the text is too large"):
            template({"w": 200_000_000})
        assert tracemalloc.get_traced_memory()[1] < 20_000_000
    finally:
        tracemalloc.stop()


def test_what_stays_small_is_computed() -> None:
    """The bounds change nothing for texts within them, large numbers included."""
    for text, gives in (
        ("{{ name ~ 1 ~ '!' }}{{ [1] + [2] }}", "Zoë1![1, 2]"),
        ("{{ '{:>5}|{:,}'.format('a', 12345678901) }}", "    a|12,345,678,901"),
        ("{{ '%d'|format(123456789012) }}{{ big }}", "1234567890121000000000000"),
        ("{% for i in (2, 1)|sort|map('string') %}{{ i.rjust(3) }}{% endfor %}", "  1  2"),
        (
            "{{ 'a-b'|replace('-', '+')|center(7) }}{{ [1, 2, 3]|batch(2)|list }}",
            "  a+b  [[1, 2], [3]]",
        ),
        (
            "{% set x %}q{{ name|upper }}{% endset %}{{ x|indent }}{{ [1]|tojson(indent=1) }}",
            "qZOË[\n 1\n]",
        ),
    ):
        assert Template(text)({"name": "Zoë", "big": 10**12}) == gives


def test_templates_that_do_not_compile(tmp_path: Path) -> None:
    """A mistake in the template is reported with its file and line before any row is read."""
    path = tmp_path / "t.txt"
    path.write_text("one\n{% if %}\n")
    with pytest.raises(InputError, match=r"t\.txt, line 2: "):
        Template(f"@{path}")
    with pytest.raises(InputError, match=r"--template, line 1: "):
        Template("{{ x")
    with pytest.raises(InputError, match="cannot be compiled"):
        Template("\udcff")


def test_templates_that_cannot_be_read(tmp_path: Path) -> None:
    """A template file that is missing, a folder or not UTF-8 is one sentence."""
    (tmp_path / "bad").write_bytes(b"\xff")
    for name, says in (("none", "cannot read"), (".", "cannot read"), ("bad", "not valid UTF-8")):
        with pytest.raises(InputError, match=says):
            Template(f"@{tmp_path / name}")
    with pytest.raises(InputError, match="cannot read the template @"):
        Template("@")
