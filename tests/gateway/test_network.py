"""Where a request comes from: addresses, pages in browsers, users of this machine."""

from __future__ import annotations

import os
import socket
from ipaddress import IPv4Address, ip_address
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmctl.gateway.network import (
    SameUser,
    Socket,
    client_address,
    cors_headers,
    is_allowed,
    is_foreign_page,
    preflight,
    socket_user,
)
from tests.support import FakeClock

APP = "https://app.example"


@pytest.mark.parametrize(
    ("forwarded", "proxies", "found"),
    [
        (None, 0, "10.0.0.9"),
        ("1.2.3.4", 0, "10.0.0.9"),
        ("1.2.3.4", 1, "1.2.3.4"),
        ("6.6.6.6, 1.2.3.4", 1, "1.2.3.4"),
        ("6.6.6.6,1.2.3.4 , 10.0.0.1", 2, "1.2.3.4"),
        ("1.2.3.4:5678", 1, "1.2.3.4"),
        ("[2001:db8::1]:443", 1, "2001:db8::1"),
        ("[2001:db8::1]", 1, "2001:db8::1"),
        ("2001:db8::1", 1, "2001:db8::1"),
        ("::ffff:1.2.3.4", 1, "1.2.3.4"),
        (None, 1, None),
        ("", 1, None),
        ("1.2.3.4", 2, None),
        ("1.2.3.4,", 1, None),
        ("unknown", 1, None),
        ("for=1.2.3.4", 1, None),
    ],
)
def test_the_client_behind_proxies(forwarded: str | None, proxies: int, found: str | None) -> None:
    """Is who the outermost trusted proxy was called by; what callers write themselves counts for
    nothing, and where the proxies are not as many as configured nobody is let in."""
    client = client_address("10.0.0.9", forwarded, proxies)
    assert client == (None if found is None else ip_address(found))


@given(st.text("0123456789.:, []fa"), st.ip_addresses(v=4))
def test_what_a_client_writes_does_not_count(written: str, real: IPv4Address) -> None:
    """With one proxy its entry decides, whatever stands before it."""
    assert client_address("10.0.0.9", f"{written}, {real}", 1) == real


@pytest.mark.parametrize(
    ("client", "networks", "allowed"),
    [
        ("10.1.2.3", (), True),
        ("10.1.2.3", ("10.0.0.0/8",), True),
        ("::ffff:10.1.2.3", ("10.0.0.0/8",), True),
        ("11.1.2.3", ("10.0.0.0/8", "192.168.0.0/16"), False),
        ("2001:db8::1", ("2001:db8::/32",), True),
        ("2001:db9::1", ("2001:db8::/32", "0.0.0.0/0"), False),
    ],
)
def test_networks(client: str, networks: tuple[str, ...], *, allowed: bool) -> None:
    """A list lets in its own; without one everybody who has an address may come."""
    assert is_allowed(client_address(client, None, 0), networks) is allowed
    assert not is_allowed(None, networks)


def test_only_listed_pages_may_read() -> None:
    """The origin is compared whole, never with a wildcard; caches keep answers apart by it."""
    listed = cors_headers({"origin": APP}, (APP,))
    assert listed == {"vary": "Origin", "access-control-allow-origin": APP}
    for origin in ("https://evil.example", f"{APP}.evil.example", APP.upper(), "null", "*", ""):
        assert cors_headers({"origin": origin}, (APP,)) == {"vary": "Origin"}
        assert (
            preflight({"origin": origin, "access-control-request-method": "POST"}, (APP,)) is None
        )
    assert cors_headers({}, (APP,)) == {"vary": "Origin"}
    assert cors_headers({"origin": APP}, ()) == {}


def test_a_preflight_of_a_listed_page() -> None:
    """May use what headers it needs, without cookies; other OPTIONS are no preflight."""
    asked = {
        "origin": APP,
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization,content-type",
    }
    assert preflight(asked, (APP,)) == {
        "vary": "Origin",
        "access-control-allow-origin": APP,
        "access-control-allow-methods": "GET, POST",
        "access-control-allow-headers": "authorization,content-type",
        "access-control-max-age": "600",
    }
    assert preflight({"origin": APP}, (APP,)) is None
    assert preflight(asked, ()) is None


