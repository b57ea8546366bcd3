"""From a host's name to a socket that is connected to it."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Sequence
from itertools import chain, zip_longest
from typing import Any

_KNOWN_FOR = 10.0
"""Seconds that a host's addresses are remembered: long enough for hundreds of calls that begin
together, shorter than any change of address that somebody waits for."""

_DELAY = 0.25
"""Seconds after which the next address is tried beside one that does not answer (RFC 8305, 5)."""

_Address = tuple[socket.AddressFamily, Any]


class Names:
    """The addresses of one host and port. However many ask, one look-up is under way."""

    def __init__(self, host: str, port: int) -> None:
        self._host, self._port = host, port
        self._loop = asyncio.get_running_loop()
        self._found: Sequence[_Address] = ()
        self._until = 0.0
        self._looking: asyncio.Task[OSError | None] | None = None

    async def addresses(self) -> Sequence[_Address]:
        """What there is, families in turn. Raises `OSError`."""
        if self._loop.time() >= self._until:
            if self._looking is None:
                self._looking = asyncio.ensure_future(self._look())
            # Shielded: who gives up waiting does not spoil it for the others.
            if (error := await asyncio.shield(self._looking)) is not None:
                raise error
        return self._found

    async def _look(self) -> OSError | None:
        """Look the name up. An error is given and not raised: perhaps nobody waits any more."""
        try:
            try:
                # As bytes: Python would load its tables for names beyond ASCII, which an
                # address is not.
                found = socket.getaddrinfo(
                    self._host.encode(),
                    self._port,
                    type=socket.SOCK_STREAM,
                    flags=socket.AI_NUMERICHOST,
                )
            except socket.gaierror:  # a name, which takes time
                found = await self._loop.getaddrinfo(
                    self._host, self._port, type=socket.SOCK_STREAM
                )
            self._found = _in_turn([(family, address) for family, *_, address in found])
            self._until = self._loop.time() + _KNOWN_FOR
        except (OSError, UnicodeError) as error:
            return error if isinstance(error, OSError) else OSError(str(error))
        except asyncio.CancelledError:  # by `close`; who waits was not cancelled
            return OSError("the look-up was given up")
        finally:
            self._looking = None
        return None

    def close(self) -> None:
        """Give up a look-up that is under way."""
        if self._looking is not None:
            self._looking.cancel()


async def reach(addresses: Sequence[_Address]) -> socket.socket:
    """A socket that is connected to one of the addresses. Raises the first one's `OSError`."""
    if len(addresses) == 1:
        return await _connected(addresses[0])
    return await _Race(addresses).run()


class _Race:
    """Addresses that are tried one after the other, overlapping where one takes its time. Not
    asyncio's own: that one loses a socket where two win at once or the race is called off."""

    def __init__(self, addresses: Sequence[_Address]) -> None:
        self._left = list(addresses)
        self._winner: socket.socket | None = None
        self._errors: list[OSError] = []
        self._over = False

    async def run(self) -> socket.socket:
        """The first that is connected."""
        running: set[asyncio.Task[None]] = set()
        try:
            while self._winner is None:
                if self._left:
                    running.add(asyncio.ensure_future(self._try(self._left.pop(0))))
                elif not running:
                    raise self._errors[0]
                _, running = await asyncio.wait(
                    running,
                    timeout=_DELAY if self._left else None,
                    return_when=asyncio.FIRST_COMPLETED,
                )
            winner, self._winner = self._winner, None
            return winner
        finally:
            self._over = True
            for task in running:
                task.cancel()
            if self._winner is not None:
                self._winner.close()

    async def _try(self, address: _Address) -> None:
        try:
            made = await _connected(address)
        except OSError as error:
            self._errors.append(error)
            return
        if self._over or self._winner is not None:
            made.close()
        else:
            self._winner = made


async def _connected(address: _Address) -> socket.socket:
    family, where = address
    made = socket.socket(family, socket.SOCK_STREAM)
    try:
        made.settimeout(0)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        await asyncio.get_running_loop().sock_connect(made, where)
    except OSError as error:
        made.close()
        if error.errno is None or error.errno <= 0:
            raise
        # The event loop puts the address in the place of the system's words.
        raise OSError(error.errno, os.strerror(error.errno)) from error
    except BaseException:
        made.close()
        raise
    return made


def _in_turn(found: Sequence[_Address]) -> Sequence[_Address]:
    """Families alternately, the one that the system prefers first: where one has no way out, the
    next try is one of the other's."""
    first = [address for address in found if address[0] == found[0][0]]
    others = [address for address in found if address[0] != found[0][0]]
    pairs = chain.from_iterable(zip_longest(first, others))
    return [address for address in pairs if address is not None]
