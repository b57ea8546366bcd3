"""`llmctl serve`: the gateway."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

from msgspec import Struct
from typer import Option

from llmctl.cli.context import Context, load_settings
from llmctl.errors import SetupError

_NEEDS = ("uvicorn", "httptools", "starlette", "jwt", "prometheus_client")


class ServeOptions(Struct, frozen=True):
    """Serve calls of other programs: a gateway.

    It speaks the languages of OpenAI's and Anthropic's SDKs, whatever the provider speaks.

    Callers' calls go by the same budgets, limits, cache and ledger as your own, and no provider's
    key leaves this machine. On loopback, and without tokens, only you are served; elsewhere
    callers need a token (`llmctl tokens create`), a JWT, or one that an OAuth server knows. What
    callers may do is in the configuration, under `serve:`; it is read again when its file
    changes, and on SIGHUP. SIGTERM lets calls finish.

    The rules of where data may go (`llmctl profiles list -h`) bind all callers; a call asks for
    more by the headers x-llmctl-data-class, -region, -retention and -agreement.

    \b
    Example:
      llmctl serve --port 8400
      OPENAI_BASE_URL=http://127.0.0.1:8400/v1 OPENAI_API_KEY=none python app.py
    """

    host: Annotated[
        str | None, Option(metavar="ADDRESS", help="Where to listen. Default: 127.0.0.1.")
    ] = None
    port: Annotated[
        int | None,
        Option(min=0, max=65535, metavar="N", help="Default: 8400. 0: any that is free."),
    ] = None
    workers: Annotated[
        int | None, Option(min=1, max=256, metavar="N", help="Processes. Default: 1.")
    ] = None
    tls_cert: Annotated[
        Path | None, Option(metavar="FILE", help="Certificate with its chain, PEM.")
    ] = None
    tls_key: Annotated[Path | None, Option(metavar="FILE", help="Its private key, PEM.")] = None


def run(options: ServeOptions, context: Context) -> int:
    """Serve until a signal ends it; gives the exit code."""
    if missing := [name for name in _NEEDS if find_spec(name) is None]:
        raise SetupError(
            f"`llmctl serve` needs what is not installed ({', '.join(missing)}): install llmctl "
            "with its extra `serve`, from its checkout with `pip install '.[serve]'`"
        )
    load_settings(context)  # a terminal is asked to trust a project's file: later nobody is
    from llmctl.gateway.server import serve
    from llmctl.gateway.server_options import ServerOptions

    return serve(
        ServerOptions(
            environ=dict(context.environ),
            cwd=context.cwd(),
            config=context.config,
            host=options.host,
            port=options.port,
            workers=options.workers,
            tls_cert=options.tls_cert,
            tls_key=options.tls_key,
            calls=context.verbose > 0,
            json=context.json,
        )
    )
