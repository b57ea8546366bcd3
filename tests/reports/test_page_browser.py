"""The page in a real browser, headless Chromium: it is drawn in both themes, and asks for nothing.

Skipped where Debian's package `chromium` is missing.
"""

from __future__ import annotations

import shutil
import socket
import subprocess
import threading
import time
import zlib
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC
from decimal import Decimal
from pathlib import Path

import pytest

from llmctl.config.settings import Budget
from llmctl.reports import page
from llmctl.reports.periods import since
from llmctl.storage.ledger import read_ledger
from tests.ledgers import a_call, a_ledger

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
EVIL = "\"><script>document.title='run'</script><img src=http://evil.test/ onerror=alert(1)>"
CONTROL = '<!doctype html><title>x</title><img src="http://control.test/seen">'
LIGHT, DARK = (0xF6, 0xF7, 0xF9), (0x0D, 0x0F, 0x13)

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="install the package chromium")


class Proxy:
    """What a browser asks for, whichever host it is of: the first line of each request. It gets no
    answer."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = self._server.getsockname()[1]
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            connection, _ = self._server.accept()
            with closing(connection):
                line = connection.makefile("rb").readline(4096).decode("latin-1").strip()
                if line == "end":
                    return
                self.asked.append(line)

    def close(self) -> None:
        """Listen no more."""
        with closing(socket.create_connection(("127.0.0.1", self.port))) as end:
            end.sendall(b"end\n")
        self._thread.join()
        self._server.close()


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    """Sees all that the browser asks for."""
    with closing(Proxy()) as found:
        yield found


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A page with hostile names on it."""
    now = round(time.time() * 1000)
    ledger = a_ledger(
        tmp_path / "l.db",
        *(a_call(started_ms=now - n * 86_400_000, model=EVIL, user=EVIL) for n in range(9)),
    )
    budgets = [Budget(EVIL, Decimal(20), "month")]
    data = read_ledger(ledger, lambda r: page.read(r, since("30d", now, UTC), UTC, now, budgets))
    path = tmp_path / "page.html"
    path.write_text(page.html(data), encoding="utf-8")
    return path


def chromium(proxy: Proxy, target: Path, folder: Path, *flags: str) -> tuple[str, str]:
    """What the browser says, and what it complains of, after it has opened the file."""
    assert CHROMIUM is not None
    done = subprocess.run(
        [
            CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
            "--disable-background-networking", "--disable-component-update", "--no-first-run",
            "--disable-default-apps", "--disable-sync", "--enable-logging=stderr",
            f"--user-data-dir={folder / 'browser'}",
            f"--proxy-server=http://127.0.0.1:{proxy.port}", "--proxy-bypass-list=<-loopback>",
            *flags, target.as_uri(),
        ],
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return done.stdout, "\n".join(console)


def first_pixel(png: bytes) -> tuple[int, int, int]:
    """Red, green and blue in the upper left corner: no filter of PNG's changes that one."""
    at, raw = 8, b""
    while at < len(png):
        size = int.from_bytes(png[at : at + 4], "big")
        if png[at + 4 : at + 8] == b"IDAT":
            raw += png[at + 8 : at + 8 + size]
        at += size + 12
    red, green, blue = zlib.decompress(raw)[1:4]
    return red, green, blue


def seen(proxy: Proxy) -> list[str]:
    """The addresses that pages asked for; the browser's own errands are to Google's hosts."""
    return [line for line in proxy.asked if "google" not in line and "gvt1" not in line]


def test_it_asks_for_nothing(file: Path, proxy: Proxy, tmp_path: Path) -> None:
    """No request leaves the page, no script in a name runs, and its policy finds nothing to refuse;
    a page with an image shows that a request would have been seen."""
    shown, complaints = chromium(proxy, file, tmp_path, "--dump-dom")
    assert "<title>LLM spending · " in shown
    assert "&lt;script&gt;" in shown
    assert complaints == ""
    assert seen(proxy) == []
    control = tmp_path / "control.html"
    control.write_text(CONTROL, encoding="utf-8")
    chromium(proxy, control, tmp_path, "--dump-dom")
    assert [line for line in seen(proxy) if "control.test/seen" in line]


@pytest.mark.parametrize(("scheme", "background"), [(1, LIGHT), (0, DARK)])
def test_both_themes(
    scheme: int, background: tuple[int, int, int], file: Path, proxy: Proxy, tmp_path: Path
) -> None:
    """The style applies, by its hash in the policy, and follows what the user prefers."""
    shot = tmp_path / "page.png"
    chromium(
        proxy, file, tmp_path, f"--screenshot={shot}", "--window-size=800,600",
        f"--blink-settings=preferredColorScheme={scheme}",
    )  # fmt: skip
    assert first_pixel(shot.read_bytes()) == background
