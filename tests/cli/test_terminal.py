"""What others write never obeys a terminal: answers, errors, notes, names of models and files."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmctl.cli.output import SafeText, money, print_table
from llmctl.redact import printable
from tests.cli.terminal import on_a_terminal
from tests.conftest import Run, sent
from tests.simulator import errors
from tests.simulator.faults import Hang
from tests.simulator.server import Simulator

NASTY = "a\x1b[31mred\x1b]0;owned\x07\x1b[2J\x9b2Jb\tc\u202eend"
SAFE = "aredb\tcend"


def obeyed(shown: bytes) -> list[str]:
    """What a terminal would obey in what it was shown, but colours, and the progress bar's own
    line and cursor movements."""
    own = re.sub(r"\x1b\[(\?25[lh]|[0-9;]*m|[0-9]*[AK])|\r", "", shown.decode())
    return re.findall(r"\x1b.?|[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]", own)


def test_an_answer_is_safe_on_a_terminal_and_exact_in_a_pipe(
    configured: dict[str, str], sim: Simulator, tmp_path: Path, run: Run
) -> None:
    """Escape sequences in model text do not reach a terminal; into a pipe they go unchanged."""
    sim.reply = lambda _: NASTY
    code, shown, _ = on_a_terminal(
        configured, tmp_path, "ask", "q", "--no-cache", streams=["stdout"]
    )
    assert (code, shown.decode().expandtabs()) == (0, f"{SAFE}\n".expandtabs())
    assert sent(sim).get("stream") is True
    assert run("ask", "q", env=configured).stdout == NASTY


def test_markdown_is_rendered_on_a_terminal(
    configured: dict[str, str], sim: Simulator, tmp_path: Path
) -> None:
    """`--markdown` renders a list on a terminal."""
    sim.reply = lambda _: "# Title\n\n* one\n* two\n"
    env = {**configured, "NO_COLOR": "1"}
    code, shown, _ = on_a_terminal(env, tmp_path, "ask", "q", "--markdown", streams=["stdout"])
    assert code == 0
    assert " • one".encode() in re.sub(rb"\x1b\[[0-9;]*m", b"", shown)
    assert b"# Title" not in shown


@pytest.mark.parametrize("code", [400, 500])
@pytest.mark.parametrize("more", [(), ("-vv",)])
def test_a_providers_error_is_safe(
    configured: dict[str, str], sim: Simulator, tmp_path: Path, code: int, more: tuple[str, ...]
) -> None:
    """The error, the notes about retries, and the traceback hold its words and nothing else."""
    sim.fault = errors.status(code, NASTY)
    (tmp_path / "in.jsonl").write_text(json.dumps({"id": "a\x1b[2J", "prompt": "x"}) + "\n")
    for words in (("ask", "q"), ("batch", "in.jsonl", "-v")):
        _, shown, _ = on_a_terminal(configured, tmp_path, *words, *more)
        assert b"owned" not in shown
        assert b"aredb" in shown
        assert (b"trying again" in shown) == (code == 500)
        assert obeyed(shown) == []


def test_file_names_are_safe(configured: dict[str, str], tmp_path: Path) -> None:
    """In errors, and in the question whether to trust a project's file."""
    _, shown, _ = on_a_terminal(configured, tmp_path, "batch", "\x1b]0;owned\x07no.jsonl")
    assert b"no.jsonl" in shown
    assert b"owned" not in shown
    assert obeyed(shown) == []
    repo = tmp_path / "r\x1b[2Jepo"
    (repo / ".git").mkdir(parents=True)
    (repo / "llmctl.yaml").write_text("profiles: {x: {provider: openai, base_url: 'https://e'}}")
    code, shown, _ = on_a_terminal(configured, repo, "ask", "hi", typed=b"n\n", after=b"[y/N]")
    assert code == 2
    assert b"repo/llmctl.yaml sets what needs your trust" in shown
    assert obeyed(shown) == []


@given(st.lists(st.sampled_from([*NASTY, "\x1b", "[", "]", "\\", "m", "x", "\x9c"])))
def test_a_sequence_in_pieces_is_stripped_like_one_in_one_piece(pieces: list[str]) -> None:
    """However the text is cut; what may still be a sequence at the end stays back."""
    safe = SafeText()
    shown = "".join(map(safe, pieces))
    whole = printable("".join(pieces))
    assert whole.startswith(shown)
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]", shown)


