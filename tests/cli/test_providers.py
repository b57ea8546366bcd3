"""`ask`, `batch` and `models` at simulated providers, run as a process."""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from tests.cli.jsonl import read
from tests.conftest import KEY, Run
from tests.ledgers import calls_of
from tests.simulator import errors
from tests.simulator.fault import Fault
from tests.simulator.http1 import Answer
from tests.simulator.reply import Reply, ToolCall
from tests.simulator.reply import Usage as Billed
from tests.simulator.server import Simulator
from tests.simulator.wires.registry import BASES
from tests.simulator.wires.wire import Wire

CITY = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}
FITS, DOES_NOT = '{"city":"Paris"}', '{"town":"Paris"}'
PNG = b"\x89PNG\r\n\x1a\n" + bytes(20)

ASK, BATCH = ("ask", "q"), ("batch", "in.jsonl", "-q")

At = Callable[..., dict[str, str]]


@pytest.fixture
def at(home: Path, environ: dict[str, str], sim: Simulator) -> At:
    """The environment with a default profile of this provider, and these further lines."""

    def make(provider: str = "openai", *lines: str) -> dict[str, str]:
        folder = home / ".config" / "llmctl"
        folder.mkdir(parents=True, exist_ok=True)
        said = [
            f"provider: {provider}",
            f"base_url: {sim.origin}{BASES[provider]}",
            "model: sim-small",
            "key: {env: SIM_KEY}",
            "retry: {max_wait: 0.01}",
            "price: {input: 1, output: 2}",
            *lines,
        ]
        text = "default: sim\nprofiles:\n  sim:\n" + "".join(f"    {line}\n" for line in said)
        (folder / "config.yaml").write_text(text, encoding="utf-8")
        return {**environ, "SIM_KEY": KEY}

    return make


@pytest.mark.parametrize(
    ("words", "status", "code", "step"),
    [
        (ASK, 401, 4, "try the key with `llmctl keys check`, and put a good one in its place"),
        (BATCH, 402, 5, "choose another profile with -p"),
        (ASK, 403, 4, "what the key may do"),
        (BATCH, 404, 1, "`llmctl models -p sim` lists the models that there are"),
    ],
)
def test_an_error_says_whose_it_is_and_the_next_step(
    run: Run, at: At, sim: Simulator, tmp_path: Path,
    words: tuple[str, ...], status: int, code: int, step: str,
) -> None:  # fmt: skip
    """Case 31, A43: what another key, model or account mends names profile, address, place of the
    key and the next step; with `-q`, too."""
    (tmp_path / "in.jsonl").write_text('{"prompt": "q"}\n')
    sim.fault = errors.status(status, "so it is")
    done = run(*words, env=at())
    assert done.returncode == code
    shown = " ".join(done.stderr.split())
    if words[0] == "batch":
        shown += (tmp_path / "in.out.errors.jsonl").read_text()
    assert f"the provider answered {status}: so it is (profile sim, asked {sim.base_url}" in shown
    assert ("with the key of $SIM_KEY" in shown) == (status != 404)
    assert step in shown


class Unsaid(Fault):
    """A usage without a token, but with a price."""

    def answer(self, answer: Answer, wire: Wire) -> Answer:  # noqa: ARG002 - the seam's
        """Put it in place of the real one."""
        body = json.loads(b"".join(answer.pieces)) | {"usage": {"cost": 0}}
        return replace(answer, pieces=(json.dumps(body).encode(),))


def test_what_nobody_reports_is_marked(run: Run, at: At, sim: Simulator, tmp_path: Path) -> None:
    """Cases 12, 19 and 21: without usage the figures are estimates, and say so with a `~` in line,
    summary, row and report; another server's word of its price counts for nothing."""
    sim.fault = Unsaid()
    env = at()
    line = run("ask", "hi", "-u", env=env).stderr
    found = re.search(r"~(\d+) in \(0 cached\) \+ ~(\d+) out · ~\$0\.0000", line)
    assert found, line
    assert int(found[1]) < 20
    (tmp_path / "in.jsonl").write_text('{"prompt": "a"}\n')
    done = run("batch", "in.jsonl", env=env)
    assert re.search(r"~\d+ tokens in \+ ~\d+ out · ~\$0\.0000", done.stderr), done.stderr
    (row,) = read(tmp_path / "in.out.jsonl")
    assert row["usage"]["estimated"] is True
    assert row["cost_usd"] > 0
    assert "they are estimates (~)" in " ".join(run("cost", "report", env=env).stdout.split())


