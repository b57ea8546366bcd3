"""No key leaks: a canary travels through every command, well and badly, and is looked for in all
the places it could have reached."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from urllib.parse import unquote

import pytest

from tests.conftest import LLMCTL, Run, configure, ledger
from tests.keys.openbao import OpenBao
from tests.keys.secret_service import SecretService
from tests.leaks.scan import Scan, Watch, forms
from tests.simulator import errors
from tests.simulator.fault import Fault
from tests.simulator.faults import Body, CutBody, Disconnect, Malformed
from tests.simulator.reply import Problem, Reply
from tests.simulator.server import Simulator
from tests.simulator.streams import StreamError

CANARY = "sk-canary+4711/leak=%Zq~"
NEXT = "sk-canary+4712/next=%Zq~"
BOUND = 500  # characters of a provider's words that an error repeats
HEADERS = {"x-request-id": "{key}", "retry-after": "0", "x-note": "{key}"}


def echoing(status: int, kind: str = "server_error") -> Fault:
    """An error whose body and headers hold the client's key."""
    problem = Problem("we saw {key} and did not like it", kind, "{key}", "{key}")
    return errors.Status(status=status, problem=problem, headers=HEADERS)


FAULTS: dict[str, Callable[[], Fault | None]] = {
    "401": lambda: echoing(401, "invalid_api_key"),
    "403": lambda: echoing(403),
    "400": lambda: echoing(400, "invalid_request_error"),
    "404": lambda: echoing(404),
    "429": lambda: echoing(429),
    "500": lambda: echoing(500),
    "302": lambda: errors.Redirect(location="http://127.0.0.1:9/stolen"),
    "html": lambda: Body(body=f"<html>{CANARY}</html>".encode()),
    "malformed": Malformed,
    "cut": CutBody,
    "gone": Disconnect,
    "cut at our bound": lambda: errors.Status(
        status=400, problem=Problem("x" * (BOUND - len(CANARY) + 1) + "{key}", "t")
    ),
    "cut by them": lambda: Body(body=b"y " * 20 + CANARY[:-1].encode(), status=500),
    "cut by them in JSON": lambda: errors.Status(
        status=400, problem=Problem(f"you sent {CANARY[:-1]}", CANARY[1:])
    ),
    "cut behind white space": lambda: Body(
        body=b" " * (64 * 1024 - 20) + CANARY.encode(), status=400
    ),
    "late error": lambda: StreamError(problem=Problem("broke at {key}")),
}


CHECKED = ("302", "html", "cut at our bound", "cut by them in JSON", "401")
"""What a check of a key meets: a reply of each kind whose words are told."""


class Home:
    """Where the program may write: home, XDG folders, temporary folder, project."""

    def __init__(
        self, top: Path, sim: Simulator, environ: dict[str, str], openbao: OpenBao
    ) -> None:
        self.top = top
        self.work = top / "work"
        self.tmp = top / "tmp"
        self.outside = top.parent / "outside"  # where a password manager keeps its secrets
        for folder in (self.work, self.tmp, self.outside, top / "config/llmctl"):
            folder.mkdir(parents=True)
        (self.outside / "secret").write_text(CANARY + "\n")
        for value in (NEXT, CANARY):
            openbao.put("leaks", key=value, list=f"{CANARY}\n{NEXT}")
        (top / "config/llmctl/config.yaml").write_text(
            "default: env\nprofiles:\n"
            + "".join(
                f"  {name}:\n    provider: openai\n    base_url: {sim.base_url}\n"
                "    model: gpt-5-mini\n    retry: {attempts: 2, max_wait: 0.01}\n"
                # What fails is to fail, not to be waited for.
                "    breaker: {failures: 1000, error_rate: 1}\n"
                f"    key: {key}\n"
                for name, key in {
                    "env": "{env: CANARY_KEY}",
                    "stored": "{keyring: stored}",
                    "asked": f"{{command: 'cat {self.outside}/secret'}}",
                    "managed": '{secret: "vault://secret/leaks#key"}',
                    "wrong": '{secret: "vault://secret/leaks#absent"}',
                    "several": '{secret: "vault://secret/leaks#list"}',
                    "slow": f"{{command: [sh, -c, 'sleep 0.6; cat {self.outside}/secret']}}",
                    "broken": f"{{command: [sh, -c, 'cat {self.outside}/secret >&2; exit 3']}}",
                }.items()
            )
        )
        for name, asked in (("in", ["one", "two"]), ("failing", [*FAULTS][::-1])):
            text = "".join(json.dumps({"id": each, "prompt": each}) + "\n" for each in asked)
            (self.work / f"{name}.jsonl").write_text(text)
        self.environ = environ | {
            "HOME": str(top / "home"), "TMPDIR": str(self.tmp), "CANARY_KEY": CANARY,
            "XDG_CONFIG_HOME": str(top / "config"), "XDG_STATE_HOME": str(top / "state"),
            "XDG_CACHE_HOME": str(top / "cache"), "XDG_DATA_HOME": str(top / "data"),
            "XDG_RUNTIME_DIR": str(top / "run"),
            "VAULT_ADDR": openbao.address, "VAULT_TOKEN": openbao.token(),
        }  # fmt: skip


