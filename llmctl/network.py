"""What the environment says of the network: its proxies, and whose certificates count."""

from __future__ import annotations

import base64
import ipaddress
import os
import ssl
import sys
from functools import lru_cache
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
    if sys.platform not in ("win32", "darwin") and not _names_a_proxy():
        return None
    # Only now: it takes longer to load than all that is left to do before the request is sent.
    import urllib.request

    if urllib.request.proxy_bypass(parts.netloc):
        return None
    proxies = urllib.request.getproxies()
    return proxies.get(parts.scheme) or proxies.get("all")


def _names_a_proxy() -> bool:
    """Whether the environment does; elsewhere than on Linux and its like the system may, too."""
    return any(name.lower().endswith("_proxy") for name in os.environ)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def trust() -> ssl.SSLContext:
    """What certificates are checked against: `SSL_CERT_FILE` or `SSL_CERT_DIR`, else the
    system's store. Raises `SSLError` and `OSError`."""
    return _trust(os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR"))


@lru_cache(maxsize=4)
def _trust(file: str | None, folder: str | None) -> ssl.SSLContext:
    """Loading takes longer than a request: all addresses share what was loaded."""
    if file or folder:
        context = ssl.create_default_context(cafile=file or None, capath=None if file else folder)
    elif sys.platform in ("win32", "darwin"):
        import truststore

        context = truststore.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    else:
        known = ssl.get_default_verify_paths()
        elsewhere = (
            None if known.cafile or known.capath else next(filter(os.path.isfile, _STORES), None)
        )
        context = ssl.create_default_context(cafile=elsewhere)
    context.set_alpn_protocols(["http/1.1"])
    return context


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