def test_an_address_without_v1_is_told(run: Run, at: At, sim: Simulator) -> None:
    """Case 32: as Ollama answers it, and LM Studio under 200; asked once, with the address."""
    env = at()
    config = Path(env["HOME"]) / ".config/llmctl/config.yaml"
    text = config.read_text(encoding="utf-8")
    config.write_text(text.replace(sim.base_url, sim.origin + "/api"), encoding="utf-8")
    for status in (404, 500):
        said = "Unexpected endpoint or method. (POST /chat/completions)"
        sim.fault = errors.status(status, said)
        before = len(sim.calls)
        done = run("ask", "q", env=env)
        assert (done.returncode, len(sim.calls) - before) == (1, 1)
        assert f"asked {sim.origin}/api/chat/completions" in done.stderr
        assert "most servers want /v1 in base_url" in done.stderr


def test_the_vendors_variables_send_elsewhere(
    run: Run, home: Path, environ: dict[str, str], sim: Simulator
) -> None:
    """Case 38: `OPENAI_BASE_URL` and its kin are used, as the vendor's SDK completes them, with the
    key beside them, which goes to no other address; a profile's own `base_url` wins, and then that
    key is not its key."""
    for provider, variable, key, rest, whole in (
        ("openai", "OPENAI_BASE_URL", "OPENAI_API_KEY", "", False),
        ("anthropic", "ANTHROPIC_BASE_URL", "ANTHROPIC_API_KEY", "/v1", False),
        ("gemini", "GOOGLE_GEMINI_BASE_URL", "GEMINI_API_KEY", "/v1beta", False),
        ("groq", "GROQ_BASE_URL", "GROQ_API_KEY", "/openai/v1", False),
        ("groq", "GROQ_BASE_URL", "GROQ_API_KEY", "/openai/v1", True),
        ("cohere", "CO_API_URL", "CO_API_KEY", "/v2", False),
    ):
        address = sim.origin + BASES[provider]
        said = address if whole else f"{address.removesuffix(rest)}/"
        env = {**environ, key: KEY, variable: said}
        done = run("ask", f"hello {said}", "-p", provider, env=env)
        assert (done.returncode, done.stdout) == (0, f"echo: hello {said}"), done.stderr
        path = sim.calls[-1].path
        assert path.startswith(f"{BASES[provider]}/")
        assert f"{rest}{rest}" not in path or not rest
    folder = home / ".config" / "llmctl"
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(
        "profiles: {openai: {base_url: 'https://api.openai.com/v1'}}\n", encoding="utf-8"
    )
    env = {**environ, "OPENAI_API_KEY": KEY, "OPENAI_BASE_URL": f"{sim.origin}/v1"}
    shown = json.loads(run("profiles", "show", "openai", "--json", env=env).stdout)
    assert shown["base_url"] == "https://api.openai.com/v1"
    assert shown["key"]["env"] is None
    assert run("keys", "list", "--json", env=env).stdout.strip() == "[]"


@pytest.fixture
def schema(tmp_path: Path) -> str:
    """A file with a schema."""
    path = tmp_path / "city.json"
    path.write_text(json.dumps(CITY), encoding="utf-8")
    return str(path)


def test_only_openai_has_responses(run: Run, at: At) -> None:
    """Another provider's profile with `api: responses` is refused, with its line."""
    done = run("ask", "hi", env=at("groq", "api: responses"))
    assert done.returncode == 2
    assert "api is not spoken by groq" in done.stderr


def test_azure(run: Run, at: At, sim: Simulator) -> None:
    """The key goes into the header and the version into the address that Azure wants."""
    lines = ("key_header: api-key", 'query: {api-version: "2024-10-21"}')
    done = run("ask", "hi", env=at("openai", *lines))
    assert done.returncode == 0, done.stderr
    (call,) = sim.calls
    assert call.query == "api-version=2024-10-21"
    assert call.headers["api-key"] == KEY
    assert "authorization" not in call.headers


