"""`llmctl report`: the page of what was spent, to be looked at in a browser."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Option, Typer

from llmctl.cli.context import Context, load_settings
from llmctl.cli.cost import FromOption, SinceOption, TimezoneOption, ToOption
from llmctl.cli.options import command
from llmctl.cli.output import file_size, money, plural, print_json, print_lines, write_stdout
from llmctl.errors import UsageError

if TYPE_CHECKING:
    from llmctl.reports.page import PageData
    from llmctl.storage.ledger_queries import Reading

_FILE = Path("llmctl-report.html")
_STDOUT = Path("-")


app = Typer()


@command(app, "report", "config", "json")
def report(
    context: Context,
    output: Annotated[
        Path, Option("--output", "-o", metavar="FILE", help="The page; - is stdout.")
    ] = _FILE,
    ago: SinceOption = None,
    first: FromOption = None,
    last: ToOption = None,
    timezone: TimezoneOption = "UTC",
    show: Annotated[bool, Option("--open", help="Open it in the browser.")] = False,
    force: Annotated[
        bool, Option("--force", help="Replace a file that is no page of `llmctl report`, too.")
    ] = False,
) -> int:
    """Write one HTML page of what calls cost, and how they went.

    Spend today, this month with its projection and in the span; by day, model, profile, user and
    tag; savings, hit rate, latency and errors by day; budgets; the dearest and slowest calls. The
    page is whole: a browser fetches nothing for it, and it runs no script. It names models, users
    and tags, but holds no prompt and no answer. Its file is yours alone (0600); an earlier page
    is replaced.

    \b
    --json, when the file is written: {"file", "bytes", "from", "to", "calls",
    "cost_usd"}.

    \b
    Examples:
      llmctl report --open
      llmctl report --since 7d --timezone Europe/Berlin -o week.html
    """
    from llmctl.batch.output import dollars
    from llmctl.reports import page
    from llmctl.reports.periods import iso, span_of, zone_named
    from llmctl.storage.ledger import read_ledger

    zone, now = zone_named(timezone), round(context.clock.wall() * 1000)
    span = span_of(ago, first, last, now, zone)
    if output == _STDOUT and (show or context.json):
        raise UsageError("--open and --json need a file: `-o -` puts the page itself on stdout")
    if output != _STDOUT and not force:
        check_target(output)
    settings = load_settings(context)

    def read(ledger: Reading) -> PageData:
        return page.read(ledger, span, zone, now, settings.budgets)

    data = read_ledger(settings.folders.state / "ledger.db", read)
    text = page.html(data)
    if output == _STDOUT:
        write_stdout(text)
        return 0
    raw = text.encode()
    write_page(output, raw)
    total = data.report.total
    if context.json:
        print_json(
            {
                "file": str(output),
                "bytes": len(raw),
                "from": iso(span.start, zone),
                "to": iso(span.end - 1, zone),
                "calls": total.calls,
                "cost_usd": dollars(total.cost),
            }
        )
    else:
        if output.is_file():
            print_lines(str(output))
        spent = money(total.cost, total.unpriced)
        context.info(f"{plural(total.calls, 'call')}, {spent}; {file_size(len(raw))}")
    if show:
        _open(context, output)
    return 0


def check_target(path: Path) -> None:
    """Raises `UsageError` for a file with anything else in it than a page of ours."""
    from llmctl.reports.page import SIGN
    from llmctl.storage.files import disk

    if path.is_dir():
        raise UsageError(f"{path} is a folder; name a file in it, such as {path / _FILE}")
    if not path.is_file():
        return
    with disk("read", path), path.open("rb") as file:
        start = file.read(1024)
    if start and SIGN.encode() not in start:
        raise UsageError(f"{path} exists and is no page of `llmctl report`; --force replaces it")


def write_page(path: Path, raw: bytes) -> None:
    """Replace the file, or write into what is none, such as a pipe. Raises `DiskError`."""
    from llmctl.storage.files import disk, write_private

    if path.exists() and not path.is_file():
        with disk("write to", path):
            path.write_bytes(raw)
    else:
        write_private(path, raw)


def _open(context: Context, path: Path) -> None:
    """Show the file in the browser that $BROWSER or the system names."""
    import webbrowser

    if not webbrowser.open(path.resolve().as_uri()):
        context.warn(f"no browser was found here: open {path} yourself")
