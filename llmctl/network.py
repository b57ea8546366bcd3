"""What the environment says of the network: its proxies, and whose certificates count."""

from __future__ import annotations

import base64
import ipaddress
import os
import ssl
import sys
import urllib.request
from urllib.parse import SplitResult, unquote, urlsplit

from llmctl.errors import ConfigError

_STORES = (
    "/etc/ssl/cert.pem",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/ssl/ca-bundle.pem",
)
"""Where systems keep their certificates, for a Python that was built to look elsewhere."""


def proxy_for(url: str) -> str | None:
    """The proxy that the environment (`HTTPS_PROXY`, `ALL_PROXY`, `NO_PROXY`…) names for `url`.

    Never one for this machine itself: what listens on loopback cannot be reached through it.
    """
    parts = urlsplit(url)
    if not parts.hostname or _is_loopback(parts.hostname):
        return None
    if urllib.request.proxy_bypass(parts.netloc):
        return None
    proxies = urllib.request.getproxies()
    return proxies.get(parts.scheme) or proxies.get("all")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def trust() -> ssl.SSLContext | bool:
    """What certificates are checked against: `SSL_CERT_FILE` or `SSL_CERT_DIR`, else the
    system's store; True where the client has loaded just that (it takes longer than a request).
    Raises `SSLError` and `OSError`."""
    if file := os.environ.get("SSL_CERT_FILE"):
        return ssl.create_default_context(cafile=file)
    if folder := os.environ.get("SSL_CERT_DIR"):
        return ssl.create_default_context(capath=folder)
    if sys.platform in ("win32", "darwin"):
        import truststore

        return truststore.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    known = ssl.get_default_verify_paths()
    if known.cafile or known.capath:
        return True
    return ssl.create_default_context(cafile=next(filter(os.path.isfile, _STORES), None))


class Proxy:
    """The environment's proxy for an address: its own address, and the header that carries its
    password (which the client would send with some requests only)."""

    def __init__(self, url: str, *, tunnel: bool) -> None:
        """Raises `ConfigError`. `tunnel`: the proxy does not see the requests."""
        parts = _split(url)
        host = parts.netloc.rpartition("@")[2]
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigError(
                f"the environment's proxy cannot be used: {parts.scheme or 'its'} address "
                f"{host!r} is not that of an HTTP proxy"
            )
        self.url = f"{parts.scheme}://{host}"
        login = f"{unquote(parts.username or '')}:{unquote(parts.password or '')}"
        basic = "Basic " + base64.b64encode(login.encode()).decode()
        header = {"Proxy-Authorization": basic} if parts.username else {}
        self.to_proxy, self.to_all = (header, {}) if tunnel else ({}, header)


def _split(url: str) -> SplitResult:
    try:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        _ = parts.port
    except ValueError as error:
        raise ConfigError(f"the environment's proxy cannot be used: {error}") from error
    return parts