def test_azure_lists_models_above_its_deployments(
    run: Run, at: At, sim: Simulator, home: Path
) -> None:
    """Case 35: a good key of a deployment's address is found good, and its models are listed."""
    sim.accept_keys({KEY})
    env = at("openai", "key_header: api-key", 'query: {api-version: "2024-10-21"}')
    config = home / ".config/llmctl/config.yaml"
    config.write_text(config.read_text().replace("/v1", "/openai/deployments/mine"))
    done = run("keys", "check", "sim", env=env)
    assert (done.returncode, done.stdout.split()[-1]) == (0, "ok"), done.stderr
    assert run("models", env=env).returncode == 0
    wanted = ("/openai/models", "api-version=2024-10-21")
    assert {(call.path, call.query) for call in sim.calls} == {wanted}


@pytest.mark.parametrize(
    ("provider", "model"), [("openai", "gpt-5-mini"), ("anthropic", "claude-sonnet-5-5")]
)
def test_parameters_that_a_model_refuses(
    run: Run, at: At, sim: Simulator, tmp_path: Path, provider: str, model: str
) -> None:
    """Case 33: the profile's is left out and said once; a flag's and a row's are refused unsent."""
    env = {**at(provider, "params: {temperature: 0}"), "LLMCTL_MODEL": model}
    rows = tmp_path / "in.jsonl"
    rows.write_text('{"prompt": "a"}\n{"prompt": "b"}\n')
    done = run("batch", str(rows), env=env)
    assert (done.returncode, len(sim.calls)) == (0, 2), done.stderr
    assert done.stderr.count("refuses temperature") == 1
    assert not any("temperature" in (call.body or {}) for call in sim.calls)
    done = run("ask", "hi", "-t", "0.5", env=env)
    assert (done.returncode, len(sim.calls)) == (2, 2)
    assert f"error: {model} refuses temperature (0.5): leave it out" in done.stderr
    rows.write_text('{"prompt": "c", "temperature": 0.2}\n')
    done = run("batch", str(rows), "-o", str(tmp_path / "o.jsonl"), env=env)
    (failed,) = read(tmp_path / "o.errors.jsonl")
    assert (failed["error"]["type"], len(sim.calls)) == ("invalid_request", 2)


@pytest.mark.parametrize("provider", ["openai", "bedrock"])
def test_an_answer_that_fits(run: Run, at: At, sim: Simulator, schema: str, provider: str) -> None:
    """The schema goes out natively, and the answer's value stands in the row; the next time it
    comes from the cache."""
    env = at(provider)
    sim.reply = lambda _: FITS
    for cache in ("miss", "hit"):
        done = run("ask", "where?", "--schema", schema, "--json", env=env)
        assert done.returncode == 0, done.stderr
        row = json.loads(done.stdout)
        assert (row["parsed"], row["text"], row["cache"]) == ({"city": "Paris"}, FITS, cache)
    (call,) = sim.calls
    assert call.ask is not None
    assert call.ask.schema["properties"] == CITY["properties"]  # type: ignore[index]


def test_an_answer_that_does_not_fit(
    run: Run, at: At, sim: Simulator, schema: str, home: Path
) -> None:
    """Exit 1; the ledger has what both tries really cost, and nothing is kept for the next time.
    Case 9: the paid text is shown on stderr."""
    env = at()
    sim.reply = lambda _: Reply(DOES_NOT, usage=Billed(input=100, output=50))
    for calls in (2, 4):
        done = run("ask", "where?", "--schema", schema, "--stream", env=env)
        assert (done.returncode, done.stdout) == (1, "")
        assert "does not fit the schema" in done.stderr
        assert DOES_NOT in done.stderr
        assert len(sim.calls) == calls
    row = calls_of(home)[0]
    assert (row["attempts"], row["input_tokens"], row["output_tokens"]) == (2, 200, 100)
    assert row["cost_pico"] == 400_000_000
    run("ask", "where?", "--schema", schema, "--schema-retries", "0", env=env)
    assert len(sim.calls) == 5


