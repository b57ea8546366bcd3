"""The file that `profiles init` writes: everything in it is commented out, nothing changes."""

from __future__ import annotations

import os
from pathlib import Path

from llmctl.errors import UsageError
from llmctl.storage.files import private_folder, write_private

# Prose begins with `##`, so that taking `# ` away from the rest leaves a valid file.
STARTER = """\
## llmctl: your own configuration. `llmctl profiles list` shows what it amounts to.
##
## The built-in profiles openai, anthropic, gemini, cohere, mistral, openrouter and groq (keys in
## $OPENAI_API_KEY and so on) and `local` (a small model on this machine) work without any of
## this. Remove a leading "# " to use a line.

## The profile that is used when none is chosen with -p or $LLMCTL_PROFILE:
# default: fast

## What the cache of answers may grow to; those used least recently go first:
# cache: {max_size: 1GB}

# profiles:

##   A profile of your own inherits from its provider. Everything below `model` is optional.
#   fast:
#     provider: openai
#     model: gpt-5-mini
#     api: chat                       # or responses, OpenAI's other interface
#     key: {env: OPENAI_API_KEY}      # the variable that holds the key; never the key itself
#     params: {temperature: 0, max_tokens: 512}    # other names go to the provider as they are
#     limits: {concurrency: 16, rpm: 500, tpm: 200000}       # calls in flight; per minute
#     timeout: {connect: 10s, first_byte: 60s, total: 5m}
#     retry: {attempts: 4, max_wait: 60s}
#     breaker: {failures: 5, open_for: 60s}        # when the provider counts as down
#     fallback: [anthropic]           # profiles to ask when this one cannot serve
#     cache: {enabled: true, ttl: 24h}
#     price: {input: 0.25, output: 2.0, cached_input: 0.025}   # USD per million tokens
#     tags: {team: research}

##   Any server that speaks OpenAI's API: base_url is everything before /chat/completions.
#   server:
#     provider: openai
#     base_url: http://localhost:8000/v1
#     model: my-model
#     context: 8192                   # the model's window in tokens
##     key: {env: MY_SERVER_KEY}       # only if it wants one

##   A model file of your own, served by llmctl itself (pip install 'llmctl[local]').
#   mine:
#     provider: local
#     model_path: ~/models/model.gguf
#     context: 4096
#     parallel: 4                     # answers at once
"""


def write_starter(path: Path, *, force: bool) -> None:
    """Write the starter to `path`, readable by the user alone, whole or not at all.

    Folders that are missing are made, for the user alone. Raises `UsageError` when the file
    exists and `force` is not given, `DiskError` when the disk refuses.
    """
    if not force and os.path.lexists(path):
        raise UsageError(f"{path} exists; --force overwrites it")
    private_folder(path.parent)
    write_private(path, STARTER.encode())
