"""Use case `batch --dry-run`: the plan of a job, counted and priced, on stdout."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from decimal import Decimal
from functools import partial
from statistics import fmean
from typing import Any

from msgspec.structs import replace

from llmctl import pricing
from llmctl.batch.job import Job, open_batch
from llmctl.batch.output import check_output, default_output, dollars
from llmctl.batch.plan import AverageCall, Cost, Plan, PlanInputs, PlanRoute, plan
from llmctl.batch.semantic_check import require_known_fields
from llmctl.cli import batch_warm
from llmctl.cli.context import Context, Selection
from llmctl.cli.options import budget_windows
from llmctl.cli.output import duration, money, plural, print_json, print_lines
from llmctl.config.settings import Budget
from llmctl.guards.data_place import first_place
from llmctl.guards.routing import open_router
from llmctl.pricing import HOW_TO_SET, Prices
from llmctl.providers.registry import codec
from llmctl.runner import user_name
from llmctl.storage.answer_cache import CachePeek
from llmctl.storage.batch_jobs import BatchJobsPeek
from llmctl.storage.cipher import StoreCipher
from llmctl.storage.ledger_queries import LedgerPeek
from llmctl.storage.ledger_rows import CallKind, matches, tags_as_json
from llmctl.tokens import Counter
from llmctl.types import Masked


def dry_run(
    job: Job,
    budget: Decimal | None,
    selection: Selection,
    context: Context,
    *,
    in_batch: bool,
    warm: bool = False,
) -> int:
    """Print the plan; 3 when its worst case is above the run's own budget, or what is left of one
    that the configuration has for such calls, or not known under one. `in_batch`: the rows are to
    go into the provider's batches, at their price. `warm`: what `--warm` would do, too. Raises
    `DataRefused` where no row may be sent.
    """
    budgets, folders = selection.settings.budgets, selection.settings.folders
    job = _without_summaries(job) if in_batch else job
    profiles = (job.profile, *(() if in_batch else selection.fallbacks))
    now = context.clock.wall()
    prices = Prices(partial(pricing.load, folders.state, context.warn))
    cipher = StoreCipher(context.environ, on=selection.settings.encrypt).writing
    cache = CachePeek(folders.cache / "cache.db", job.profile.cache.ttl, now, cipher)
    ledger = LedgerPeek(folders.state / "ledger.db")

    def average(profile: str, model: str) -> AverageCall | None:
        found = ledger.recent(profile, model)
        if not found:
            return None
        output = Decimal(sum(tokens for tokens, _ in found)) / len(found)
        return AverageCall(output, fmean(ms for _, ms in found) / 1000, len(found))

    with open_batch(job, dry_run=True) as batch, cache, ledger:
        require_known_fields(batch, (*profiles, *selection.routed), in_batch=in_batch)
        left = {} if budget is None else {"": budget}
        left |= _left(job, budgets, ledger, now)
        counter = Counter(prices.window, codec)
        inputs = PlanInputs(
            counter=counter,
            prices=prices,
            codec=codec(job.profile.adapter, job.profile.api),
            cached=cache.has,
            average=average,
            now=now,
            default_limit=job.profile.default_max_tokens if left else None,
            place=lambda asked: first_place(
                profiles, asked.tags, asked.target.model, in_batch=in_batch
            ),
            route=None if in_batch else _route(selection, counter, context),
        )
        made = plan(batch, inputs)
        asked = (batch, selection, context, inputs.counter, prices)
        found = batch_warm.plan_warmups(*asked) if warm else None
    if made.refused:
        first_place(profiles, {}, in_batch=in_batch)
    path = check_output(job.input, job.output or default_output(job.input))
    with BatchJobsPeek(folders.state / "ledger.db") as peek:
        open_jobs = [] if path is None else peek.jobs(str(path), open_only=True)
    under_way = sum(one.rows for one in open_jobs)
    worst = (made.batch if in_batch else made.cost).worst
    least = min(left.values(), default=None)
    fits = least is None or (worst is not None and worst <= least)
    code = 0 if fits else 3
    if context.json:
        print_json({**_as_json(made, least, code), **batch_warm.plan_json(found)}, compact=True)
    else:
        print_lines(*_lines(made, job, held=bool(left), in_batch=in_batch))
        print_lines(*batch_warm.plan_lines(found))
        for name, amount in left.items():
            enough = worst is not None and worst <= amount
            what = f"{money(amount)}{f' left of {name}' if name else ''}"
            print_lines(f"budget            {what}: {'enough' if enough else 'NOT ENOUGH'}")
        print_lines("nothing was sent, nothing was written")
    if under_way:
        context.info(
            f"in batches of the provider: {plural(under_way, 'row')} of OUTPUT, which the plan "
            "counts and a run does not send again (llmctl batch --status)"
        )
    if not fits and worst is None and in_batch and made.cost.worst is not None:
        context.info(
            f"what batches of {job.profile.model} cost is not published, so it cannot be held to a "
            "budget: leave --engine provider out"
        )
    elif not fits and worst is None:
        context.info(
            f"the worst case is not known (price or output limit of {', '.join(made.unpriced)}), "
            "so it cannot be held to a budget: give max_tokens, or set `price:` in the "
            f"profile, {HOW_TO_SET}"
        )
    elif not fits:
        context.info(f"the worst case, {money(worst)}, is above the budget of {money(least)}")
    return code


def _route(selection: Selection, counter: Counter, context: Context) -> PlanRoute | None:
    """The route that rows take; None where the profile has none."""
    profile, routed = selection.profile, selection.routed
    opened = open_router(profile, routed, counter, context.environ, context.warn)
    if opened is None:
        return None
    cascade = opened.router.settings.cascade
    samples = max([check.agree or 1 for check in cascade.check] if cascade else [1])
    return PlanRoute(opened.router, {one.name: one for one in routed}, samples)


def _left(
    job: Job, budgets: Sequence[Budget], ledger: LedgerPeek, now: float
) -> dict[str, Decimal]:
    """US dollars that are left of the budgets which the profile's calls count towards, by name."""
    profile, user = job.profile, user_name()
    tags = tags_as_json(profile.tags)
    kind = CallKind(profile.name, profile.provider, profile.model, profile.model, user, tags)
    left: dict[str, Decimal] = {}
    for window in budget_windows(None, budgets, "", user)(now):
        if matches(window.match, kind):
            used = ledger.usage(window)
            rest = window.limit - (used.spent + used.held if used else 0)
            left[window.name] = max(rest, Decimal(0))  # what costs nothing fits into nothing
    return left


