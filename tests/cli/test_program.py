"""The program as a whole: help, version, completion, errors, and what they leave alone."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

import pytest

import llmctl
from llmctl.errors import EXIT_CODES
from tests.conftest import LLMCTL, Run

COMMANDS = {
    "": [
        "ask",
        "batch",
        "models",
        "keys",
        "cost",
        "metrics",
        "cache",
        "profiles",
        "local",
        "history",
        "tokens",
        "alerts",
        "limits",
        "queue",
    ],
    "alerts": ["list", "check", "test"],
    "keys": ["set", "list", "check", "rotate", "remove"],
    "cost": ["report", "check", "release", "reconcile", "prices"],
    "cache": ["prune", "stats"],
    "profiles": ["list", "show", "init", "trust"],
    "local": ["install", "status", "remove"],
    "history": ["list", "show", "search", "remove"],
    "tokens": ["create", "list", "revoke", "rotate"],
    "limits": ["pull"],
    "queue": ["list", "run", "remove"],
}
GROUPS = [tuple(name.split()) for name in COMMANDS]
ALL = sorted({*GROUPS, *((*g.split(), name) for g, names in COMMANDS.items() for name in names)})
HEAVY = {
    "keyring", "sqlite3", "tiktoken", "genai_prices", "rich", "xllamacpp", "tenacity", "httptools",
    "httpx2", "aiohttp", "uvloop", "asyncio", "llmctl.config", "llmctl.storage",
}  # fmt: skip


@pytest.mark.parametrize("command", ALL, ids=" ".join)
def test_help_everywhere(run: Run, environ: dict[str, str], command: tuple[str, ...]) -> None:
    """`-h` and `--help` say the same on stdout, end with 0 and the exit codes, and cut no text,
    on a terminal of 80 columns, which they fit (case 47), and of 200."""
    said = []
    for columns, flag in (("80", "-h"), ("200", "--help")):
        done = run(*command, flag, env={**environ, "COLUMNS": columns})
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith(" ".join(("Usage: llmctl", *command)))
        assert "..." not in done.stdout.partition("Options:")[2].replace("[...]", "")
        assert max(map(len, done.stdout.splitlines())) <= int(columns)
        for code, meaning in EXIT_CODES:
            assert f"{code:<10}{meaning}" in done.stdout
        said.append(done.stdout.split())
    assert said[0] == said[1]


@pytest.mark.parametrize(
    "flags",
    [("--version",), ("--version", "ask"), ("ask", "--version"), ("cost", "report", "--version")],
)
def test_version(run: Run, flags: tuple[str, ...]) -> None:
    """`--version` names the version and ends, behind any command, too."""
    assert run(*flags).stdout == f"llmctl {llmctl.__version__}\n"


def test_the_version_costs_hardly_more_than_python(environ: dict[str, str]) -> None:
    """`--version` takes at most twice the time of a bare start of Python: the best of ten each."""

    def best(*command: str) -> float:
        times: list[float] = []
        for _ in range(10):
            began = time.perf_counter()
            subprocess.run(command, env=environ, check=True, stdout=subprocess.DEVNULL)
            times.append(time.perf_counter() - began)
        return min(times)

    assert best(str(LLMCTL), "--version") <= 2 * best(sys.executable, "-c", "pass") + 0.005


def test_help_and_version_leave_no_trace(run: Run, home: Path) -> None:
    """Asking for help or the version creates no file."""
    for arguments in (("--help",), ("ask", "--help"), ("--version",)):
        run(*arguments)
    assert list(home.iterdir()) == []


def loaded(names: Iterable[str], *arguments: str, env: dict[str, str], cwd: Path) -> str:
    """Which of the modules a run of the command has imported, as a list in text."""
    code = (
        "import sys\nfrom llmctl.cli.app import main\nsys.argv[0] = 'llmctl'\n"
        "try: main()\n"
        f"finally: print(sorted({set(names)!r} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], env=env, cwd=cwd,
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    return done.stderr


def test_help_loads_nothing_heavy(environ: dict[str, str], tmp_path: Path) -> None:
    """Help imports no HTTP client, keyring, database, vocabulary or configuration."""
    for command in ((), ("ask",), ("cost", "report")):
        assert loaded(HEAVY, *command, "--help", env=environ, cwd=tmp_path) == "[]\n"


def test_a_command_loads_no_other(environ: dict[str, str], tmp_path: Path) -> None:
    """A command imports neither what parses other commands nor guards that its profile has not,
    and pydantic only where prices are looked up."""
    others = ["llmctl.cli.alerts", "llmctl.cli.batch", "llmctl.cli.cost", "llmctl.guards.routing"]
    environ = {**environ, "OPENAI_API_KEY": "sk-x"}
    for command, unwanted in (
        (("ask", "--dry-run", "Hello"), others),
        (("profiles", "list"), [*others, "pydantic"]),
    ):
        said = loaded(unwanted, *command, env=environ, cwd=tmp_path)
        assert said.splitlines()[-1] == "[]"


def test_completion_offers_the_commands(run: Run, environ: dict[str, str]) -> None:
    """Typer's completion: the shell asks the program itself, which names its commands."""
    env = {
        **environ,
        "_LLMCTL_COMPLETE": "complete_bash",
        "COMP_WORDS": "llmctl pro",
        "COMP_CWORD": "1",
    }
    assert run(env=env).stdout == "profiles\nprompt\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("btach",), "batch"),
        (("ask", "--modle", "x", "y"), "--model"),
        (("batch",), "INPUT"),
        (("batch", "x", "--concurrency", "many"), "'many' is not a whole number (see"),
        (("ask", "x", "-t", "hot"), "'hot' is not a number (see"),
    ],
)
def test_a_typo_is_exit_2_with_a_hint(run: Run, arguments: tuple[str, ...], said: str) -> None:
    """A wrong word ends with 2 and names what may have been meant."""
    done = run(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "kind"),
    [
        (("ask", "", "--json"), "input"),
        (("batch", "no.jsonl", "--json", "-q"), "input"),
        (("batch", "no.jsonl", "--json", "--template", "{{"), "input"),
        (("cost", "check", "--json"), "usage"),
        (("cost", "report", "--since", "x", "--format", "json"), "usage"),
        (("ask", "hi", "-p", "nobody", "--json"), "config"),
        (("ask", "hi", "-p", "openai", "--json"), "no_key"),
    ],
)
def test_an_error_is_json_where_it_was_asked_for(
    run: Run, arguments: tuple[str, ...], kind: str
) -> None:
    """With `--json` an error is an object on stdout with its kind, sentence and exit code; the
    sentence is on stderr, too."""
    done = run(*arguments)
    said = json.loads(done.stdout)
    assert (said["error"]["type"], said["exit_code"]) == (kind, done.returncode)
    assert said["error"]["message"] in done.stderr


