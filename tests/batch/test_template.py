"""Templates."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from llmctl.batch.rows import RowError
from llmctl.batch.template import Template
from llmctl.errors import InputError

RECORD: dict[str, Any] = {"name": "Zoë", "w": 200_000_000, "big": 10**12}


@pytest.mark.parametrize(
    ("text", "gives"),
    [
        ("Say {{ name|upper }} {% for n in range(2) %}{{ n }}{% endfor %}\n", "Say ZOË 01"),
        ("{{ row.big }} {{ row['name'] }}", "1000000000000 Zoë"),
        ("{{ '<é>' }} {{ '{{ 1 + 1 }}' }}", "<é> {{ 1 + 1 }}"),
        ("{{ '%.1f' % 2 }} {{ 7 % 4 }} {{ '-' * 3 }} {{ 2 ** 8 }}", "2.0 3 --- 256"),
        ("{{ '{:>5}|{:,}'.format('a', big) }}", "    a|1,000,000,000,000"),
        ("{{ [1]|tojson(indent=1) }}{{ 'a'|center(5) }}", "[\n 1\n]  a  "),
    ],
)
def test_fields_are_rendered(tmp_path: Path, text: str, gives: str) -> None:
    """A template is text or a file, over the record's fields, not escaped as HTML is."""
    path = tmp_path / "t.txt"
    path.write_text("\ufeff" + text)
    assert Template(text)(RECORD) == Template(f"@{path}")(RECORD) == gives


def test_a_record_is_not_a_template() -> None:
    """Template marks in the data stay text, and fields go before Jinja2's own names."""
    assert Template("{{ x }} {{ range }}")({"x": "{{ 1 + 1 }}", "range": 1}) == "{{ 1 + 1 }} 1"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{{ missing }}", "'missing' is undefined; the row has: name, w, big"),
        ("{{ row.nope }}", "has no attribute 'nope'"),
        ("{{ ''.__class__ }}", "not allowed"),
        ("{{ name.__class__.__mro__ }}", "not allowed"),
        ("{{ row.update({}) }}", "not allowed"),
        ("{{ 1 / (w - w) }}", "ZeroDivisionError"),
        ("{% include 'x' %}", "fails"),
        (
            "{{ name.encode('latin-1').decode('ascii', 'surrogateescape') }}",
            "surrogates not allowed",
        ),
        ("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "RecursionError"),
    ],
)
def test_what_a_template_may_not_do(text: str, says: str) -> None:
    """A template that fails or escapes is a sentence about the row."""
    with pytest.raises(RowError, match=r"^--template") as caught:
        Template(text)(RECORD)
    assert says in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "{{ 'x'|center(w) }}",
        "{{ 'x'|center(900000000)|upper }}",
        "{{ '%200000000d' % (w - w) }}",
        "{{ '{:{}}'.format(1, w) }}",
        "{{ [0] * big }}",
        "{{ ('a' * 100000)|replace('a', 'b' * 100000) }}",
        "{% for i in range(w) %}x{% endfor %}",
        "{{ big ** big }}",
        "{{ lipsum(n=w) }}",
        "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
        (
            "{% set n = namespace(x='x') %}{% for i in range(99) %}"
            "{% set n.x = n.x ~ n.x %}{% endfor %}"
        ),
    ],
)
def test_time_and_memory_have_a_bound(text: str) -> None:
    """Case 71: whatever a template computes, it ends soon, this process does not grow, and the next
    row is rendered."""
    template = Template("{% if name %}" + text + "{% else %}fine{% endif %}", 0.5, 200 << 20)
    before, start = psutil.Process().memory_info().rss, time.monotonic()
    with pytest.raises(RowError, match="not allowed"):
        template(RECORD)
    assert time.monotonic() - start < 5
    assert psutil.Process().memory_info().rss - before < 20 << 20
    assert template({"name": ""}) == "fine"


def test_templates_that_do_not_compile(tmp_path: Path) -> None:
    """A mistake in the template is reported with its file and line before any row is read."""
    path = tmp_path / "t.txt"
    path.write_text("one\n{% if %}\n")
    for given, says in (
        (f"@{path}", r"t\.txt, line 2: "),
        ("{{ x", r"--template, line 1: "),
        ("{{ x|nofilter }}", "No filter named 'nofilter'"),
        ("\udcff", "not valid Unicode"),
        ("{{ 9 ** (9 ** 9) }}", "it takes more than 1 s"),
    ):
        with pytest.raises(InputError, match=says):
            Template(given, 1)


def test_templates_that_cannot_be_read(tmp_path: Path) -> None:
    """A template file that is missing, a folder or not UTF-8 is one sentence."""
    (tmp_path / "bad").write_bytes(b"\xff")
    for name, says in (("none", "cannot read"), (".", "cannot read"), ("bad", "not valid UTF-8")):
        with pytest.raises(InputError, match=says):
            Template(f"@{tmp_path / name}")
    with pytest.raises(InputError, match="cannot read the template @"):
        Template("@")
