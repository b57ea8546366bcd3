"""Joining a Ray cluster, or making one of this machine alone."""

from __future__ import annotations

import logging
import os
import secrets
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from llmctl.auth.extras import needs_extra
from llmctl.errors import SetupError

NAMESPACE = "llmctl"
_STORE = 80 << 20  # bytes of Ray's object store, of which rows and records take none
_PATIENCE = 5.0  # seconds for a connection to the cluster


def check_ray() -> None:
    """Raises `SetupError` where ray is not installed; nothing is imported."""
    needs_extra("ray", "ray", "ray")


@contextmanager
def joined(address: str | None) -> Iterator[None]:
    """Make this process a driver of the cluster at `address` (`auto`, or HOST:PORT); None: of its
    own, on loopback, which nobody else can speak to. SIGTERM has Ray's handler from now on.

    Raises `SetupError` where there is no such cluster, or this machine is no node of it.
    """
    check_ray()
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    if address is None or address.startswith(("127.0.0.1:", "localhost:")):
        # By this Ray takes 127.0.0.1 for the machine's own address; without, servers that run
        # whatever code they are sent would listen on every interface (CVE-2023-48022).
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    if address is None:
        os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    own: dict[str, Any] = {
        "num_cpus": 1, "object_store_memory": _STORE, "include_dashboard": False
    }  # fmt: skip
    try:
        if address is not None and address != "auto":
            _reach(address)
        import ray

        ray.init(
            address or "local",
            namespace=NAMESPACE,
            log_to_driver=False,
            logging_level=logging.CRITICAL,
            **({} if address else own),
        )
    except (OSError, RuntimeError, ValueError) as error:
        why = " ".join(str(error).split())[:200]
        raise SetupError(
            f"no Ray cluster can be joined at {address or 'this machine'} ({why}): start a node on "
            "this machine, `ray start --address=HOST:PORT`, and name it with --address HOST:PORT; "
            "or leave --address out"
        ) from error
    try:
        yield
    finally:
        ray.shutdown()


def _reach(address: str) -> None:
    """Raises `OSError` or `ValueError` where nobody listens: Ray would try for ten minutes."""
    host, _, port = address.rpartition(":")
    if not (host and port.isdecimal()):
        raise ValueError("it is neither auto nor HOST:PORT")
    socket.create_connection((host.strip("[]"), int(port)), _PATIENCE).close()