def test_asking_again_with_the_validators_words(
    run: Run, at: At, sim: Simulator, schema: str, home: Path
) -> None:
    """Case 9: the second try hears what was wrong with the first; stdout has the one that fits,
    the bill is that of both, and the answer is kept. Nothing is held any more."""
    env = at()
    usage = Billed(input=100, output=50)
    texts = iter([DOES_NOT, f"```json\n{FITS}\n```"])
    sim.reply = lambda _: Reply(next(texts), usage=usage)
    command = ("ask", "where?", "--schema", schema, "--json", "--budget", "1", "--max-tokens", "99")
    done = run(*command, env=env)
    assert done.returncode == 0, done.stderr
    row = json.loads(done.stdout)
    assert (row["parsed"], row["attempts"]) == ({"city": "Paris"}, 2)
    assert (row["usage"]["input_tokens"], row["cost_usd"]) == (200, pytest.approx(0.0004))
    *_, before, again = (sim.calls[1].body or {})["messages"]
    assert before == {"role": "assistant", "content": DOES_NOT}
    assert "town" in again["content"]
    kept = json.loads(run(*command, env=env).stdout)
    assert (kept["cache"], kept["parsed"]) == ("hit", {"city": "Paris"})
    with closing(sqlite3.connect(home / ".local/state/llmctl/ledger.db")) as db:
        assert db.execute("SELECT count(*) FROM holds").fetchone() == (0,)


def test_asking_again_that_fails(run: Run, at: At, sim: Simulator, schema: str) -> None:
    """Case 9: what becomes of the second try, a budget without room for it included, costs
    nothing of the first: its text and its bill stay."""
    env = at()
    sim.reply = lambda _: Reply(DOES_NOT, usage=Billed(input=100, output=50))
    sim.fault = lambda call: errors.status(400) if "does not fit" in call.prompt else None
    done = run("ask", "one", "--schema", schema, env=env)
    assert (done.returncode, DOES_NOT in done.stderr, len(sim.calls)) == (1, True, 2)
    sim.fault = None
    tight = ("--budget", "0.0012", "--max-tokens", "500")
    done = run("ask", "two", "--schema", schema, *tight, env=env)
    assert (done.returncode, DOES_NOT in done.stderr, len(sim.calls)) == (1, True, 3)


@pytest.mark.parametrize("provider", ["openai", "anthropic"])
def test_tool_calls_are_in_the_row(run: Run, at: At, sim: Simulator, provider: str) -> None:
    """Case 7: the call is in the row, from the cache too; `ask` without --json names it."""
    tool = ToolCall("look_up", '{"city":"Paris"}')
    sim.reply = lambda _: Reply("", finish="tool_calls", tool_calls=(tool,))
    env = at(provider)
    for cache in ("miss", "hit"):
        row = json.loads(run("ask", "weather?", "--json", env=env).stdout)
        (call,) = row["tool_calls"]
        assert (call["function"]["name"], row["finish_reason"]) == ("look_up", "tool_calls")
        assert json.loads(call["function"]["arguments"]) == {"city": "Paris"}
        assert (row["cache"], row["text"]) == (cache, "")
    done = run("ask", "weather?", env=env)
    assert (done.stdout, "look_up" in done.stderr) == ("", True)
    sim.reply = lambda _: "hello"
    assert run("ask", "and now?", "-c", env=env).stdout == "hello"
    assert "weather?" not in sim.calls[-1].prompt


def test_our_own_limit_of_anthropic_is_named(run: Run, at: At, sim: Simulator) -> None:
    """Case 5: Anthropic wants a limit; where the user gave none, the cut was ours."""
    sim.reply = lambda _: Reply("some", finish="length", usage=Billed(input=10, output=4096))
    said = run("ask", "q", env=at("anthropic")).stderr
    assert ("4,096" in said, "--max-tokens" in said) == (True, True)
    assert "4,096" not in run("ask", "q", "--max-tokens", "99", env=at("anthropic")).stderr


def test_a_parameter_that_changes_the_answers_shape(run: Run, at: At) -> None:
    """Case 8: with `n` or `logprobs` the row has the provider's body; otherwise not."""
    asked = {"n=3": True, "logprobs=true": True, "n=1": False, "user=me": False}
    for param, kept in asked.items():
        done = run("ask", param, "--json", "--stream", "--param", param, env=at())
        assert ("choices" in json.loads(done.stdout).get("body", {})) is kept


