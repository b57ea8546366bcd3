"""`llmctl prompt lint`: planted waste is found, with its rows and its tokens."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from llmctl.prompts.fix import tags
from llmctl.tokens import count, encoding
from tests.cli.jsonl import write
from tests.conftest import Run
from tests.simulator.call import Call
from tests.simulator.server import Simulator

RULES = "".join(f"Rule {n}: mind clause {n * 7}, and say where it is void.\n" for n in range(120))
POLITE = (
    "Hello! Could you please classify the review?\nPlease answer in one word only. "
    "I hope this is clear. Thank you very much in advance!\nReview: {{ text }}\n"
)


def tokens(text: str) -> int:
    """As the model of the profile has them."""
    return count(encoding("o200k_base"), text)[0]


def known(configured: dict[str, str], more: str = "") -> dict[str, str]:
    """The profile `sim` at the prices, and with the prompt cache, of the model."""
    path = Path(configured["HOME"]) / ".config/llmctl/config.yaml"
    text = path.read_text(encoding="utf-8")
    text = text.replace("price: {input: 1, output: 2}", "price: {as: openai/gpt-5-mini}")
    path.write_text(text + more, encoding="utf-8")
    return configured


def found(run: Run, env: dict[str, str], *arguments: str) -> dict[str, Any]:
    """The findings by their kind."""
    done = run("prompt", "lint", *arguments, "--json", env=env)
    assert done.returncode in (0, 1), done.stderr
    said = json.loads(done.stdout)
    assert done.returncode == any(each["saves"] for each in said["findings"])
    return {each["kind"]: each for each in said["findings"]}


def test_pleasantries_of_a_template(run: Run, configured: dict[str, str], tmp_path: Path) -> None:
    """Their tokens of all rows, within 1%, and dollars by the profile's price."""
    rows = [{"text": f"It was fine {n}"} for n in range(200)]
    path = write(tmp_path / "in.jsonl", rows)
    (tmp_path / "t.j2").write_text(POLITE, encoding="utf-8")
    said = found(run, configured, str(path), "--template", "@t.j2")["pleasantries"]
    short = "Classify the review.\nAnswer in one word only.\nReview: {{ text }}\n"
    wanted = 200 * (tokens(POLITE) - tokens(short))
    assert said["tokens"] == pytest.approx(wanted, rel=0.01)
    assert said["usd"] == pytest.approx(wanted / 1e6, rel=0.01)
    assert said["fixable"]


def test_duplicates(run: Run, configured: dict[str, str], tmp_path: Path) -> None:
    """Rows that ask again what an earlier one does, by their lines."""
    texts = [f"Question {n % 6}: what is it? " + "word " * 50 for n in range(10)]
    path = write(tmp_path / "in.jsonl", [{"prompt": text} for text in texts])
    said = found(run, configured, str(path))["duplicates"]
    assert said["lines"] == [7, 8, 9, 10]
    assert said["tokens"] == pytest.approx(sum(map(tokens, texts[6:])) + 4 * 7, rel=0.01)


def test_indented_json(run: Run, configured: dict[str, str], tmp_path: Path) -> None:
    """What its white space costs, and whose keys stand in another order."""
    values: list[dict[str, Any]] = [
        {"id": n, "name": f"n{n}", "items": [1, 2, 3]} for n in range(9)
    ]
    values[4] = dict(reversed(values[4].items()))
    texts = [json.dumps(value, indent=4) for value in values]
    path = write(tmp_path / "in.jsonl", [{"prompt": f"Sum up: {text}"} for text in texts])
    said = found(run, configured, str(path))
    compact = [json.dumps(value, separators=(",", ":")) for value in values]
    wanted = sum(map(tokens, texts)) - sum(map(tokens, compact))
    assert said["json"]["tokens"] == pytest.approx(wanted, rel=0.01)
    assert said["key order"]["lines"] == [5]


def test_a_date_before_constant_text(run: Run, configured: dict[str, str], tmp_path: Path) -> None:
    """It keeps the provider from keeping what stands behind it."""
    rows = [{"prompt": f"Now: 2026-11-0{n} 10:0{n}:00\n{RULES}Case {n}"} for n in range(1, 9)]
    path = write(tmp_path / "in.jsonl", rows)
    said = found(run, known(configured), str(path))["volatile"]
    assert said["lines"] == list(range(1, 9))
    wanted = tokens(RULES)
    assert said["usd"] == pytest.approx(wanted * 8 * 0.9 * 0.25 / 1e6, rel=0.01)


def test_constant_text_behind_variable_text(
    run: Run, configured: dict[str, str], tmp_path: Path
) -> None:
    """In front the provider would keep it; `--fix` puts it there, with every field."""
    path = write(tmp_path / "in.jsonl", [{"text": f"{n} cases"} for n in range(20)])
    template = f"Text: {{{{ text }}}}\n\n{RULES}"
    (tmp_path / "t.j2").write_text(template, encoding="utf-8")
    env = known(configured)
    said = found(run, env, str(path), "--template", "@t.j2")["order"]
    assert said["usd"] == pytest.approx(tokens(RULES) * 19 * 0.9 * 0.25 / 1e6, rel=0.01)
    done = run("prompt", "lint", str(path), "--template", "@t.j2", "--fix", "-o", "new.j2", env=env)
    assert done.returncode == 1, done.stderr
    fixed = (tmp_path / "new.j2").read_text(encoding="utf-8")
    assert fixed.startswith("Rule 0")
    assert tags(fixed) == tags(template)


