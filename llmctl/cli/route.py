"""`llmctl route`: scorers that tell which questions need the strong model."""

from __future__ import annotations

from typing import Annotated

from msgspec import Struct
from typer import Argument, Option

from llmctl.cli.options import command_group

app = command_group("route", "Learn which questions need the strong model; what it saves.")


class ExampleOptions(Struct, frozen=True, kw_only=True):
    """Where examples come from, and what quality is wanted."""

    files: Annotated[list[str], Argument(metavar="FILE...", help="Verdicts, or the batch's INPUT.")]
    cheap: Annotated[
        str | None, Option(metavar="NAME", help="The cheap profile. Default: the route's.")
    ] = None
    weak: Annotated[str | None, Option(metavar="OUT", help="OUTPUT of the cheap profile.")] = None
    strong: Annotated[str | None, Option(metavar="OUT", help="OUTPUT of the strong one.")] = None
    labels: Annotated[
        str | None, Option(metavar="FILE", help="JSON lines of {id, weak, strong}, each 0 to 1.")
    ] = None
    expected: Annotated[
        str | None, Option(metavar="FIELD", help="Right: the answer ends in this field of INPUT.")
    ] = None
    matches: Annotated[
        str | None, Option(metavar="REGEX", help="Right: the regular expression is found in it.")
    ] = None
    check: Annotated[
        str | None,
        Option(metavar="COMMAND", help="Right: the program, with it on stdin, ends with 0."),
    ] = None
    quality: Annotated[
        float,
        Option(min=0.01, max=2, metavar="SHARE", help="Wanted, as a share of the strong model's."),
    ] = 0.95
    answers: Annotated[
        bool,
        Option("--answers", help="Score a question with the cheap answer to it: for a cascade."),
    ] = False


class TrainOptions(ExampleOptions, frozen=True, kw_only=True):
    """Train a scorer for `route:` from questions that both models have answered.

    The profile is the strong one (-p), the cheap one that of its `route:`, or --cheap. The scorer
    is a small file of weights; nothing is sent, and no library is needed. It holds for these two
    models: with others it is not used, and that is said. Hundreds of questions are few, thousands
    are good.

    \b
    FILE is JSON lines (.jsonl, .jsonl.gz) of verdicts:
      {prompt, weak_right, strong_right}, true or false; or weak_score and
      strong_score, 0 to 1; and, where known, weak_answer, weak_cost_usd,
      strong_cost_usd.
    Or it is the INPUT of two batches, whose outputs are --weak and --strong, and
    one of --labels, --expected, --matches and --check says which answers are right.

    \b
    Examples:
      llmctl batch in.jsonl -p small -o small.jsonl
      llmctl batch in.jsonl -p large -o large.jsonl
      llmctl route train in.jsonl --weak small.jsonl --strong large.jsonl \\
        --expected solution -p large --cheap small -o scorer.json
      llmctl route train verdicts.jsonl -p large -o scorer.json

    \b
    In the profile `large` then:
      route: {cheap: small, scorer: scorer.json}
      route: {cheap: small, cascade: {check: [refusal, {scorer: answers.json}]}}
    where answers.json is of `route train --answers`. A cascade checks an answer
    before its first piece is shown; rules and scorers stream at once.
    """

    output: Annotated[
        str, Option("--output", "-o", metavar="SCORER", help="The file to write, JSON.")
    ]


class EvalOptions(ExampleOptions, frozen=True, kw_only=True):
    """Show quality against cost, and the threshold for a wanted quality.

    FILE and the options are as in `llmctl route train`. Without --scorer every part of FILE is
    scored by what the others teach; with it FILE must be questions that it was not trained on.
    Costs are those of the outputs, or else of the profiles' prices, with answers as long as the
    ledger knows them. APGR is the part of the gap between the models that is recovered, over all
    shares of strong calls: 0.5 by chance, 1 at best.

    \b
    --json, one object:
      questions, cheap, strong (models), apgr
      cheap_quality, strong_quality, cheap_cost_usd, strong_cost_usd
      points    [{threshold, strong_share, quality, cost_usd}]
      chosen    {threshold, strong_share, quality, cost_usd, saving}; null where
                no threshold has the wanted quality
    """

    scorer: Annotated[
        str | None,
        Option(metavar="FILE", help="Use this scorer. Default: learn from parts of FILE."),
    ] = None