def words_of(*lines: str) -> list[list[str]]:
    """The words of command lines."""
    return [line.split() for line in lines]


COMMANDS = words_of(
    "ask -p env -u --no-cache hi",
    "ask -p env --stream --refresh -v hi",
    "ask -p env --dry-run hi",
    "models -p env -vv",
    "keys check env -vv",
    "profiles show env -vv",
    "profiles show stored -vv",
    *(
        line.format(profile)
        for profile in ("env", "stored", "asked", "managed")
        for line in (
            "ask -p {} --json --no-cache -vv hi",
            "batch in.jsonl -p {} --restart --no-cache -vv",
        )
    ),
    "batch in.jsonl --restart --no-cache -o - --json",
    "ask -p slow --no-cache -vv hi",
    "ask -p broken -vv hi",
    "ask -p wrong -vv hi",
    "ask -p several -vv hi",
    "ask -p nobody -vv hi",
    "keys check --json -vv",
    "keys list -vv",
    "keys list --json --max-age 1ms",
    "profiles list -vv",
    "profiles list --json",
    "profiles trust -vv",
    "profiles init -vv",
    "cache stats",
    "cost report",
    "local status -vv",
)
"""Every command that has to do with configuration, keys or calls; `ask`, `batch` and `keys check`
with a key of each source."""


class Leaks:
    """Commands in a home, and the scan of all that they say and leave."""

    def __init__(self, run: Run, home: Home, sim: Simulator) -> None:
        self.home = home
        self.scan = Scan((CANARY, NEXT))
        self.codes: set[int] = set()
        self._run = run
        self._sim = sim

    def call(self, words: list[str], stdin: str = "") -> int:
        """Run a command; gives its exit code."""
        done = self._run(*words, env=self.home.environ, stdin=stdin, cwd=self.home.work)
        self.codes.add(done.returncode)
        assert "Traceback" not in done.stderr or "-vv" in words
        for stream, text in (("stdout", done.stdout), ("stderr", done.stderr)):
            self.scan.text(f"{stream} of {' '.join(words)}", text.encode())
        return done.returncode

    def rotate(self) -> None:
        """Every step of a rotation."""
        self.call(["keys", "rotate", "stored", "-vv"], NEXT)
        self.call(["ask", "-p", "stored", "-vv", "--no-cache", "hi"])
        self.call(["keys", "rotate", "stored", "--rollback", "-vv"])
        self.call(["keys", "rotate", "stored", "--finish", "-vv"])

    def ended(self) -> None:
        """Nothing leaked, onto the disk neither."""
        assert self.scan.folder(self.home.top) > 3
        self.call(["keys", "remove", "stored", "-vv"])
        assert self.scan.hits == []
        assert self._sim.calls
        assert {call.api_key for call in self._sim.calls} <= {CANARY, NEXT}


@pytest.fixture
def leaks(
    run: Run, environ: dict[str, str], sim: Simulator, secret_service: SecretService,
    openbao: OpenBao, tmp_path: Path,
) -> Leaks:  # fmt: skip
    """A home with the canary as a key of every source."""
    home = Home(tmp_path / "all", sim, {**environ, **secret_service.environ}, openbao)
    return Leaks(run, home, sim)


def test_no_command_leaks(leaks: Leaks) -> None:
    """Through every command, -vv included, the canary is found in no output, no file, no command
    line and no child's environment."""
    with Watch(leaks.scan, "bin/llmctl") as watch:
        leaks.call(["keys", "set", "stored", "-vv"], CANARY)
        for words in COMMANDS:
            leaks.call(words)
        for name, wrong in (("stored", "two\n" + CANARY), ("nothing", CANARY)):
            leaks.call(["keys", "set", name, "-vv"], wrong)
        leaks.rotate()
        leaks.ended()
    assert leaks.codes >= {0, 4}
    assert watch.rounds > 10
    # The command of a key is started without the variables that hold other keys.
    assert any("sleep" in line for line in watch.children)