def test_a_start_that_is_kept_is_named_with_batch_warm(
    run: Run, configured: dict[str, str], tmp_path: Path
) -> None:
    """And one that is too short with how far it is from that, with nothing to save."""
    env = known(configured)
    long = write(tmp_path / "a.jsonl", [{"prompt": f"{RULES}\nCase: {n}"} for n in range(9)])
    assert "batch --warm" in found(run, env, str(long))["prefix"]["what"]
    rules = RULES[:2000]
    short = write(tmp_path / "b.jsonl", [{"prompt": f"{rules}\nCase: {n}"} for n in range(9)])
    said = found(run, env, str(short))["prefix"]
    assert "short of the 1,024" in said["what"]
    assert not said["saves"]
    one = write(tmp_path / "c.jsonl", [{"prompt": f"{RULES}\nCase: 1"}])
    assert "prefix" not in found(run, env, str(one))


def test_the_fixed_template_goes_to_stdout(
    run: Run, configured: dict[str, str], tmp_path: Path
) -> None:
    """With the findings on stderr; `--per-day` says what it costs a day."""
    (tmp_path / "t.j2").write_text(POLITE, encoding="utf-8")
    done = run("prompt", "lint", "t.j2", "--fix", "--per-day", "1000", env=configured)
    assert done.returncode == 1
    assert tags(done.stdout) == ["{{ text }}"]
    assert "lease" not in done.stdout
    assert "a day" in done.stderr


def test_the_system_prompt_of_a_profile(run: Run, configured: dict[str, str]) -> None:
    """Without FILE; clean ones exit 0, a profile without one is refused."""
    assert run("prompt", "lint", env=configured).returncode == 2
    done = run("prompt", "lint", "-s", "Answer in one word.", env=configured)
    assert (done.returncode, "nothing found" in done.stdout) == (0, True)
    env = known(configured, "    system: Please answer in one word. Thank you!\n")
    done = run("prompt", "lint", "-p", "sim", env=env)
    assert done.returncode == 1
    assert "in the system prompt" in done.stdout


def test_rows_are_written_with_their_constant_text_shorter(
    run: Run, configured: dict[str, str], tmp_path: Path
) -> None:
    """What is a row's own stays as it is, and so does every other field."""
    rows = [
        {"id": f"r{n}", "prompt": f"Please classify it.\nText: please {n} {'ab'[n % 2]}", "n": n}
        for n in range(4)
    ]
    path = write(tmp_path / "in.jsonl", rows)
    done = run("prompt", "lint", str(path), "--fix", env=configured)
    made = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["id"] for row in made] == ["r0", "r1", "r2", "r3"]
    assert [row["n"] for row in made] == [0, 1, 2, 3]
    assert all(row["prompt"].startswith("Classify it.") for row in made)


def test_both_versions_are_asked_within_the_budget(
    run: Run, configured: dict[str, str], sim: Simulator, tmp_path: Path
) -> None:
    """Answers stand side by side with what they cost; a budget ends it with exit code 3."""

    def reply(call: Call) -> str:
        return f"{'polite' if 'lease' in call.prompt else 'short'} {call.prompt[-2:]}"

    sim.reply = reply
    path = write(tmp_path / "in.jsonl", [{"text": f"x{n}"} for n in range(9)])
    (tmp_path / "t.j2").write_text(POLITE.rstrip("\n"), encoding="utf-8")
    what = ("prompt", "lint", str(path), "--template", "@t.j2", "--try", "2", "--budget")
    done = run(*what, "1", "--json", env=configured)
    assert done.returncode == 1, done.stderr
    tried = json.loads(done.stdout)["tried"]
    assert [(one["now"]["text"], one["fixed"]["text"]) for one in tried] == [
        ("polite x0", "short x0"),
        ("polite x1", "short x1"),
    ]
    assert all(one["fixed"]["usd"] < one["now"]["usd"] for one in tried)
    assert sim.billed.requests == 4
    assert "polite x0" in run(*what, "1", env=configured).stdout
    assert sim.billed.requests == 4  # kept answers
    write(path, [{"text": "another"}])
    assert run(*what, "0.0000001", env=configured).returncode == 3
    assert sim.billed.requests == 4


@pytest.mark.parametrize(
    "arguments",
    [("t.j2", "--template", "x"), ("a.jsonl", "--try", "1"), ("t.j2", "-o", "x"), ("none.j2",)],
)
def test_what_makes_no_sense_is_refused(
    run: Run, configured: dict[str, str], tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    """With exit code 2, and what to do."""
    (tmp_path / "t.j2").write_text("x", encoding="utf-8")
    assert run("prompt", "lint", *arguments, env=configured).returncode == 2
