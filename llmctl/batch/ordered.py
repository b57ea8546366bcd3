"""The output in input order: rewritten as a whole, in constant memory."""

from __future__ import annotations

import os
import stat

from llmctl.batch.answers import Format, scan
from llmctl.batch.index import Index
from llmctl.batch.spool import Spool
from llmctl.storage.files import disk, replacing
from llmctl.storage.lock import LockedFile

_BUCKETS = 256


def reorder(output: LockedFile, rows: Index, format: Format) -> None:
    """Put the output's lines in the order of the input's rows, atomically.

    Lines that belong to no row are kept, in their order, at the end. The file at `output.path`
    is a new one then: the lock on the old one protects nothing any more. Raises `DiskError`,
    with the output as it was.
    """
    answers = scan(output, format).index
    try:
        total = rows.size + answers.size
        places = Spool(_BUCKETS, "<QQ")
        try:
            for place, start in rows.places(answers, output.size):
                places.add(place * _BUCKETS // total, place, start)
            _copy(output, places)
        finally:
            places.close()
    finally:
        answers.close()


def _copy(output: LockedFile, places: Spool) -> None:
    with disk("read", output.path), output.reader() as old:
        mode = stat.S_IMODE(os.fstat(output.fd).st_mode)
        with replacing(output.path, mode=mode) as new:
            for bucket in range(_BUCKETS):
                for _, start in sorted(places.read(bucket)):
                    old.seek(start)
                    new.write(old.readline())
