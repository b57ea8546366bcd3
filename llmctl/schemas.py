"""JSON Schemas that answers must fit: checking the schema, and answers against it.

The library is imported when the first schema is used. Answers are checked in processes of their
own (`python -m llmctl.schemas`): a pattern that backtracks, or alternatives in alternatives, may
take for ever, and nothing else than the end of its process stops that.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import orjson

from llmctl.redact import cut
from llmctl.types import JSON

if TYPE_CHECKING:
    from jsonschema.protocols import Validator

_SHOWN = 300
_KEPT = 64  # schemas of one batch whose validators are kept
_LONGEST = 4096  # characters of a reason that are handed over
_AT_ONCE = min(4, os.cpu_count() or 1)  # answers that are checked at a time
_ENVIRON = frozenset({"PATH", "PYTHONPATH", "PYTHONHOME", "LD_LIBRARY_PATH", "HOME"})  # no keys
LIMIT = 3.0  # seconds that the check of one answer may take


def check(schema: Any) -> JSON:
    """The schema itself, if it is one, and complete: nothing is fetched. Raises `ValueError` with a
    sentence otherwise, so that no call is paid for in vain."""
    if not isinstance(schema, Mapping):
        raise ValueError("a JSON Schema is an object")  # noqa: TRY004 - one error for all reasons
    _validator(_key(schema))
    return schema


_FENCED = re.compile(r"\s*(`{3,}|~{3,})(?:[\w+.-]+(?=\s))?(.*)\1\s*", re.DOTALL)


def without_fence(text: str) -> str:
    """An answer without the one Markdown fence that all of it stands in."""
    fenced = _FENCED.fullmatch(text) if text.lstrip()[:3] in {"```", "~~~"} else None
    return text if fenced is None else fenced[2].strip()


def value(text: str) -> Any:
    """The JSON of an answer, which may stand in one Markdown fence. Raises
    `orjson.JSONDecodeError`, and `UnicodeEncodeError` for half of a surrogate pair."""
    return orjson.loads(without_fence(text))


def fit(text: str, schema: JSON) -> Any:
    """The value of an answer. Raises `ValueError` saying why it does not fit."""
    from jsonschema.exceptions import best_match
    from referencing.exceptions import Unresolvable

    try:
        found = value(text)
    except (orjson.JSONDecodeError, UnicodeEncodeError) as error:
        raise ValueError(f"it is no JSON ({error})" if text.strip() else "it is empty") from error
    try:
        wrong = best_match(_validator(_key(schema)).iter_errors(found))
    except Unresolvable as error:
        raise ValueError(f"the schema refers to {error.ref!r}, which it does not hold") from error
    except RecursionError as error:
        raise ValueError("the schema refers to itself without end") from error
    if wrong is not None:
        raise ValueError((f"at {wrong.json_path}: " if wrong.path else "") + wrong.message)
    try:
        orjson.dumps([found])
    except TypeError as error:
        raise ValueError("it is nested too deeply") from error
    return found


class Checker:
    """Checks answers off the event loop, in processes that are started when they are needed and
    used again. The limit is kept by the process itself, which dies of an alarm."""

    def __init__(self) -> None:
        self._idle: list[subprocess.Popen[bytes]] = []
        self._all: set[subprocess.Popen[bytes]] = set()
        self._turns = asyncio.Semaphore(_AT_ONCE)

    async def fit(self, text: str, schema: JSON) -> Any:
        """As the function `fit`; raises `ValueError` also for an answer whose check takes longer
        than `LIMIT` seconds."""
        try:
            line = orjson.dumps([schema, text], option=orjson.OPT_APPEND_NEWLINE)
        except TypeError as error:
            raise ValueError(f"it is no JSON ({error})") from error
        async with self._turns:
            why = await asyncio.shield(asyncio.to_thread(self._ask, line))
        if why:
            raise ValueError(cut(why, _SHOWN) + ("…" if len(why) > _SHOWN else ""))
        return value(text)

    def _ask(self, line: bytes) -> str:
        try:
            process = self._idle.pop() if self._idle else self._start()
        except OSError as error:
            return f"its check cannot be started ({error.strerror})"
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(line)
            process.stdin.flush()
            said = process.stdout.readline()
        except OSError:
            said = b""
        if not said:
            self._end(process)
            return f"its check took longer than {LIMIT:g} s, or more memory than there is"
        self._idle.append(process)
        why: str = orjson.loads(said)
        return why

    def _start(self) -> subprocess.Popen[bytes]:
        # Without the working folder on its path, and in a session of its own: Ctrl-C is for us.
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "llmctl.schemas"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            env={name: value for name, value in os.environ.items() if name in _ENVIRON},
        )
        self._all.add(process)
        return process

    def _end(self, process: subprocess.Popen[bytes]) -> None:
        self._all.discard(process)
        process.kill()
        with contextlib.suppress(OSError), process:
            pass

    async def close(self) -> None:
        """End the processes."""
        for process in tuple(self._all):
            self._end(process)
        self._idle.clear()


def main() -> None:
    """Answer each line of stdin, a schema and a text, with why that does not fit; "" if it does."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # its end
    for line in sys.stdin.buffer:
        schema, text = orjson.loads(line)
        why = ""
        try:
            _validator(_key(schema))  # its own time is no answer's
            signal.setitimer(signal.ITIMER_REAL, LIMIT)
            fit(text, schema)
        except ValueError as error:
            why = str(error)[:_LONGEST]
        signal.setitimer(signal.ITIMER_REAL, 0)
        sys.stdout.buffer.write(orjson.dumps(why) + b"\n")
        sys.stdout.buffer.flush()