@pytest.mark.parametrize(
    ("host", "ours"),
    [
        ("localhost:8400", True),
        ("LOCALHOST.", True),
        ("127.0.0.1:8400", True),
        ("127.9.9.9", True),
        ("[::1]:8400", True),
        ("[::ffff:127.0.0.1]", True),
        ("evil.example:8400", False),
        ("127.0.0.1.evil.example", False),
        ("localhost.evil.example", False),
        ("0.0.0.0:8400", False),
        ("192.168.1.5:8400", False),
        ("localhost:8400/v1/models?", False),
        ("localhost@evil.example", False),
        ("user@localhost", False),
        ("localhost, evil.example", False),
        ("", False),
        (None, False),
    ],
)
def test_names_of_this_machine(host: str | None, *, ours: bool) -> None:
    """A page whose name was bent to 127.0.0.1 still sends its own name as `Host`."""
    headers = {} if host is None else {"host": host}
    assert is_foreign_page(headers, ()) is not ours


def test_pages_of_other_origins_are_foreign() -> None:
    """Also those of this machine, unless they are listed; programs send no origin."""
    host = {"host": "127.0.0.1:8400"}
    assert is_foreign_page({**host, "origin": "http://localhost:3000"}, ())
    assert is_foreign_page({**host, "origin": "null"}, (APP,))
    assert not is_foreign_page({**host, "origin": APP}, (APP,))


V4 = """\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:20D0 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1140 1
   1: 0100007F:20D0 0100007F:9C40 01 00000000:00000000 00:00000000 00000000  1000        0 1141 1
   2: 0100007F:9C40 0200007F:20D0 01 00000000:00000000 00:00000000 00000000  1002        0 1142 1
   3: 0100007F:9C40 0100007F:20D0 01 00000000:00000000 00:00000000 00000000  1001        0 1143 1
"""
V6 = """\
  sl  local_address                         remote_address                        st tx rx tr tm uid
   0: 00000000000000000000000001000000:9C41 00000000000000000000000001000000:20D0 01 0:0 0:0 0 1003 0 9
   1: 0000000000000000FFFF00000100007F:9C42 0000000000000000FFFF00000100007F:20D0 01 0:0 0:0 0 1004 0 9
"""  # noqa: E501


@pytest.mark.parametrize(
    ("client", "server", "user"),
    [
        (("127.0.0.1", 40000), ("127.0.0.1", 8400), 1001),
        (("::ffff:127.0.0.1", 40000), ("::ffff:127.0.0.1", 8400), 1001),
        (("127.0.0.1", 40000), ("127.0.0.2", 8400), 1002),
        (("127.0.0.1", 8400), ("127.0.0.1", 40000), 1000),
        (("::1", 40001), ("::1", 8400), 1003),
        (("127.0.0.1", 40002), ("127.0.0.1", 8400), 1004),
        (("127.0.0.1", 40003), ("127.0.0.1", 8400), None),
        (("127.0.0.1", 40001), ("127.0.0.1", 8400), None),
    ],
)
@pytest.mark.skipif("sys.byteorder != 'little'")
def test_the_user_of_a_socket(client: Socket, server: Socket, user: int | None) -> None:
    """Is the one of the line with both ends of the connection, seen from the client."""
    assert socket_user((V4, V6), client, server) == user


@pytest.mark.skipif("sys.platform != 'linux'")
@pytest.mark.parametrize(
    ("family", "host"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")]
)
def test_our_own_connections_are_ours(family: socket.AddressFamily, host: str) -> None:
    """As the kernel of this machine says, also of IPv6."""
    try:
        server = socket.create_server((host, 0), family=family)
    except OSError:
        pytest.skip(f"this machine has no {host}")
    with server, socket.create_connection(server.getsockname()[:2]) as client:
        ends = client.getsockname()[:2], server.getsockname()[:2]
        assert SameUser(FakeClock())(*ends)
        assert not SameUser(FakeClock())((host, 1), ends[1])


def test_other_users_are_refused(tmp_path: Path) -> None:
    """A connection that the table gives to somebody else is not ours; what it says holds for a
    second, for then the port may be another's."""
    clock = FakeClock()
    ends = ("127.0.0.1", 40000), ("127.0.0.1", 8400)
    same = SameUser(clock, tmp_path)
    (tmp_path / "tcp").write_text(V4)
    assert not same(*ends)
    (tmp_path / "tcp").write_text(V4.replace("  1001 ", f"  {os.getuid()} "))
    assert not same(*ends)
    clock.now += 1
    assert same(*ends)


def test_a_system_that_does_not_say(tmp_path: Path) -> None:
    """Without tables, or with empty ones, nobody is refused by them."""
    ends = ("127.0.0.1", 40000), ("127.0.0.1", 8400)
    assert SameUser(FakeClock(), tmp_path)(*ends)
    (tmp_path / "tcp").write_text(V4.splitlines()[0])
    assert SameUser(FakeClock(), tmp_path)(*ends)
