"""`llmctl batch`: its options. A file of prompts, resumable."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Struct
from typer import Argument, Option

from llmctl.cli.options import (
    BudgetOption,
    DryRunOption,
    MaxTokensOption,
    NoCacheOption,
    NotifyOption,
    ParamOption,
    RefreshOption,
    SchemaOption,
    SchemaRetriesOption,
    SystemOption,
    TagOption,
    TemperatureOption,
)


class BatchOptions(Struct, frozen=True, kw_only=True):
    """Answer every row of a file. The same command again continues where it stopped.

    \b
    INPUT rows are JSON objects: {"id", "prompt"}, {"id", "messages"}, OpenAI
    batch lines, or with --template any record. Optional fields: system, model,
    max_tokens, temperature, schema, options, tags, priority; a row wins over
    flags and profile. All of INPUT is checked first.

    \b
    OUTPUT gets a line for every row that was answered, OUTPUT with .errors.jsonl
    in place of .jsonl one for every row that failed (with -o - those go to
    stderr, and there is no resume). Answered rows are never sent again; failed
    ones are. With an OUTPUT that ends in .csv the lines stand in the .jsonl
    beside it, and it is made of them at the end.

    Rows are sent in the order of INPUT, those of a higher "priority" first (-100 to 100; 0 without
    one, as OpenAI batch lines and the records of a template are).

    --join: the same command in any number of processes, which share the rows between them and
    write one OUTPUT; each row is sent by one of them. What one leaves, or had when it was killed,
    the others take; the last one sorts (--ordered) and makes a table. Each tells its own rows and
    the others' (--json: others {ok, failed}), and exits by the whole; one without --join exits 75
    meanwhile. Limits and budgets of the configuration hold for all of them together, --budget for
    each. On one machine they see each other by the state folder, on several by one `coordinator:`,
    and OUTPUT lies on a file system that all of them see. `queue` of `degrade:` is left out, as it
    is with -o -, where no answer could come later.

    --follow takes rows that are appended to INPUT (whole lines of a .jsonl file, or of stdin as
    they come) until Ctrl-C, SIGTERM, --max-time, or the end of stdin. Interrupted when every row
    has its record, it exits as a run that ended by itself. A line that is no row ends it (exit 2);
    so does an INPUT that is cut, removed or replaced. Rows that were edited in place are noticed at
    the end, or by the next run.

    Identical rows share one answer, unless their temperature is above 0: then they are samples.

    --budget and the configured budgets are never exceeded while the provider keeps to
    max_tokens: a row is held at its worst case, and settled at its real cost. One whose price is
    unknown, or that alone may cost more, fails as `budget`; when the next row does not fit, the
    run stops. Both exit 3, and the same command with a larger budget continues.

    --dry-run prices what is left at the worst (all output that is allowed) and as expected (by
    earlier calls in the ledger). Rows whose price or output limit is unknown have no worst case:
    $? and null, and exit 3 under --budget.

    \b
    --dry-run --json: rows = answered + cached + duplicates + over_context +
    refused + to_send; input_tokens, input_tokens_exact, max_output_tokens,
    expected_output_tokens (of to_send), worst_case_usd, expected_usd,
    unpriced_rows, provider_batch {worst_case_usd, expected_usd},
    expected_from_calls, time_s, time_bound_by, budget_usd, exit_code. null is
    unknown.

    Rows whose data may go to no profile by the rules of `data:` or their own tags, such as
    {"data.class": "phi"}, fail unsent as `data` (`llmctl profiles list -h`).

    --engine provider puts the rows into batches of the provider (OpenAI, Azure, Groq, Together,
    Anthropic, Gemini, Mistral, OpenRouter), which take up to a day and mostly cost half. Ctrl-C and
    --detach leave them running (exit 6); the same command goes on waiting, and fetches. Nothing is
    submitted twice, whatever breaks. --status and --list with --json: a list of {intent, output,
    profile, provider, batch, state, word, rows, done, failed, made, checked, note, command}.

    --engine ray sends rows from every machine of a Ray cluster (extra `ray`; llmctl must be
    installed on each, which looks for the keys itself: none is sent there). Limits, budgets and the
    cache are one for all, kept here; --concurrency counts on each machine. Machines may join and
    die meanwhile: the rows of a dead one are sent again, and what it had under way is `unknown` in
    `cost report`.

    --warm is for rows that begin alike (instructions first, then the row's own text): where the
    provider's prompt cache keeps that start and it pays, one row goes first, and the others when
    it has its answer. Anthropic is told where the start ends (cache_control), OpenAI gets a key of
    it (prompt_cache_key). What is read and written is said at the end, and is in `cost report`.

    --notify tells a sink (`llmctl alerts list -h`) how the run ended, whatever the end was: exit
    code, counts, cost, files. A sink that fails is said on stderr, and changes no exit code.

    \b
    Examples:
      llmctl batch prompts.jsonl -p local
      llmctl batch reviews.csv --template "Positive? {{ text }}" -o labels.jsonl
      llmctl batch prompts.jsonl --dry-run --budget 5
      llmctl batch prompts.jsonl --engine provider --detach
      llmctl batch prompts.jsonl --engine ray --address auto
      zcat big.jsonl.gz | llmctl batch - -o - --concurrency 50 | jq -r .text
    """

    input: Annotated[
        str,
        Argument(
            metavar="INPUT",
            help="A .jsonl, .jsonl.gz or .csv file, or - for stdin.",
            show_default=False,
        ),
    ] = ""
    output: Annotated[
        str | None, Option("--output", "-o", help="Where answers go (NAME.out.jsonl); - is stdout.")
    ] = None
    system: SystemOption = None
    template: Annotated[
        str | None, Option(metavar="TEXT|@FILE", help="Jinja2: makes a prompt of each record.")
    ] = None
    schema: SchemaOption = None
    schema_retries: SchemaRetriesOption = 1
    id_field: Annotated[str | None, Option(metavar="NAME", help="Field that holds the id.")] = None
    keep: Annotated[
        str | None,
        Option(metavar="FIELD,…|all", help="Fields of the input row to repeat, as `input`."),
    ] = None
    max_tokens: MaxTokensOption = None
    temperature: TemperatureOption = None
    param: ParamOption = None
    engine: Annotated[
        Literal["local", "provider", "ray"],
        Option(
            metavar="local|provider|ray",
            help="Calls from here, the provider's batches at half the price, or many machines.",
        ),
    ] = "local"
    address: Annotated[
        str | None,
        Option(metavar="auto|HOST:PORT", help="The Ray cluster to join; else one is made here."),
    ] = None
    nodes: Annotated[
        int | None, Option(min=1, metavar="N", help="At most so many of its machines.")
    ] = None
    concurrency: Annotated[
        int | None, Option(min=1, max=10_000, metavar="N", help="Calls in flight at a time.")
    ] = None
    rpm: Annotated[int | None, Option(min=1, metavar="N", help="Requests per minute.")] = None
    tpm: Annotated[int | None, Option(min=1, metavar="N", help="Tokens per minute.")] = None
    rpd: Annotated[int | None, Option(min=1, metavar="N", help="Requests per day (UTC).")] = None
    limit: Annotated[int | None, Option(min=1, metavar="N", help="Only the first N rows.")] = None
    max_errors: Annotated[
        str | None, Option(metavar="N|N%", help="Stop once more rows than this have failed.")
    ] = None
    max_time: Annotated[
        str | None, Option(metavar="DURATION", help="Send nothing new after 90s, 20m, 8h.")
    ] = None
    dedupe: Annotated[
        bool,
        Option("--dedupe", help="One answer for identical rows at a temperature above 0, too."),
    ] = False
    join: Annotated[
        bool, Option("--join", help="Share INPUT and OUTPUT with other processes that say so.")
    ] = False
    follow: Annotated[
        bool, Option("--follow", help="Go on with rows that are appended, until interrupted.")
    ] = False
    format: Annotated[
        Literal["llmctl", "openai"], Option(help="Output lines: ours, or OpenAI's batch results.")
    ] = "llmctl"
    ordered: Annotated[bool, Option("--ordered", help="Sort OUTPUT as INPUT at the end.")] = False
    restart: Annotated[bool, Option("--restart", help="Discard OUTPUT and start over.")] = False
    no_cache: NoCacheOption = False
    refresh: RefreshOption = False
    tag: TagOption = None
    budget: BudgetOption = None
    notify: NotifyOption = None
    dry_run: DryRunOption = False
    warm: Annotated[
        bool,
        Option("--warm", help="Send one row first where rows share a start that is kept cheaper."),
    ] = False
    detach: Annotated[
        bool, Option("--detach", help="Submit to the provider and leave; run again to fetch.")
    ] = False
    max_wait: Annotated[
        str | None,
        Option(metavar="DURATION", help="Cancel a provider's batch that is older, such as 26h."),
    ] = None
    then: Annotated[
        Literal["stop", "local"],
        Option(help="After --max-wait: leave the rest, or send it from here."),
    ] = "stop"
    cancel: Annotated[
        bool, Option("--cancel", help="Cancel the provider's batches; what is answered is kept.")
    ] = False
    status: Annotated[
        bool, Option("--status", help="Where the provider's batches stand, of INPUT or all.")
    ] = False
    list: Annotated[
        bool, Option("--list", help="The provider's batches on record, without asking.")
    ] = False
    adopt: Annotated[
        str | None,
        Option(metavar="ID|none", help="Say which batch a lost reply made, or that it made none."),
    ] = None