@pytest.mark.parametrize(
    ("text", "says"),
    [("{", "not valid JSON"), ('{"type": "x"}', "no JSON Schema"), ("[]", "an object")],
)
def test_a_wrong_schema(
    run: Run, at: At, sim: Simulator, tmp_path: Path, text: str, says: str
) -> None:
    """A schema that cannot be used is refused before anything is sent."""
    path = tmp_path / "s.json"
    path.write_text(text, encoding="utf-8")
    (tmp_path / "in.jsonl").write_text('{"prompt": "hi"}\n', encoding="utf-8")
    command = ["batch", "in.jsonl"] if text == "{" else ["ask", "hi"]
    done = run(*command, "--schema", str(path), env=at())
    assert done.returncode == 2
    assert says in done.stderr
    assert not sim.calls


def test_a_batch_with_schemas(
    run: Run, at: At, sim: Simulator, schema: str, tmp_path: Path
) -> None:
    """Rows take --schema or their own; those that do not fit, twice, are error rows with their
    cost and text, and are asked again the next time."""
    loose = {"type": "object", "required": ["town"]}
    lines = [
        {"id": "a", "prompt": "one"},
        {"id": "b", "prompt": "two"},
        {"id": "c", "prompt": "two", "schema": loose},
    ]
    (tmp_path / "in.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    sim.reply = lambda call: FITS if call.ask and call.ask.last == "one" else DOES_NOT
    command = ("batch", "in.jsonl", "--schema", schema, "--json")
    done = run(*command, env=at())
    assert done.returncode == 1, done.stderr
    answers = {row["id"]: row["parsed"] for row in read(tmp_path / "in.out.jsonl")}
    assert answers == {"a": {"city": "Paris"}, "c": {"town": "Paris"}}
    (failed,) = read(tmp_path / "in.out.errors.jsonl")
    assert (failed["id"], failed["error"]["type"]) == ("b", "schema")
    assert (failed["cost_usd"] > 0, failed["text"]) == (True, DOES_NOT)
    summary = json.loads(done.stdout)
    assert summary["requests"] == 4
    assert summary["input_tokens"] == sim.billed.input_tokens
    sim.reply = lambda _: FITS
    assert run(*command, env=at()).returncode == 0
    assert len(sim.calls) == 5


def test_attachments(run: Run, at: At, sim: Simulator, tmp_path: Path) -> None:
    """Images go as parts, addresses as addresses, texts inside the prompt."""
    (tmp_path / "a.png").write_bytes(PNG)
    (tmp_path / "notes.txt").write_text("remember", encoding="utf-8")
    files = ("-a", "a.png", "-a", "https://example.org/b.jpg", "-a", "notes.txt")
    done = run("ask", "look", *files, env=at())
    assert done.returncode == 0, done.stderr
    ask = sim.calls[0].ask
    assert ask is not None
    assert [kind for kind, _ in ask.files] == ["image/png", "url"]
    *_, notes, prompt = (sim.calls[0].body or {})["messages"][0]["content"]
    assert notes["text"] == '<file name="notes.txt">\nremember\n</file>'
    assert prompt["text"] == "look"


def test_what_a_provider_does_not_take_is_refused_unsent(
    run: Run, at: At, sim: Simulator, tmp_path: Path
) -> None:
    """Exit 2, a sentence, no request; in a plan, too."""
    (tmp_path / "a.pdf").write_bytes(b"%PDF-1.4\n")
    for more in ((), ("--dry-run",)):
        done = run("ask", "read", "-a", "a.pdf", *more, env=at("groq"))
        assert done.returncode == 2
        assert "groq takes no PDF files" in done.stderr
    (tmp_path / "a.mp4").write_bytes(b"\0\0\0\x20ftypisom" + bytes(64))
    done = run("ask", "look", "-a", "a.mp4", env=at("openai"))
    assert done.returncode == 2
    assert "openai takes no video" in done.stderr
    assert not sim.calls


def test_openai_lines_for_others(run: Run, at: At, sim: Simulator, tmp_path: Path) -> None:
    """What can be translated is; what cannot is an error row that names the field, unsent."""
    turn = [{"role": "user", "content": "hi"}]
    line = {"method": "POST", "url": "/v1/chat/completions"}
    lines = [
        {"custom_id": "a", **line, "body": {"messages": turn, "max_tokens": 9, "stop": "x"}},
        {"custom_id": "b", **line, "body": {"messages": turn, "logit_bias": {"1": 2}}},
    ]
    (tmp_path / "in.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    done = run("batch", "in.jsonl", env=at("anthropic"))
    assert done.returncode == 1, done.stderr
    (answer,) = read(tmp_path / "in.out.jsonl")
    assert (answer["id"], answer["text"]) == ("a", "echo: hi")
    (failed,) = read(tmp_path / "in.out.errors.jsonl")
    assert (failed["id"], failed["error"]["type"]) == ("b", "invalid_request")
    assert "`logit_bias`" in failed["error"]["message"]
    assert (failed["attempts"], failed["cost_usd"]) == (0, 0)
    assert len(sim.calls) == 1


def test_the_providers_own_count(run: Run, at: At, sim: Simulator) -> None:
    """`--dry-run --exact` shows what the provider counts, and asks the model nothing."""
    done = run("ask", "how long is this?", "--dry-run", "--exact", "--json", env=at())
    assert done.returncode == 0, done.stderr
    plan = json.loads(done.stdout)
    assert plan["input_tokens_exact"] is True
    assert [call.path for call in sim.calls] == ["/v1/responses/input_tokens"]
    assert sim.billed.requests == 0


def test_who_counts_nothing_says_so(run: Run, at: At, sim: Simulator) -> None:
    """Without a counting provider, or a plan, `--exact` is exit 2."""
    done = run("ask", "hi", "--dry-run", "--exact", env=at("groq"))
    assert done.returncode == 2
    assert "groq counts no tokens" in done.stderr
    assert run("ask", "hi", "--exact", env=at()).returncode == 2
    assert not sim.calls


@pytest.mark.parametrize("provider", [*BASES])
def test_models(run: Run, at: At, sim: Simulator, provider: str) -> None:
    """The provider's models, page by page, as a table and as JSON; free of charge."""
    env = at(provider)
    listed = json.loads(run("models", "--json", env=env).stdout)
    assert [model["id"] for model in listed] == ["sim-large", "sim-small"]
    assert set(listed[0]) == {"id", "name", "context", "max_output", "created", "price", "ends"}
    assert listed[0]["price"] == {"input": 1, "output": 2}
    assert sim.billed.requests == 0
    if provider == "openai":  # the table is one for all
        done = run("models", env=env)
        assert done.returncode == 0, done.stderr
        head, *lines = done.stdout.splitlines()
        assert head.startswith("MODEL")
        assert [line.split()[0] for line in lines] == ["sim-large", "sim-small"]


@pytest.mark.parametrize(
    ("said", "price", "window", "shown"),
    [
        ("price: {as: openai/gpt-4o}", {"input": 2.5, "output": 10}, 128_000, "128,000"),
        ("", None, None, "sim-large  20"),
    ],
)
def test_models_with_price_and_window(
    run: Run,
    at: At,
    home: Path,
    said: str,
    price: dict[str, float] | None,
    window: int | None,
    shown: str,
) -> None:
    """Where the provider says neither they are the published ones; what nobody knows is null."""
    env = at()
    path = home / ".config/llmctl/config.yaml"
    path.write_text(path.read_text().replace("price: {input: 1, output: 2}", said))
    model = json.loads(run("models", "--json", env=env).stdout)[0]
    assert (model["price"], model["context"]) == (price, window)
    table = run("models", env=env).stdout
    assert shown in table
    assert ("$2.50" in table) is (price is not None)


def test_models_without_a_key(run: Run, at: At, sim: Simulator) -> None:
    """No key, or one the provider refuses, is exit 4."""
    env = at()
    assert run("models", env={**env, "SIM_KEY": ""}).returncode == 4
    sim.accept_keys(["another"])
    done = run("models", env=env)
    assert done.returncode == 4
    assert KEY not in done.stderr
