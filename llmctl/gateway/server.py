"""The server: its address, and the processes that answer there."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection
from functools import partial

import orjson

from llmctl.config.settings import Settings
from llmctl.gateway.listener import bind, is_loopback, tls_context
from llmctl.gateway.log import log
from llmctl.gateway.opening import check_reachable, has_authentication
from llmctl.gateway.server_options import ServerOptions
from llmctl.gateway.supervisor import Supervisor
from llmctl.gateway.worker import Worker


def serve(options: ServerOptions) -> int:
    """Answer requests until a signal ends it; gives the exit code.

    SIGTERM and SIGINT let calls in flight finish (`shutdown.DRAIN` seconds), a second SIGINT gives
    them up (130). SIGHUP and changed files have the configuration read again. Raises `ConfigError`,
    `UsageError` where the address cannot be had or must not be, and what opening raises.
    """
    settings = options.settings()
    tls_context(settings.serve.tls)
    with bind(settings.serve) as listener:
        check_reachable(settings, loopback=is_loopback(listener))
        announce = partial(_announce, settings, _url(settings, listener.getsockname()), options)
        run: Callable[[Callable[[Collection[str]], None]], int]
        if settings.serve.workers == 1:
            run = Worker(options, listener, settings).run
        else:
            run = Supervisor(options, listener, settings.serve.workers).run
        return run(announce)


def _url(settings: Settings, address: tuple[str, int]) -> str:
    host, port = address[:2]
    scheme = "http" if settings.serve.tls is None else "https"
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}"


def _announce(
    settings: Settings, url: str, options: ServerOptions, models: Collection[str]
) -> None:
    """Say where requests are answered, for what models, and whose."""
    serve = settings.serve
    who = "loopback, this user only"
    if has_authentication(settings):
        others = {"JWT": serve.jwt, "introspection": serve.introspection}
        who = ", ".join(["tokens", *(name for name, one in others.items() if one is not None)])
    log(f"llmctl gateway on {url} (models {', '.join(models) or 'none'}; {who})")
    if options.json:
        said = orjson.dumps({"url": url, "models": [*models]}).decode()
        sys.stdout.write(f"{said}\n")
        sys.stdout.flush()
