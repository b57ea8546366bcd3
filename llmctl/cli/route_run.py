"""Use cases of `llmctl route`: train a scorer, and show quality against cost."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from llmctl.cli.context import Context, load_settings
from llmctl.cli.output import is_tty, print_json, print_lines, say
from llmctl.cli.route import EvalOptions, ExampleOptions, TrainOptions
from llmctl.cli.route_data import Pair, read_examples
from llmctl.config.load import Overrides
from llmctl.config.yaml_nodes import nearest, quoted
from llmctl.errors import ConfigError, InputError, UsageError
from llmctl.routing.calibration import (
    LEAST,
    Example,
    cheapest,
    curve_of,
    held_back,
    learned,
    threshold_of,
)
from llmctl.routing.curve import Curve, Point
from llmctl.routing.scorer_file import ScorerFile, read_scorer, write_scorer
from llmctl.storage.files import disk, replacing

_POINTS = 20  # lines of the curve
_BAR = 20  # characters of a full bar


def run_train(options: TrainOptions, context: Context) -> int:
    """Train, hold back to see how good it is, and write the file. Raises `LlmctlError`."""
    _check_output(options)
    pair, examples = _read(options, context)
    scores = held_back(examples, answers=options.answers, step=_steps(context))
    found = curve_of(examples, scores, answers=options.answers)
    chosen = cheapest(found, options.quality)
    if chosen is None:
        raise InputError(
            f"no threshold has {options.quality:.0%} of the strong model's quality in these "
            "questions: lower --quality"
        )
    made = ScorerFile(
        weak=pair.weak.model,
        strong=pair.strong.model,
        made=datetime.fromtimestamp(context.clock.wall(), UTC).date().isoformat(),
        rows=len(examples),
        answers=options.answers,
        apgr=None if found.apgr is None else round(found.apgr, 4),
        threshold=threshold_of(chosen),
        scorer=learned(examples, answers=options.answers),
    )
    path = Path(options.output)
    with disk("write", path), replacing(path, mode=0o644) as file:
        file.write(write_scorer(made))
    if context.json:
        print_json({"scorer": options.output, **_as_json(found, chosen, examples, pair)})
        return 0
    print_lines(
        *_head(found, examples, pair),
        *_chosen(found, chosen, options.quality),
        f"written   {options.output}, learned from all {len(examples):,}",
    )
    if (found.apgr or 0.0) < 0.55:
        context.warn(
            "the scorer is little better than chance (0.5): more questions may help, or a cascade"
        )
    return 0


def run_eval(options: EvalOptions, context: Context) -> int:
    """Print the curve. Raises `LlmctlError`."""
    pair, examples = _read(options, context)
    if options.scorer is None:
        scores = held_back(examples, answers=options.answers, step=_steps(context))
    else:
        used = read_scorer(Path(options.scorer), answers=options.answers)
        if why := used.void(pair.weak.model, pair.strong.model):
            context.warn(f"a run would not use {options.scorer}: {why}")
        scores = [used.score(one.question, one.answer or "") for one in examples]
    found = curve_of(examples, scores, answers=options.answers)
    chosen = cheapest(found, options.quality)
    if context.json:
        print_json(_as_json(found, chosen, examples, pair))
        return 0
    how = "held back in turn" if options.scorer is None else f"scored by {options.scorer}"
    print_lines(*_head(found, examples, pair), f"scores    {how}", "", *_table(found), "")
    print_lines(*_chosen(found, chosen, options.quality))
    return 0


def _check_output(options: TrainOptions) -> None:
    path = Path(options.output)
    if options.output in {"", "-"} or path.is_dir():
        raise UsageError("-o names the file to write, such as scorer.json")
    inputs = [*options.files, options.weak, options.strong, options.labels]
    if any(name and Path(name).resolve() == path.resolve() for name in inputs):
        raise UsageError(f"-o {options.output} would overwrite what is read: name another file")


def _read(sources: ExampleOptions, context: Context) -> tuple[Pair, list[Example]]:
    settings = load_settings(context, Overrides(profile=context.profile))
    strong = settings.profiles.get(settings.used)
    if strong is None:
        hint = nearest(settings.used, settings.profiles)
        raise ConfigError(f"there is no profile {quoted(settings.used)}; {hint}")
    name = sources.cheap or (None if strong.route is None else strong.route.cheap)
    if name is None:
        raise UsageError(
            f"the profile {strong.name} has no `route:`: name the cheap profile by --cheap, and "
            "the strong one by -p"
        )
    if name not in settings.profiles:
        hint = nearest(name, settings.profiles)
        raise UsageError(f"--cheap: there is no profile {quoted(name)}; {hint}")
    pair = Pair(settings.profiles[name], strong)
    if name == strong.name:
        raise UsageError(f"--cheap is the strong profile, {name}: name the strong one by -p")
    examples = read_examples(sources, pair, settings.folders, context)
    if len(examples) < LEAST:
        raise InputError(
            f"there are {len(examples)} questions that both models have answered: at least "
            f"{LEAST} are needed, and hundreds to learn something"
        )
    if sources.answers and not any(one.answer for one in examples):
        raise InputError("--answers needs the cheap model's answers: `weak_answer`, or --weak")
    return pair, examples


def _steps(context: Context) -> Callable[[int, int], None]:
    def step(done: int, of: int) -> None:
        if is_tty(sys.stderr) and not context.quiet:
            say(f"learned {done} of {of} parts", dim=True)

    return step


def _head(found: Curve, examples: Sequence[Example], pair: Pair) -> list[str]:
    low, high = found.points[0], found.points[-1]
    apgr = "no gap" if found.apgr is None else f"APGR {found.apgr:.3f} (0.5 by chance)"
    return [
        f"route     {pair.weak.name}/{pair.weak.model} → {pair.strong.name}/{pair.strong.model}",
        f"questions {len(examples):,}: quality {low.quality:.3f} → {high.quality:.3f}, {apgr}",
    ]


def _table(found: Curve) -> list[str]:
    """The curve in lines of at most 80 columns, the bar is the quality between both models."""
    low, high = found.points[0].quality, found.points[-1].quality
    lines = [
        f"{'threshold':>10}{'strong':>8}{'quality':>9}{'cost':>12}{'saving':>8}  gap recovered"
    ]
    for point in _some(found.points):
        part = (point.quality - low) / (high - low) if high > low else 0.0
        filled = "█" * round(max(0.0, min(1.0, part)) * _BAR)
        lines.append(
            f"{threshold_of(point):>10.3f}{point.share:>8.0%}{point.quality:>9.3f}"
            f"{_usd(point.cost):>12}{_saving(found, point):>8}  {filled} {part:.0%}"
        )
    return lines


def _some(points: Sequence[Point]) -> list[Point]:
    """As many points as the table has lines, evenly over the shares."""
    wanted = [number / (_POINTS - 1) for number in range(_POINTS)]
    near = [min(points, key=lambda one, at=at: abs(one.share - at)) for at in wanted]  # type: ignore[misc]
    return list(dict.fromkeys(near))


def _chosen(found: Curve, chosen: Point | None, quality: float) -> list[str]:
    if chosen is None:
        return [f"chosen    none: no threshold has {quality:.0%} of the strong quality"]
    cost = f"{_usd(chosen.cost)} instead of {_usd(_alone(found))}, {_saving(found, chosen)} saved"
    return [
        f"chosen    threshold {threshold_of(chosen):g}, for {quality:.0%} of the strong quality:",
        f"          {chosen.share:.0%} strong calls, quality {chosen.quality:.3f}, {cost}",
    ]


def _saving(found: Curve, point: Point) -> str:
    share = _saved(found, point)
    return "?" if share is None else f"{share:.0%}"


def _saved(found: Curve, point: Point) -> float | None:
    """What is saved against the strong model alone, as a share; None where costs are unknown."""
    alone = _alone(found)
    return None if alone <= 0 else 1 - point.cost / alone


def _alone(found: Curve) -> float:
    """What the strong model alone costs."""
    return found.points[-1].cost - found.weak_first


def _usd(cost: float) -> str:
    return f"${cost:,.4f}" if cost < 1 else f"${cost:,.2f}"


def _as_json(
    found: Curve, chosen: Point | None, examples: Sequence[Example], pair: Pair
) -> dict[str, Any]:
    low, high = found.points[0], found.points[-1]

    def point(one: Point) -> dict[str, Any]:
        return {
            "threshold": threshold_of(one),
            "strong_share": round(one.share, 6),
            "quality": round(one.quality, 6),
            "cost_usd": round(one.cost, 9),
        }

    saving = None if chosen is None else _saved(found, chosen)
    return {
        "questions": len(examples),
        "cheap": pair.weak.model,
        "strong": pair.strong.model,
        "apgr": None if found.apgr is None else round(found.apgr, 4),
        "cheap_quality": round(low.quality, 6),
        "strong_quality": round(high.quality, 6),
        "cheap_cost_usd": round(low.cost, 9),
        "strong_cost_usd": round(_alone(found), 9),
        "points": [point(one) for one in _some(found.points)],
        "chosen": None if chosen is None else {**point(chosen), "saving": saving},
    }
