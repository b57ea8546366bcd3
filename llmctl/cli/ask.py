"""`llmctl ask`: one prompt, streamed."""

# Without `from __future__ import annotations`: typer evaluates annotations that are text several
# times over, which takes longer than all else it does with this command.

import sys
from collections.abc import Sequence
from decimal import Decimal
from typing import Annotated, Any

import typer
from msgspec import Struct, field

from llmctl.cli.context import Context, finish
from llmctl.cli.options import (
    ConfigOption,
    JsonOption,
    ModelOption,
    NoCacheOption,
    ProfileOption,
    QuietOption,
    RefreshOption,
    SchemaOption,
    SystemOption,
    TagOption,
    VerboseOption,
    cache_mode,
    pairs,
    parse_dollars,
    read_schema,
)
from llmctl.errors import InputError, UsageError
from llmctl.types import JSON, CacheMode


class AskOptions(Struct, frozen=True):
    """What `ask` was told; None: the profile decides. `stream` None: when stdout is a TTY."""

    prompt: str | None = None
    system: str | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    options: dict[str, Any] = field(default_factory=dict)
    attach: tuple[str, ...] = ()
    schema: JSON | None = None
    stream: bool | None = None
    markdown: bool = False
    resume: bool = False
    history: bool = True
    tags: dict[str, str] = field(default_factory=dict)
    cache_mode: CacheMode = "use"
    dry_run: bool = False
    exact: bool = False
    usage: bool = False
    budget: Decimal | None = None


def command(
    prompt: Annotated[
        str | None,
        typer.Argument(help="The prompt. Text on stdin goes before it.", show_default=False),
    ] = None,
    profile: ProfileOption = None,
    model: ModelOption = None,
    system: SystemOption = None,
    attach: Annotated[
        list[str] | None,
        typer.Option(
            "--attach",
            "-a",
            metavar="FILE|URL",
            help="Attach a text (inlined), image, PDF or audio file; an https URL of an image or "
            "PDF is passed on. Repeatable.",
        ),
    ] = None,
    schema: SchemaOption = None,
    max_tokens: Annotated[
        int | None,
        typer.Option("--max-tokens", min=1, metavar="N", help="Longest answer, in tokens."),
    ] = None,
    temperature: Annotated[
        float | None,
        typer.Option("--temperature", "-t", min=0, metavar="T", help="Sampling temperature."),
    ] = None,
    option: Annotated[
        list[Any] | None,
        typer.Option(
            "--option",
            "-o",
            metavar="KEY VALUE",
            parser=lambda value: value,
            help="Pass a parameter to the provider as it is; repeatable.",
        ),
    ] = None,
    stream: Annotated[
        bool | None,
        typer.Option(
            "--stream/--no-stream",
            help="Print the answer as it arrives (default: when stdout is a terminal).",
            show_default=False,
        ),
    ] = None,
    markdown: Annotated[
        bool, typer.Option("--markdown", help="Render the answer's Markdown on a terminal.")
    ] = False,
    resume: Annotated[
        bool, typer.Option("--continue", "-c", help="Continue the last conversation.")
    ] = False,
    no_history: Annotated[
        bool, typer.Option("--no-history", help="Do not keep this conversation.")
    ] = False,
    tag: TagOption = None,
    no_cache: NoCacheOption = False,
    refresh: RefreshOption = False,
    budget: Annotated[
        str | None,
        typer.Option(
            "--budget",
            metavar="USD",
            help="Do not ask, and exit 3, when the answer may cost more.",
            show_default=False,
        ),
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Show tokens, worst-case price and cache state; send nothing."
        ),
    ] = False,
    exact: Annotated[
        bool,
        typer.Option(
            "--exact", help="With --dry-run: let the provider count the tokens (sends the prompt)."
        ),
    ] = False,
    usage: Annotated[
        bool, typer.Option("--usage", "-u", help="Print tokens, price and time on stderr.")
    ] = False,
    config: ConfigOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
    verbose: VerboseOption = 0,
) -> None:
    """Ask one prompt and print the answer.

    The answer goes to stdout and nothing else does: byte for byte into a pipe, without control
    sequences on a terminal. The conversation is kept for 30 days, so that -c can continue it.

    \b
    Examples:
      llmctl ask "Why is the sky blue?"
      cat notes.txt | llmctl ask "Summarise in three points"
      llmctl ask -a invoice.pdf --schema invoice.schema.json "Extract the fields"
      llmctl ask -p local -o top_p 0.9 --json "Hello"
    """
    context = Context(profile, model, config, json, quiet, verbose)

    def run_() -> int:
        if exact and not dry_run:
            raise UsageError("--exact belongs to --dry-run; a call reports its tokens itself (-u)")
        return run(
            AskOptions(
                prompt=prompt,
                system=system,
                max_tokens=max_tokens,
                temperature=temperature,
                options=_options(option or ()),
                attach=tuple(attach or ()),
                schema=read_schema(schema),
                stream=stream,
                markdown=markdown,
                resume=resume,
                history=not no_history,
                tags=pairs("--tag", tag or ()),
                cache_mode=cache_mode(no_cache=no_cache, refresh=refresh),
                dry_run=dry_run,
                exact=exact,
                usage=usage,
                budget=None if budget is None else parse_dollars("--budget", budget),
            ),
            context,
        )

    finish(run_, context)


def take_pairs(command: Any) -> None:
    """Let `--option` take two words, which typer's declarations cannot say."""
    for parameter in command.params:
        if parameter.name == "option":
            parameter.nargs = 2


def _options(given: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """Values are JSON where they parse as such, text otherwise, as in `-o top_p 0.9`."""
    import orjson

    found: dict[str, Any] = {}
    for key, value in given:
        if key in {"model", "messages", "stream", "stream_options"}:
            raise UsageError(f"-o {key} is llmctl's own to set; see `llmctl ask --help`")
        try:
            found[key] = orjson.loads(value)
        except orjson.JSONDecodeError:
            found[key] = value
    return found


def run(options: AskOptions, context: Context) -> int:
    """Ask, print, and return the exit code."""
    from llmctl.cli.answer import answer
    from llmctl.cli.render import is_tty

    prompt = full_prompt(options.prompt, None if is_tty(sys.stdin) else sys.stdin)
    return answer(prompt, options, context)


def full_prompt(argument: str | None, stdin: Any) -> str:
    """Stdin, when it is not a terminal, then the argument. Raises `InputError` for nothing."""
    piped = ""
    if stdin is not None:
        try:
            piped = stdin.buffer.read().decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise InputError(
                f"stdin is not UTF-8 text (byte {error.start}); convert it, for example "
                "with `iconv -t UTF-8`"
            ) from error
        except OSError as error:
            raise InputError(f"stdin cannot be read ({error.strerror})") from error
    prompt = "\n\n".join(part for part in (piped.rstrip("\r\n"), argument or "") if part.strip())
    if not prompt:
        raise InputError('the prompt is empty; try `llmctl ask "…"` or `cat FILE | llmctl ask "…"`')
    return prompt