def test_table_cells_are_safe(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    """Names of models, one a line, without markup."""
    print_table(("MODEL", "N"), [(f"{NASTY}\nnew [red]x[/red]", "1")], right=["N"])
    said = capfdbinary.readouterr().out.decode()
    assert said.splitlines()[1].split() == ["aredb", "cend", "new", "[red]x[/red]", "1"]


@pytest.mark.parametrize(
    ("amount", "unknown", "exact", "shown"),
    [
        (None, 0, False, "$?"), ("0", 0, False, "$0"), ("0", 2, False, "$?"),
        ("0.000214", 0, False, "$0.00021"), ("12.5", 0, False, "$12.50"),
        ("1234.5", 1, False, "$1,234.50+?"), ("0.00802", 0, True, "$0.00802"),
        ("0", 0, True, "$0.00"), ("1200", 0, True, "$1,200.00"),
    ],
)  # fmt: skip
def test_money(amount: str | None, unknown: int, exact: bool, shown: str) -> None:  # noqa: FBT001
    """Two significant digits, at least cents; exact amounts to the microdollar; unknown is `?`."""
    from decimal import Decimal

    value = None if amount is None else Decimal(amount)
    assert money(value, unknown, exact=exact) == shown


def test_a_spinner_until_the_first_token(
    configured: dict[str, str], sim: Simulator, tmp_path: Path
) -> None:
    """Case 44: on a terminal's stderr, gone when the answer comes; not with `-q`, nor in a pipe."""
    sim.latency = 0.8
    waits = b"waiting for sim/gpt-5-mini"
    code, shown, _ = on_a_terminal(configured, tmp_path, "ask", "q", "--no-cache")
    assert (code, waits in shown) == (0, True)
    assert shown.rindex(waits) < shown.index(b"echo: q")
    for words, streams in ((("-q",), ["stdout", "stderr"]), ((), ["stdout"])):
        _, shown, _ = on_a_terminal(
            configured, tmp_path, "ask", "q", "--no-cache", *words, streams=streams
        )
        assert waits not in shown


def test_markdown_is_rendered_as_it_comes(
    configured: dict[str, str], sim: Simulator, tmp_path: Path
) -> None:
    """Case 44, B23: a block is shown when the next one begins, while the answer still comes."""
    sim.reply = lambda _: "# One\n\nfirst words here\n\n# Two\n\nand more words to come\n"
    sim.fault = Hang(pieces=9)
    env = {**configured, "NO_COLOR": "1"}
    words = ("ask", "q", "--markdown")
    code, shown, _ = on_a_terminal(env, tmp_path, *words, typed=b"\x03", after=b"first words here")
    assert code == 130
    assert b"# One" not in shown
    assert sent(sim).get("stream") is True


def test_ctrl_c_says_interrupted(
    configured: dict[str, str], sim: Simulator, tmp_path: Path
) -> None:
    """Case 44: what the user ended has not failed."""
    sim.fault = Hang(pieces=3)
    code, shown, _ = on_a_terminal(
        configured, tmp_path, "ask", "one two three four", typed=b"\x03", after=b"echo"
    )
    assert code == 130
    assert b"failed" not in shown
    assert b"error" not in shown


def test_a_quiet_batch_says_why_it_ended(
    run: Run, configured: dict[str, str], sim: Simulator, tmp_path: Path
) -> None:
    """Case 41: with `-q` the reason is on stderr, with `--json` it is a field, with the kinds."""
    (tmp_path / "in.jsonl").write_text('{"prompt": "a"}\n{"prompt": "b"}\n')
    for fault, words, code, kind in (
        (errors.unauthorized(), (), 4, "auth"),
        (errors.out_of_quota(), (), 5, "quota"),
        (None, ("--budget", "0.0000001", "--max-tokens", "9"), 3, "budget"),
    ):
        sim.fault = fault
        batch = ("batch", "in.jsonl", "-q", "--concurrency", "1", *words)
        done = run(*batch, env=configured)
        assert (done.returncode, done.stdout) == (code, "")
        assert done.stderr.strip()
        said = json.loads(run(*batch, "--json", env=configured).stdout)
        assert said["exit_code"] == code
        assert said["errors"][kind] >= 1
        assert said["stopped_because"] or kind == "budget"
