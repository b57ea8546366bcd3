"""Fetching the published prices: the one thing about prices that uses the network."""

from __future__ import annotations

from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from urllib.parse import urlsplit

from llmctl.clock import Clock
from llmctl.errors import BadResponse, CallTimeout, ConfigError, ConnectionFailed, ServerFailed
from llmctl.http import HttpClient, build
from llmctl.pricing import (
    FILE,
    Origin,
    PriceCatalogue,
    UnfitError,
    check_fit,
    encode_stored,
    parse,
)
from llmctl.storage.files import private_folder, write_private

_LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})


def default_source() -> str:
    """Where the installed genai-prices says its data is published."""
    from genai_prices.update_prices import DEFAULT_UPDATE_URL

    return DEFAULT_UPDATE_URL


async def update(state: Path, source: str, used: PriceCatalogue, clock: Clock) -> PriceCatalogue:
    """Fetch the data, see that it is fit to replace what is `used`, and store it, at once or not
    at all.

    Raises the HTTP client's `CallError`s, `ServerFailed` for another answer than the data,
    `BadResponse` for data that is not fit, `ConfigError` for an address that is not https,
    `DiskError`. In each case what is stored stays.
    """
    parts = urlsplit(source)
    if parts.scheme != "https" and (parts.scheme != "http" or parts.hostname not in _LOOPBACK):
        raise ConfigError(f"LLMCTL_PRICES_URL must begin with https://, not {source!r}")
    try:
        payload = await _fetch(source)
    except (ConnectionFailed, CallTimeout) as error:
        reason = error.message.partition(";")[0]  # the rest is about providers
        raise type(error)(
            f"the prices were not updated, because of the network: {reason}; those of "
            f"{_dated(used.origin)} stay in use; try again later, or name another source in "
            "LLMCTL_PRICES_URL"
        ) from error
    try:
        data = parse(payload)
        check_fit(data, used.data)
    except UnfitError as error:
        raise BadResponse(
            f"the data at {source} was not taken: {error}; the prices of {_dated(used.origin)} "
            "stay in use",
            retryable=False,
        ) from error
    origin = Origin(source, version("genai-prices"), clock.wall())
    private_folder(state)
    write_private(state / FILE, encode_stored(payload, origin))
    return PriceCatalogue(data, origin)


def _dated(origin: Origin) -> str:
    """The source of prices, with the day on which they were fetched from there."""
    day = "" if origin.fetched is None else f" ({datetime.fromtimestamp(origin.fetched, UTC):%F})"
    return f"{origin.source}{day}"


async def _fetch(source: str) -> bytes:
    client = HttpClient()
    request = build("GET", source, {"accept": "application/json"})
    try:
        async with client.send(request, connect=10, first_byte=30, total=120) as reply:
            if reply.status != 200:
                raise ServerFailed(
                    f"{source} answered with HTTP {reply.status}, not with prices; those known "
                    "stay in use",
                    http_status=reply.status,
                    retryable=False,
                )
            return await reply.read()
    finally:
        await client.close()