def test_a_mistake_in_the_program_is_one_sentence(environ: dict[str, str], tmp_path: Path) -> None:
    """It exits 1; `-vv` shows the traceback before it, without locals, keys and escapes."""
    code = (
        "from llmctl.cli.context import Context, exit_with\n"
        "import sys, typer\n"
        "from llmctl.redact import remember\n"
        "remember('sk-secret-4711')\n"
        "def work():\n"
        "    local = 'a local value'\n"
        "    raise ValueError('sk-secret-4711 \\x1b[2J' + local[:0])\n"
        "try: exit_with(work, Context(verbose=int(sys.argv[1])))\n"
        "except typer.Exit as end: sys.exit(end.exit_code)\n"
    )
    for verbose in ("0", "2"):
        done = subprocess.run(
            [sys.executable, "-c", code, verbose], env=environ, cwd=tmp_path,
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode == 1
        assert "error: a mistake in llmctl, ValueError: [key]" in done.stderr
        assert ("Traceback" in done.stderr) == (verbose == "2")
        for hidden in ("\x1b", "sk-secret", "a local value'\n    raise"):
            assert hidden not in done.stderr.replace("local = 'a local value'", "")


def test_an_open_folder_is_closed_with_a_warning(llmctl: Run, home: Path) -> None:
    """Case 74: a state folder that everybody may write into is the user's alone afterwards."""
    folder = home / ".local/state/llmctl"
    folder.mkdir(parents=True)
    folder.chmod(0o777)
    done = llmctl("ask", "hi")
    assert done.returncode == 0
    assert done.stderr.count(f"warning: {folder} could be written by others") == 1
    assert folder.stat().st_mode & 0o777 == 0o700
