"""A real Secret Service for tests: gnome-keyring on a session bus of its own.

Needs Debian's packages `dbus` and `gnome-keyring`; installs nothing itself.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Self

PROGRAMS = ("dbus-daemon", "dbus-send", "gnome-keyring-daemon")
_NAME = "org.freedesktop.secrets"
_PATIENCE = 20.0


def missing() -> list[str]:
    """The programs that are not installed."""
    return [name for name in PROGRAMS if shutil.which(name) is None]


class SecretService:
    """`with SecretService(folder) as service:` serves at `service.environ`.

    `unlocked` False leaves the keyring locked, with nobody to unlock it; `silent` has a bus on
    which the service's name is taken by something that never answers.
    """

    def __init__(self, folder: Path, *, unlocked: bool = True) -> None:
        self._home = folder
        self._unlocked = unlocked
        self._processes: list[subprocess.Popen[bytes]] = []
        self.environ: dict[str, str] = {}

    def __enter__(self) -> Self:
        runtime = self._home / "run"
        runtime.mkdir(parents=True, mode=0o700)
        environ = {"PATH": os.environ["PATH"], "HOME": str(self._home)}
        environ["XDG_RUNTIME_DIR"] = str(runtime)
        try:
            bus = self._start(
                ["dbus-daemon", f"--config-file={self._bus_file()}", "--print-address=1",
                 "--nofork", "--nopidfile"],
                environ,
            )  # fmt: skip
            assert bus.stdout is not None
            address = bus.stdout.readline().decode().strip()
            assert address, "the session bus did not start"
            self.environ = {"DBUS_SESSION_BUS_ADDRESS": address}
            environ |= self.environ
            command = ["gnome-keyring-daemon", "--foreground", "--components=secrets"]
            if self._unlocked:
                command.append("--unlock")
            keyring = self._start(command, environ)
            assert keyring.stdin is not None
            if self._unlocked:
                keyring.stdin.write(b"a password of the tests")
            keyring.stdin.close()
            self._await_name(environ, keyring)
        except BaseException:
            self.stop()
            raise
        return self

    def _bus_file(self) -> Path:
        """A bus that starts nothing by itself: what is not started here is not there."""
        path = self._home / "bus.conf"
        path.write_text(
            "<busconfig><type>session</type>"
            f"<listen>unix:dir={self._home / 'run'}</listen><auth>EXTERNAL</auth>"
            '<policy context="default"><allow send_destination="*" eavesdrop="true"/>'
            '<allow eavesdrop="true"/><allow own="*"/></policy></busconfig>',
            encoding="utf-8",
        )
        return path

    def _start(self, command: list[str], environ: dict[str, str]) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            command,
            env=environ,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        self._processes.append(process)
        return process

    def _await_name(self, environ: dict[str, str], keyring: subprocess.Popen[bytes]) -> None:
        """Return when the service can be called."""
        ask = [
            *("dbus-send", "--session", "--print-reply", "--dest=org.freedesktop.DBus"),
            *("/org/freedesktop/DBus", "org.freedesktop.DBus.NameHasOwner", f"string:{_NAME}"),
        ]
        until = time.monotonic() + _PATIENCE
        while time.monotonic() < until:
            assert keyring.poll() is None, "gnome-keyring-daemon ended"
            said = subprocess.run(ask, env=environ, capture_output=True, check=False).stdout
            if b"boolean true" in said:
                return
            time.sleep(0.02)
        raise TimeoutError("gnome-keyring-daemon did not appear on the bus")

    def pause(self) -> None:
        """Let the daemon hang: it keeps its name and answers nothing."""
        self._processes[-1].send_signal(19)

    def stop(self) -> None:
        """End both processes."""
        for process in reversed(self._processes):
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    pipe.close()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self.stop()
