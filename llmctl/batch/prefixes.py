"""What the rows of a batch that are left to send begin with, for the provider's prompt cache."""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain

from llmctl.batch.job import Batch
from llmctl.prompts.prefix import PrefixScan


def scan_prefixes(batch: Batch, cached: Callable[[str], bool]) -> PrefixScan:
    """The scan over those rows. `cached` tells whether the cache of answers would answer a
    fingerprint. Raises `InputError` as `Batch.pages`."""
    scan, job = PrefixScan(), batch.job
    use_cache = job.cache_mode == "use" and job.profile.cache.enabled
    leaders = batch.index.first_of_question(batch.rows)
    leader = next(leaders, None)
    for request in chain.from_iterable(batch.pages(str)):
        first = request.index == leader
        if first:
            leader = next(leaders, None)
        shared = use_cache and not first and not request.sample
        if not shared and not (use_cache and cached(request.answer_key)):
            scan.add(request)
    return scan
