"""What the server was started with, over what the configuration says at the moment."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from llmctl.config.load import load
from llmctl.config.paths import find_folders
from llmctl.config.settings import Settings, TlsFiles
from llmctl.errors import UsageError
from llmctl.keys.keyring_store import stored_slots


class ServerOptions(Struct, frozen=True):
    """The options of `llmctl serve`; None: as the configuration's `serve:` says.

    Every worker gets a copy: `environ` is a plain mapping. `calls`: answered requests get a line
    of the log, too. `json`: an object with the address on stdout once requests are answered.
    """

    environ: Mapping[str, str]
    cwd: Path
    config: Path | None = None
    host: str | None = None
    port: int | None = None
    workers: int | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None
    calls: bool = False
    json: bool = False

    def settings(self) -> Settings:
        """The configuration as it is now, with these options over it. Nobody is asked to trust a
        project's file. Raises `ConfigError` and `UsageError`."""
        state = find_folders(self.environ, self.cwd).state
        settings = load(
            environ=self.environ, cwd=self.cwd, config=self.config, stored=stored_slots(state)
        )
        given: dict[str, Any] = {
            "host": self.host, "port": self.port, "workers": self.workers, "tls": self._tls(),
        }  # fmt: skip
        known = {name: value for name, value in given.items() if value is not None}
        return replace(settings, serve=replace(settings.serve, **known))

    def _tls(self) -> TlsFiles | None:
        if self.tls_cert is None and self.tls_key is None:
            return None
        if self.tls_cert is None or self.tls_key is None:
            lacking = "--tls-cert" if self.tls_cert is None else "--tls-key"
            raise UsageError(f"TLS needs a certificate and its key: {lacking} is missing")
        return TlsFiles(self.cwd / self.tls_cert, self.cwd / self.tls_key)
