"""A real Secret Service for tests: gnome-keyring on a session bus of its own.

Needs Debian's packages `dbus` and `gnome-keyring`; installs nothing itself.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path
from typing import Self

PROGRAMS = ("dbus-daemon", "dbus-send", "gnome-keyring-daemon")
_PATIENCE = 20.0
_BUS = """<busconfig><type>session</type><listen>unix:dir={folder}</listen><auth>EXTERNAL</auth>
<policy context="default"><allow send_destination="*" eavesdrop="true"/><allow eavesdrop="true"/>
<allow own="*"/></policy></busconfig>"""  # it starts nothing by itself


def missing() -> list[str]:
    """The programs that are not installed."""
    return [name for name in PROGRAMS if shutil.which(name) is None]


class SecretService:
    """`with SecretService(folder) as service:` serves at `service.environ`.

    `unlocked` False leaves the keyring locked, with nobody to unlock it.
    """

    def __init__(self, folder: Path, *, unlocked: bool = True) -> None:
        self._home = folder
        self._unlocked = unlocked
        self._processes: list[subprocess.Popen[bytes]] = []
        self.environ: dict[str, str] = {}

    def __enter__(self) -> Self:
        try:
            self._serve()
        except BaseException:
            self.stop()
            raise
        return self

    def empty(self) -> None:
        """Remove what earlier tests have stored: their servers' ports come again."""
        from jeepney.io.blocking import open_dbus_connection  # type: ignore[import-untyped]
        from secretstorage import get_all_collections

        with open_dbus_connection(bus=self.environ["DBUS_SESSION_BUS_ADDRESS"]) as connection:
            for collection in get_all_collections(connection):
                for item in collection.get_all_items():
                    item.delete()

    def _serve(self) -> None:
        runtime = self._home / "run"
        runtime.mkdir(parents=True, mode=0o700)
        environ = {"PATH": os.environ["PATH"], "HOME": str(self._home)}
        environ["XDG_RUNTIME_DIR"] = str(runtime)
        configuration = self._home / "bus.conf"
        configuration.write_text(_BUS.format(folder=runtime), encoding="utf-8")
        bus = self._start(
            environ, "dbus-daemon", f"--config-file={configuration}", "--print-address=1",
            "--nofork", "--nopidfile",
        )  # fmt: skip
        assert bus.stdout is not None
        address = bus.stdout.readline().decode().strip()
        assert address, "the session bus did not start"
        self.environ = {"DBUS_SESSION_BUS_ADDRESS": address}
        environ |= self.environ
        command = ["gnome-keyring-daemon", "--foreground", "--components=secrets"]
        keyring = self._start(environ, *command, *(["--unlock"] if self._unlocked else []))
        assert keyring.stdin is not None
        if self._unlocked:
            keyring.stdin.write(b"a password of the tests")
        keyring.stdin.close()
        ask = [
            *("dbus-send", "--session", "--print-reply", "--dest=org.freedesktop.DBus"),
            *("/org/freedesktop/DBus", "org.freedesktop.DBus.NameHasOwner"),
            "string:org.freedesktop.secrets",
        ]
        until = time.monotonic() + _PATIENCE
        while time.monotonic() < until:
            assert keyring.poll() is None, "gnome-keyring-daemon ended"
            said = subprocess.run(ask, env=environ, capture_output=True, check=False).stdout
            if b"boolean true" in said:
                return
            time.sleep(0.02)
        raise TimeoutError("gnome-keyring-daemon did not appear on the bus")

    def _start(self, environ: dict[str, str], *command: str) -> subprocess.Popen[bytes]:
        pipe, null = subprocess.PIPE, subprocess.DEVNULL
        process = subprocess.Popen(command, env=environ, stdin=pipe, stdout=pipe, stderr=null)
        self._processes.append(process)
        return process

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

    def __exit__(self, *_: object) -> None:
        self.stop()
