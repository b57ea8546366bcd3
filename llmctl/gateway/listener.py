"""Where connections come in: the socket, and the certificate that encrypts them."""

from __future__ import annotations

import errno
import socket
import ssl
import sys
from ipaddress import ip_address

from llmctl.config.settings import Serve, TlsFiles
from llmctl.errors import UsageError


def bind(serve: Serve) -> socket.socket:
    """A socket at the configured address, which does not listen yet. Raises `UsageError`."""
    family = socket.AF_INET6 if ":" in serve.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    if sys.platform != "win32":  # there it would take the port away from another program
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((serve.host, serve.port))
    except OSError as error:
        listener.close()
        raise UsageError(_bind_failure(serve, error)) from error
    return listener


def _bind_failure(serve: Serve, error: OSError) -> str:
    if isinstance(error, socket.gaierror) or error.errno == errno.EADDRNOTAVAIL:
        return f"{serve.host} is no address of this machine; name one with --host"
    if error.errno == errno.EADDRINUSE:
        return (
            f"port {serve.port} of {serve.host} is in use; stop what listens there, or name "
            "another with --port"
        )
    if error.errno == errno.EACCES:
        return f"port {serve.port} is not yours to use; name one from 1024 on with --port"
    return f"{serve.host}:{serve.port} cannot be served: {error.strerror}"


def is_loopback(listener: socket.socket) -> bool:
    """Whether only programs of this machine reach the socket."""
    return ip_address(listener.getsockname()[0].partition("%")[0]).is_loopback


def tls_context(files: TlsFiles | None) -> ssl.SSLContext | None:
    """What encrypts connections; None without a certificate. Raises `UsageError`."""
    if files is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    load_certificate(context, files)
    return context


def load_certificate(context: ssl.SSLContext, files: TlsFiles) -> None:
    """Encrypt new connections with the certificate that the files hold now. Raises `UsageError`
    for files that cannot be read or do not belong together."""
    for path in (files.cert, files.key):
        try:
            path.open("rb").close()
        except OSError as error:
            raise UsageError(f"cannot read {path}: {error.strerror}") from error
    try:
        # Without a function OpenSSL itself would ask the terminal for a password.
        context.load_cert_chain(files.cert, files.key, password=_no_password)
    except (ssl.SSLError, ValueError) as error:
        raise UsageError(
            f"{files.cert} and {files.key} are not a certificate and its key: both are PEM files, "
            "the key without a password"
        ) from error


def _no_password() -> str:
    raise ValueError
