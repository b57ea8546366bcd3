"""Names of people and places, found by Presidio with a model of spaCy: the extra `ner`."""

from __future__ import annotations

import json
import re
from functools import partial
from pathlib import Path

import pytest

from tests.conftest import KEY, Run, configure, sent
from tests.simulator.server import Simulator

spacy = pytest.importorskip("spacy", reason="the extra `ner` is not installed")
pytest.importorskip("presidio_analyzer", reason="the extra `ner` is not installed")

MODEL = "en_test_sm"
PEOPLE, PLACES = ("Mary Poe", "Ann Lee"), ("Berlin",)


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of Python packages: a model of spaCy that knows three names, as `spacy package`
    makes one."""
    folder = tmp_path_factory.mktemp("packages")
    pipeline = spacy.blank("en")
    ruler = pipeline.add_pipe("entity_ruler")
    labels = [("PERSON", name) for name in PEOPLE] + [("GPE", name) for name in PLACES]
    ruler.add_patterns([{"label": label, "pattern": name} for label, name in labels])
    pipeline.meta["name"] = MODEL.removeprefix("en_")
    (folder / MODEL).mkdir()
    pipeline.to_disk(folder / MODEL / "model")
    (folder / MODEL / "__init__.py").write_text(
        "from pathlib import Path\n"
        "from spacy.util import load_model_from_path\n"
        "def load(**said):\n"
        "    return load_model_from_path(Path(__file__).parent / 'model', **said)\n"
    )
    facts = folder / f"{MODEL}-1.0.0.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {MODEL}\nVersion: 1.0.0\n")
    (facts / "entry_points.txt").write_text(f"[spacy_models]\n{MODEL} = {MODEL}\n")
    return folder


@pytest.fixture
def llmctl(run: Run, environ: dict[str, str], packages: Path) -> Run:
    """Run `llmctl` where the model is installed."""
    more = {"SIM_KEY": KEY, "LLMCTL_STORE_KEY": "0" * 64, "PYTHONPATH": str(packages)}
    return partial(run, env={**environ, **more})


def test_names_reach_the_provider_as_tokens(llmctl: Run, sim: Simulator, home: Path) -> None:
    """One for each name, the same one wherever it stands, and answers have the names again."""
    said = "{mask: [person, location, email]}"
    configure(home, sim.base_url, "{env: SIM_KEY}", f"    privacy: {said}\n")
    text = "Mary Poe wrote to Ann Lee from Berlin, and Mary Poe waits: m@a.example"
    done = llmctl("ask", text, "--no-history", "--json")
    assert done.returncode == 0, done.stderr
    asked = sent(sim)["messages"][0]["content"]
    assert not any(name in asked for name in (*PEOPLE, *PLACES, "m@a.example"))
    assert len(set(re.findall(r"\[?\w*PERSON\w*", asked))) == 2, asked
    answer = json.loads(done.stdout)
    assert answer["masked"] == {"person": 3, "location": 1, "email": 1}
    assert "Mary Poe wrote" in done.stdout


def test_scan_lists_names(llmctl: Run, tmp_path: Path) -> None:
    """Each with its line, exit 1; the name itself is not shown."""
    file = tmp_path / "a.txt"
    file.write_text("nothing\nhere is Ann Lee\n")
    done = llmctl("pii", "scan", str(file), "--kinds", "person")
    assert done.returncode == 1, done.stderr
    assert ":2" in done.stdout
    assert "person" in done.stdout
    assert "Ann Lee" not in done.stdout


def test_without_a_model_nothing_is_sent(
    run: Run, environ: dict[str, str], sim: Simulator, home: Path
) -> None:
    """Presidio alone would fetch one from the network: the command says how to install it."""
    configure(home, sim.base_url, "{env: SIM_KEY}", "    privacy: {mask: [person]}\n")
    done = run("ask", "I am Mary Poe", env={**environ, "SIM_KEY": KEY})
    assert (done.returncode, sim.calls) == (2, [])
    assert "spacy download" in done.stderr
