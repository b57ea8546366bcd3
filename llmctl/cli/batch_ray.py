"""`llmctl batch --engine ray`: what it needs, and the engine of a run on many nodes."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from decimal import Decimal
from typing import TYPE_CHECKING

from llmctl import __version__
from llmctl.cli.batch import BatchOptions
from llmctl.cli.context import Context, Selection
from llmctl.cli.options import BUDGET_FLAG
from llmctl.config.settings import Budget, Profile
from llmctl.errors import UsageError
from llmctl.runner import Runner, user_name
from llmctl.shutdown import Stop
from llmctl.storage.process import Process

if TYPE_CHECKING:
    from llmctl.cluster.ray_engine import RayEngine


def check_options(options: BatchOptions) -> None:
    """Raises `UsageError` for options that do not go together, `SetupError` without ray."""
    given = {"--address": options.address, "--nodes": options.nodes}
    if options.engine != "ray":
        if wrong := next((name for name, value in given.items() if value is not None), None):
            raise UsageError(f"{wrong} goes with --engine ray")
        return
    if options.warm:
        raise UsageError(
            "--warm sends one row before the others from one machine: leave one of --warm and "
            "--engine ray out"
        )
    from llmctl.cluster.joining import check_ray

    check_ray()


def check_profiles(selection: Selection, options: BatchOptions) -> None:
    """Raises `UsageError` for what cannot be answered on many nodes."""
    if options.engine != "ray":
        return
    if selection.settings.coordinator is not None:
        raise UsageError(
            "--engine ray shares limits and budgets by the ledger of this machine, not by the "
            "`coordinator:` of the configuration: leave one of them out"
        )
    for profile in (selection.profile, *selection.fallbacks, *selection.routed):
        if profile.cache.semantic is not None:
            raise UsageError(
                f"profile {profile.name} has a semantic cache, which looks into the answers of one "
                "machine: take `semantic:` out of its `cache:`, or leave --engine ray out"
            )
        if secret := _in_address(profile):
            raise UsageError(
                f"the address of profile {profile.name} holds what may be a key (query: {secret}), "
                "and no key is sent to a node: name it by `key:`, or leave --engine ray out"
            )


def _in_address(profile: Profile) -> str | None:
    """What in the profile's address may be a key, as the endpoint has it."""
    said = profile.query.items()
    found = (name for name, value in said if "version" not in name.lower() and len(value) >= 8)
    return next(found, None)


def cluster(options: BatchOptions, context: Context) -> AbstractContextManager[None]:
    """The cluster that the command works in; none with another engine."""
    if options.engine != "ray":
        return nullcontext()
    from llmctl.cluster.joining import joined

    if options.address is None:
        context.info("starting Ray on this machine …")
    return joined(options.address)


def engine(
    options: BatchOptions,
    live: Runner,
    context: Context,
    selection: Selection,
    budget: Decimal | None,
    stop: Stop,
) -> RayEngine:
    """The engine of this command."""
    from llmctl.cluster.messages import BudgetRule, Files, Setup
    from llmctl.cluster.ray_engine import RayEngine

    settings, profile, user = selection.settings, selection.profile, user_name()
    folders = settings.folders
    own = None if budget is None else BudgetRule.of(Budget(BUDGET_FLAG, budget, "month"))
    mine = [each for each in settings.budgets if each.match.get("user", user) == user]
    setup = Setup(
        version=__version__,
        run_id=live.run_id,
        user=user,
        profile=profile,
        fallbacks=selection.fallbacks,
        routed=selection.routed,
        own=own,
        budgets=tuple(map(BudgetRule.of, mine)),
        schema_retries=options.schema_retries,
        concurrency=profile.limits.concurrency,
    )
    files = Files(
        run_id=live.run_id,
        user=user,
        driver=Process.current(),
        ledger=folders.state / "ledger.db",
        limits=folders.state / "limits.db",
        cache=folders.cache / "cache.db" if profile.cache.enabled else None,
        size=settings.cache_size,
        encrypt=settings.encrypt,
    )
    return RayEngine(
        setup,
        files,
        live.budget,
        stop,
        context.clock,
        call_id=live.call_id,
        say=context.info,
        warn=context.warn,
        most=options.nodes,
    )
