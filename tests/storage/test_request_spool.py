"""Requests of provider's batches on the disk."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from llmctl.storage.request_spool import RequestSpool
from llmctl.types import Masked
from tests.support import request

VALUE = "mary.poe@example.com"


@pytest.mark.parametrize("encrypted", [True, False])
def test_values_are_not_on_the_disk_in_clear(*, encrypted: bool) -> None:
    """Requests come back as they were put in; encrypted, the file holds nothing of them."""
    one = replace(
        request(call_id="c1", kept={"who": VALUE}),
        masked=Masked({"email": 1}, {"[[EMAIL_1a2b]]": VALUE}, "00"),
    )
    with RequestSpool(encrypted=encrypted) as spool:
        spool.add(one)
        spool.wait_again("c1", "c2", attempts=1)
        file = spool._db.serialize()
        assert spool.get("c2") == (replace(one, call_id="c2"), 1)
        assert list(spool.waiting()) == [[replace(one, call_id="c2")]]
    assert (VALUE.encode() in file) is not encrypted