def _key(schema: JSON) -> bytes:
    try:
        return orjson.dumps(schema, option=orjson.OPT_SORT_KEYS)
    except TypeError as error:
        raise ValueError(f"it is no JSON ({error})") from error


@lru_cache(maxsize=_KEPT)
def _validator(key: bytes) -> Validator:
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import SchemaError
    from jsonschema.validators import validator_for
    from referencing import Registry

    schema = orjson.loads(key)
    if not isinstance(schema.get("$schema", ""), str):
        raise ValueError("it is no JSON Schema at $.$schema: that is a string")  # noqa: TRY004
    kind = validator_for(schema, default=Draft202012Validator)
    try:
        kind.check_schema(schema)
    except SchemaError as error:
        where = f" at {error.json_path}" if error.path else ""
        raise ValueError(f"it is no JSON Schema{where}: {error.message[:_SHOWN]}") from error
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    _check_references(schema, kind)
    # An empty registry: the library's own would look references up in the network.
    made: Validator = kind(schema, registry=Registry())
    return made


def _check_references(schema: JSON, kind: type[Validator]) -> None:
    """Raises `ValueError` for a reference that the schema itself does not resolve."""
    from jsonschema.exceptions import SchemaError
    from referencing import Registry
    from referencing.exceptions import CannotDetermineSpecification, Unresolvable
    from referencing.jsonschema import DRAFT202012, UnknownDialect, specification_with

    dialect = specification_with(str(kind.META_SCHEMA.get("$schema", "")), default=DRAFT202012)
    root = dialect.create_resource(schema)
    waiting, seen = [(root, Registry().resolver_with_root(root))], set()
    while waiting:
        resource, resolver = waiting.pop()
        item = resource.contents
        if not isinstance(item, dict) or id(item) in seen:
            continue
        seen.add(id(item))
        try:
            waiting += [(each, resolver.in_subresource(each)) for each in resource.subresources()]
        except (UnknownDialect, CannotDetermineSpecification, ValueError, AttributeError) as error:
            raise ValueError("a part of it is written in another schema language") from error
        for name in ("$ref", "$dynamicRef", "$recursiveRef"):
            reference = item.get(name)
            if not isinstance(reference, str):
                continue
            try:
                found = resolver.lookup(reference)
                kind.check_schema(found.contents)
            except Unresolvable as error:
                why = "it does not hold" if reference.startswith("#") else "llmctl does not fetch"
                raise ValueError(f"it refers to {reference!r}, which {why}") from error
            except (SchemaError, ValueError, TypeError) as error:
                raise ValueError(f"it refers to {reference!r}, which is no schema") from error
            waiting.append((dialect.create_resource(found.contents), found.resolver))


if __name__ == "__main__":
    main()
