"""Ends of models and what models can do: where it is from, and what is said of it."""

from __future__ import annotations

import re
from contextlib import AsyncExitStack
from datetime import UTC, date, datetime
from pathlib import Path

import pytest

from llmctl.config.load import load
from llmctl.guards.rate_limit import LocalLimits
from llmctl.pricing import Prices
from llmctl.providers.model_abilities import MODELS, ModelAbilities, needs_of
from llmctl.providers.model_ends import ENDS, ModelEnd, model_end
from llmctl.providers.regional_addresses import ADDRESSES, RegionalAddress
from llmctl.providers.registry import LOCAL, PRESETS
from llmctl.shutdown import Stop
from llmctl.tokens import Counter
from llmctl.types import Target
from llmctl.wiring import Surroundings, open_route
from tests.support import FakeClock

FOLDER = Path(__file__).parent.parent.parent
HOME = "https://api.openai.com/v1"


def test_every_row_has_a_source_and_dates() -> None:
    """A page, days that are days, a provider there is; no model stands there twice."""
    rows: tuple[ModelEnd | ModelAbilities | RegionalAddress, ...] = (*ENDS, *MODELS, *ADDRESSES)
    for row in rows:
        assert row.source.startswith("https://")
        assert date.fromisoformat(row.read) <= date(2026, 11, 30)
        assert row.provider in PRESETS
    assert all(date.fromisoformat(row.day) for row in ENDS)
    assert len({(row.provider, row.model) for row in ENDS}) == len(ENDS)
    assert len({(row.provider, row.model) for row in MODELS}) == len(MODELS)


def test_an_end_is_told_before_and_after() -> None:
    """With the day, what is recommended, and what to do; only of the provider's own address."""
    end = model_end("openai", HOME, "gpt-5-mini")
    assert end is not None
    before = end.sentence("p", date(2026, 12, 10))
    assert "gpt-5-mini will be shut down on 2026-12-11" in before
    assert "recommends gpt-6.1-terra" in before
    assert "was shut down on 2026-12-11" in end.sentence("p", date(2026, 12, 11))
    assert model_end("openai", "http://127.0.0.1:1/v1", "gpt-5-mini") is None
    assert model_end("openai", HOME, "gpt-6.1-sol") is None


@pytest.mark.parametrize("name", [name for name in PRESETS if name != LOCAL])
def test_a_built_in_model_does_not_end_and_has_a_price(name: str) -> None:
    """Nobody begins with a model whose end is known, or that a budget cannot count."""
    model = PRESETS[name].model
    assert model.rpartition("/")[2] not in {end.model for end in ENDS}
    address = PRESETS[name].address
    url = address("us-east-1", "p") if address else PRESETS[name].base_url
    now = datetime(2026, 11, 30, tzinfo=UTC).timestamp()
    target = Target(name, name, PRESETS[name].adapter, url, model)
    assert Prices().worst_case(target, None, 1000, 1000, now)


def test_no_model_that_ships_in_a_configuration_ends() -> None:
    """Neither the starter file's nor an example's."""
    paths = [FOLDER / "README.md", FOLDER / "llmctl/config/starter.yaml"]
    paths += FOLDER.glob("configs/**/*.yaml")
    ended = {end.model for end in ENDS}
    for path in paths:
        named = re.findall(r"model: ([\w./-]+)", path.read_text(encoding="utf-8"))
        assert not ended.intersection(name.rpartition("/")[2] for name in named)


@pytest.mark.parametrize(
    ("task", "needs"),
    [
        ("document analysis", (frozenset({"pdf"}), 128_000)),
        ("Images from a video", (frozenset({"vision", "video"}), 0)),
        ("extract JSON", (frozenset({"schema"}), 0)),
        ("poetry", None),
    ],
)
def test_words_of_a_task_stand_for_needs(task: str, needs: object) -> None:
    """All that are known; a task without such a word has none."""
    assert needs_of(task) == needs


@pytest.mark.parametrize(("model", "warned"), [("gpt-5-mini", 1), ("gpt-6.1-sol", 0)])
def test_opening_a_profile_warns_of_its_models_end(tmp_path: Path, model: str, warned: int) -> None:
    """Once, by the clock; nothing is sent."""
    environ, said = {"HOME": str(tmp_path), "OPENAI_API_KEY": "sk-canary"}, list[str]()
    path = tmp_path / "config.yaml"
    path.write_text(f"profiles: {{openai: {{model: {model}}}}}")
    found = load(environ=environ, cwd=tmp_path, config=path)
    clock = FakeClock(datetime(2026, 12, 12, tzinfo=UTC).timestamp())
    around = Surroundings(found.folders, environ, clock, said.append, said.append)

    async def work() -> None:
        async with AsyncExitStack() as stack:
            await open_route(
                found.profiles["openai"], around, stack, Counter(), LocalLimits(clock), Stop(),
                lambda: 0.0, lambda: None, patient=False, many=False,
            )  # fmt: skip

    clock.run(work())
    assert len(said) == warned
    assert all("gpt-5-mini was shut down on 2026-12-11" in text for text in said)