def _as_json(made: Plan, budget: Decimal | None, code: int) -> dict[str, Any]:
    """The plan for a script; amounts are exact, None is unknown."""

    def usd(cost: Cost) -> dict[str, Any]:
        return {"worst_case_usd": dollars(cost.worst), "expected_usd": dollars(cost.expected)}

    counts = ("rows", "answered", "cached", "duplicates", "over_context", "refused", "to_send")
    return {
        **{name: getattr(made, name) for name in counts},
        "input_tokens": made.input_tokens,
        "input_tokens_exact": made.exact,
        "max_output_tokens": made.max_output_tokens,
        "expected_output_tokens": made.expected_output_tokens,
        **usd(made.cost),
        "unpriced_rows": sum(made.unpriced.values()),
        "provider_batch": usd(made.batch),
        "expected_from_calls": made.seen,
        "time_s": None if made.seconds is None else round(made.seconds, 1),
        "time_bound_by": made.bound_by,
        "budget_usd": dollars(budget),
        "exit_code": code,
        **({"masked": dict(made.masked)} if made.masked else {}),
        **(
            {"summarised": {"rows": made.summarised, **usd(made.summaries)}}
            if made.summarised
            else {}
        ),
        **({"routed": _routed_json(made, usd)} if made.routed else {}),
    }


def _routed_json(made: Plan, usd: Callable[[Cost], dict[str, Any]]) -> dict[str, Any]:
    shares: dict[str, dict[str, int]] = {}
    for (name, by), number in sorted(made.routed.items()):
        shares.setdefault(name, {})[by] = number
    return {
        "to": shares,
        "checked": made.checked,
        "all_cheap": usd(made.cheap),
        "all_strong": usd(made.strong),
    }


