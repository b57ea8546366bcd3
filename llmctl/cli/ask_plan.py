"""What `ask --dry-run` shows: tokens, price and cache state of a call that is not made."""

from __future__ import annotations

from decimal import Decimal

from llmctl.batch.output import dollars as number
from llmctl.cli.context import Context
from llmctl.cli.render import dollars, write_stdout
from llmctl.errors import InvalidRequest
from llmctl.protocols import TokenCount
from llmctl.providers.models_api import count_tokens
from llmctl.runner import Runner
from llmctl.types import Request


async def exactly(request: Request, live: Runner) -> TokenCount:
    """The provider's own count. Raises `InvalidRequest` where it counts none, and the mapped
    `CallError`."""
    tokens = await count_tokens(live.endpoint, request)
    if tokens is None:
        where = request.target.provider
        raise InvalidRequest(f"{where} counts no tokens for others: leave --exact out", sent=False)
    return TokenCount(tokens, exact=True, encoding=f"counted by {request.target.provider}")


async def plan(
    request: Request,
    live: Runner,
    context: Context,
    exact: TokenCount | None,
    budget: Decimal | None,
) -> int:
    """Print what the call would take; 3 when that may be more than the budget. `exact` is the
    provider's own count, where it was asked for.

    Raises `InvalidRequest` for what the provider would not be sent.
    """
    live.endpoint.codec.encode(request, stream=False)
    counted = exact or live.counter.count(request)
    _, worst = await live.worst(request, counted)
    window = live.counter.context_window(request.target)
    kept = await live.cache.get(request.fingerprint) if request.cache_mode == "use" else None
    fits = budget is None or kept is not None or (worst is not None and worst <= budget)
    code = 0 if fits else 3
    if context.json:
        import orjson

        said = {
            "profile": request.target.profile,
            "model": request.target.model,
            "input_tokens": counted.tokens,
            "input_tokens_exact": counted.exact,
            "max_tokens": request.max_tokens,
            "context_window": window,
            "worst_case_usd": number(worst),
            "cached": kept is not None,
            "budget_usd": number(budget),
        }
        write_stdout(orjson.dumps(said).decode() + "\n")
        return code
    about = "" if counted.exact else "about "
    most = f"{request.max_tokens} out at most" if request.max_tokens else "output not limited"
    lines = [
        f"target   {request.target.profile}/{request.target.model}",
        f"tokens   {about}{counted.tokens} in ({counted.encoding}), {most}"
        + (f", window {window}" if window else ""),
        f"price    {dollars(worst)} at most",
        f"cache    {'hit: nothing would be sent' if kept else 'miss'}",
    ]
    if budget is not None:
        lines.append(f"budget   {dollars(budget)}: {'enough' if fits else 'NOT ENOUGH'}")
    write_stdout("\n".join(lines) + "\n")
    return code
