"""What can go wrong on the wire, sorted by what is known of the request."""

from __future__ import annotations


class Unsendable(ValueError):
    """The request has something that HTTP cannot carry. What it is is never repeated: it may be
    the key."""


class Unreached(Exception):
    """No connection was made: nothing of the request has left."""


class Late(Unreached):
    """No connection was made in time."""


class Broken(Exception):
    """The connection broke, or the reply was no HTTP, after the request had begun to leave: the
    other side may have read it."""


def reason(error: OSError) -> str:
    """What went wrong, in the system's own words where it has any."""
    return error.strerror or str(error) or type(error).__name__