def _unlimited(made: Plan, job: Job, *, held: bool) -> list[str]:
    """What becomes of rows whose answers nothing limits."""
    if not made.unlimited:
        return []
    effect = "an answer may fill the model's window; set `params: {max_tokens: …}`"
    if held:
        effect = f"under a budget an answer gets at most {job.profile.default_max_tokens:,}; set "
        effect += "max_tokens or default_max_tokens"
    return [f"no max_tokens in {plural(made.unlimited, 'row')}: {effect} in the profile"]


def _routes(made: Plan, job: Job, usd: Callable[[Cost], str]) -> list[str]:
    """Where rows go, by what, and what it would cost if all went to one."""
    if not made.routed:
        return []
    rows = sum(made.routed.values())
    sent = [
        f"  to {name:<13}{number:,} ({number / rows:.0%}) by {by}"
        for (name, by), number in sorted(made.routed.items())
    ]
    checked = f"  checked         {made.checked:,}: an answer that fails is asked of "
    checked += f"{job.profile.name}, too, which is not expected"
    return [
        f"  all cheap       {usd(made.cheap)}",
        f"  all strong      {usd(made.strong)}",
        f"routed            {plural(rows, 'row')}",
        *sent,
        *([checked] if made.checked else []),
    ]


def _without_summaries(job: Job) -> Job:
    """The job as the provider's batches take it, whose rows are not summarised."""
    return replace(job, profile=replace(job.profile, summariser=None))


def _summaries(made: Plan, job: Job) -> list[str]:
    """What it takes to make rows fit that are too long."""
    if not made.summarised or job.profile.summariser is None:
        return []
    about = f"about {money(made.summaries.expected)}, by {job.profile.summariser.name}; at most "
    return [f"summaries         {about}{money(made.summaries.worst)} a round; in the cost"]


def _lines(made: Plan, job: Job, *, held: bool, in_batch: bool) -> list[str]:
    """The plan for a person."""

    def usd(cost: Cost) -> str:
        return f"at most {money(cost.worst)}, expected {money(cost.expected)}"

    target = f"{job.profile.name}/{job.profile.model}"
    counts = [
        ("rows", made.rows, ""),
        ("  answered before", made.answered, ""),
        ("  cached", made.cached, "free"),
        ("  duplicates", made.duplicates, "answered by an identical row"),
        ("  too long", made.over_context, "over the context window: fail unsent"),
        ("  refused", made.refused, "not for this provider: fail unsent"),
        ("  to send", made.to_send, ""),
        ("  too long", made.summarised, "of these: summarised first"),
    ]
    width = max(len(f"{count:,}") for _, count, _ in counts)
    found = [f"plan: {job.input} → {job.output or default_output(job.input)}, {target}", ""]
    for name, count, note in counts:
        if count or name in {"rows", "  to send"}:
            found.append(f"{name:<18}{count:>{width},}  {note}".rstrip())
    for message, index in list(made.errors.items())[:3]:
        found.append(f"    row {index}: {message}")
    about = "" if made.exact else "about "
    most = "?" if made.max_output_tokens is None else f"{made.max_output_tokens:,}"
    basis = (
        f"from {plural(made.seen, 'earlier call')}" if made.seen else "assumed: no earlier calls"
    )
    time = f"about {duration(made.seconds or 0)}, bound by {made.bound_by}"
    if in_batch and made.to_send:
        time = "as the provider likes, most often within a day"
    elif made.seconds is None:
        time = "unknown: no limit is set and no earlier call is known"
    elif made.bound_by is None:
        time = "none"
    identifiers = [f"identifiers       {Masked(made.masked).said}"] if made.masked else []
    found += [
        "",
        *identifiers,
        f"tokens in         {about}{made.input_tokens:,}",
        f"tokens out        at most {most}, expected {made.expected_output_tokens:,} ({basis})",
        f"cost              {usd(made.cost)}",
        *_routes(made, job, usd),
        f"provider's batch  {usd(made.batch)}",
        f"time              {time}",
    ]
    found += _summaries(made, job)
    if made.duplicates:
        found.append("at most: duplicates included, for an answer that is cut off is not kept")
    found += _unlimited(made, job, held=held)
    if made.unpriced:
        named = ", ".join(f"{m} ({plural(n, 'row')})" for m, n in made.unpriced.items())
        found.append(f"worst case unknown, $?: {named}")
    return found
