"""Whether the rows of a batch may share answers by what they mean: not those of one template."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

from llmctl.batch.job import Batch
from llmctl.config.semantic import SemanticPolicy
from llmctl.config.settings import Profile
from llmctl.config.yaml_nodes import quoted
from llmctl.errors import InputError
from llmctl.guards.semantic_cache import asked
from llmctl.semantic.shared_text import SharedText


def semantic_policies(profiles: Sequence[Profile]) -> list[SemanticPolicy]:
    """Those of the profiles that have a semantic cache."""
    caches = [profile.cache for profile in profiles]
    return [cache.semantic for cache in caches if cache.enabled and cache.semantic is not None]


def require_known_fields(batch: Batch, profiles: Sequence[Profile], *, in_batch: bool) -> None:
    """Raise `InputError` where rows that are to be sent are of one template whose fields are not
    known, and one of the `profiles` has a semantic cache; not where rows go into batches of the
    provider (`in_batch`), which ask none. Raises as `Batch.pages`, too."""
    policies, job = semantic_policies(profiles), batch.job
    if in_batch or not policies or job.cache_mode == "bypass" or job.reader.knows_fields:
        return
    shared = SharedText()
    leaders = batch.index.first_of_question(batch.rows)
    leader = next(leaders, None)
    for request in chain.from_iterable(batch.pages(str)):
        if request.index != leader:
            continue
        leader = next(leaders, None)
        questions = (asked(request, policy) for policy in policies)
        if question := next(filter(None, questions), None):
            shared.add(question.scope, question.text)
    if found := shared.template():
        rows, text = found
        raise InputError(
            f"{rows:,} rows share the words {quoted(text)}: they are of one template, and which of "
            "their words are its fields is not known, so the semantic cache cannot tell them "
            "apart, and nothing was sent. Give the fields, and the template with --template; or "
            "turn the semantic cache off (`cache: {semantic: off}` in the profile; --no-cache: the "
            "whole cache); or, if each row is a question of its own, say --template "
            "'{{ prompt }}'"
        )