def test_no_failure_leaks(leaks: Leaks, sim: Simulator) -> None:
    """With a provider that fails in each of these ways, in a stream, in a batch and as a key is
    checked, -vv included, the canary is found in no output and no file."""
    leaks.call(["keys", "set", "stored", "-vv"], CANARY)

    sim.fault = lambda call: FAULTS[call.prompt]()
    for name in FAULTS:
        assert leaks.call(["ask", "-p", "env", "--stream", "-vv", "--no-cache", name]), name
    # One row at a time: 401, after which nothing is sent, is the last.
    leaks.call(["batch", "failing.jsonl", "-p", "env", "-vv", "--no-cache", "--concurrency", "1"])
    failed = (leaks.home.work / "failing.out.errors.jsonl").read_text().splitlines()
    assert {json.loads(line)["id"] for line in failed} == {*FAULTS} - {"late error"}  # a stream's
    for profile in ("stored", "managed"):
        assert leaks.call(["ask", "-p", profile, "--json", "-vv", "--no-cache", "401"])
    for name in CHECKED:
        sim.fault = FAULTS[name]()
        assert leaks.call(["keys", "check", "stored", "-vv"]), name
        assert leaks.call(["keys", "rotate", "stored", "-vv"], NEXT), name
    leaks.rotate()
    leaks.ended()


def test_the_scan_finds_what_there_is(environ: dict[str, str], tmp_path: Path) -> None:
    """The scan itself finds a planted canary: raw, encoded, in a file, in a child's environment."""
    for form in forms(CANARY):
        (tmp_path / "f").write_bytes(b"before" + form + b"after")
        planted = Scan((CANARY,))
        assert planted.folder(tmp_path) == 1
        assert planted.hits
    watched = Scan((CANARY,))
    program = tmp_path / "bin/llmctl"
    program.parent.mkdir()
    program.write_text("import subprocess, sys; subprocess.run(['sleep', '1'])")
    with Watch(watched, "bin/llmctl"):
        command = [sys.executable, str(program), CANARY]
        subprocess.run(command, env={**environ, "SOME_KEY": CANARY}, check=True)
    for place in ("cmdline", "environ"):
        assert any(place in hit for hit in watched.hits)


@pytest.mark.parametrize("command", ["ask", "batch"])
def test_other_secrets_than_the_key_are_cut(
    run: Run, home: Path, environ: dict[str, str], sim: Simulator, tmp_path: Path, command: str
) -> None:
    """Case 69: a proxy's password, a value of `query:`, and a key that comes back as the model's
    name stand in no message, row or ledger."""
    secrets = {"proxy": "proxy-p%40ss-4711", "query": "gateway-code-4712", "key": CANARY}
    configure(
        home, "http://provider.example/v1", "{env: SIM_KEY}",
        f"    query: {{code: {secrets['query']}}}\n    breaker: {{failures: 1000}}\n",
    )  # fmt: skip
    proxy = f"http://ann:{secrets['proxy']}@{sim.origin.rpartition('/')[2]}"
    env = {**environ, "SIM_KEY": CANARY, "HTTP_PROXY": proxy, "http_proxy": proxy}
    (tmp_path / "in.jsonl").write_text('{"prompt": "x"}\n')
    words = ["ask", "x", "--json"] if command == "ask" else ["batch", "in.jsonl", "-o", "-"]
    said = f"{secrets['proxy']} {unquote(secrets['proxy'])} {secrets['query']} {CANARY}"
    sim.reply = lambda _: Reply("fine", model=CANARY)
    refusal = errors.Status(status=400, problem=Problem(said, "invalid_request_error"))
    for fault in (None, refusal):
        sim.fault = fault
        done = run(*words, "--no-cache", env=env)
        assert done.returncode == (0 if fault is None else 1), done.stderr
        assert "[key]" in done.stdout + done.stderr
        for shown in (done.stdout, done.stderr, str([tuple(row) for row in ledger(home)])):
            forms_of = {form for one in secrets.values() for form in (one, unquote(one))}
            assert not {form for form in forms_of if form in shown}, shown


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_crash_leaves_no_dump_of_the_memory(configured: dict[str, str], sim: Simulator) -> None:
    """Case 69: the limit on core files of a running command is 1 byte, at which Linux neither
    writes one nor hands it to a program."""
    sim.hold()
    with subprocess.Popen(
        ["sh", "-c", 'ulimit -c unlimited; exec "$0" ask x', LLMCTL], env=configured,
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
    ) as process:  # fmt: skip
        sim.wait_for_calls(1)
        limits = Path(f"/proc/{process.pid}/limits").read_text()
        sim.release()
    line = next(line for line in limits.splitlines() if line.startswith("Max core file size"))
    assert line.split()[4:6] == ["1", "1"]
