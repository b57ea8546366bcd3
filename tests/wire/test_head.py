"""The bytes of a request's head: what HTTP wants, and nothing that a value smuggles in."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmctl.wire.failures import Unsendable
from llmctl.wire.head import Heads, Origin, lines

URL = "http://api.example/v1"


def head(
    url: str = URL + "/x",
    headers: dict[str, str] | None = None,
    *,
    method: str = "POST",
    size: int = 3,
    base: str | None = None,
    proxy: dict[str, str] | None = None,
) -> str:
    """The head of one request."""
    heads = Heads(Origin.of(base or url), proxy)
    return heads.of(method, url, headers or {}, size).decode("latin-1")


def test_a_request() -> None:
    """The line, the host, the fields in their order and the length."""
    assert head(headers={"Content-Type": "application/json", "x-a": "b\xe9\t"}) == (
        "POST /v1/x HTTP/1.1\r\nhost: api.example\r\naccept: */*\r\n"
        "content-type: application/json\r\nx-a: b\xe9\t\r\ncontent-length: 3\r\n\r\n"
    )


def test_a_length_where_it_means_something() -> None:
    """A POST says that it has no body, a GET has none without saying so."""
    assert "content-length: 0\r\n" in head(size=0)
    assert "content-length" not in head(size=0, method="GET")


def test_own_accept() -> None:
    """Who says what is accepted says it alone."""
    assert head(headers={"Accept": "a/b"}).count("accept") == 1


@pytest.mark.parametrize(
    ("url", "host", "target"),
    [
        ("http://h", "h", "/"),
        ("http://h:80/a?b=c&d", "h", "/a?b=c&d"),
        ("https://h:443/a%20b#c", "h", "/a%20b"),
        ("https://h:80/?q", "h:80", "/?q"),
        ("http://H:8080/A", "h:8080", "/A"),
        ("http://[::1]:8080/", "[::1]:8080", "/"),
        ("http://[fe80::1%25eth0]/", "[fe80::1]", "/"),
        ("https://m\xfcnchen.example/v1", "xn--mnchen-3ya.example", "/v1"),
    ],
)
def test_addresses(url: str, host: str, target: str) -> None:
    """The host as it must be written, the port only where it is not the usual one."""
    first, second = head(url).split("\r\n")[:2]
    assert (first, second) == (f"POST {target} HTTP/1.1", f"host: {host}")


def test_to_a_proxy() -> None:
    """A proxy is told the whole address, and its password; the origin is the host still."""
    said = head("http://h:81/a?b", proxy={"Proxy-Authorization": "Basic x"})
    assert said.startswith("POST http://h:81/a?b HTTP/1.1\r\nhost: h:81\r\n")
    assert "Proxy-Authorization: Basic x\r\n" in said


def test_a_login_in_the_address() -> None:
    """Name and password of an address go where they belong, unless a header says otherwise."""
    said = head("http://ann:pass%20word@h/a", base="http://h")
    assert said.startswith("POST /a HTTP/1.1\r\nhost: h\r\n")
    assert "authorization: Basic YW5uOnBhc3Mgd29yZA==\r\n" in said
    assert "Basic" not in head("http://ann:x@h/a", {"Authorization": "Bearer k"}, base="http://h")


@pytest.mark.parametrize("bad", ["\r", "\n", "\r\nx-evil: 1", "\0", "\x7f", "\u20ac", "\u2028"])
def test_no_value_writes_headers(bad: str) -> None:
    """What could end a value is refused, with the header's name and without the value."""
    with pytest.raises(Unsendable, match="authorization") as caught:
        head(headers={"authorization": f"Bearer secret{bad}"})
    assert "secret" not in str(caught.value)
    with pytest.raises(Unsendable, match="name"):
        head(headers={f"x-{bad}": "y"})
    with pytest.raises(Unsendable):
        lines("CONNECT h:443 HTTP/1.1", {"proxy-authorization": bad})


@pytest.mark.parametrize("name", ["", " ", "a b", "a:", "\xe9"])
def test_names_are_tokens(name: str) -> None:
    """A header's name has no blank, colon or accent, and is not empty."""
    with pytest.raises(Unsendable):
        head(headers={name: "y"})


@pytest.mark.parametrize(
    ("name", "value"),
    [("Host", "evil.example"), ("content-length", "0"), ("Transfer-Encoding", "chunked")],
)
def test_who_says_where_it_ends(name: str, value: str) -> None:
    """What decides where a request goes and ends is not for others to say."""
    with pytest.raises(Unsendable, match=name.lower()):
        head(headers={name: value})


@pytest.mark.parametrize(
    "url",
    [
        "http://h/a b", "http://h/a\r\nx: y", "http://h/\xe9", "http://h/\0", "http://h/?\n",
        "http://h/a#\r\n", "http://other.example/", "https://h/", "http://h:81/", "http:///x",
        "http://h:x/", "ftp://h/", "h", "", "http://h\r\n/", "http://[::1/",
    ],
)  # fmt: skip
def test_addresses_that_are_none(url: str) -> None:
    """An address that is malformed, not encoded or somebody else's is refused: the key in the
    headers is for one origin."""
    with pytest.raises(Unsendable):
        head(url, base="http://h")


@pytest.mark.parametrize("method", ["", "GET ", "GET /x HTTP/1.1\r\n", "G\xe9T"])
def test_methods_are_tokens(method: str) -> None:
    """A method is one word."""
    with pytest.raises(Unsendable):
        head(method=method)


@given(
    st.dictionaries(st.text(max_size=8), st.text(max_size=12), max_size=4),
    st.text(max_size=12),
)
def test_nothing_is_smuggled_in(headers: dict[str, str], path: str) -> None:
    """Whatever headers and path hold: they are refused, or the head has one line for each."""
    try:
        said = head(f"http://h/{path}", headers, base="http://h")
    except Unsendable:
        return
    first, *fields, length, empty, rest = said.split("\r\n")
    assert (length, empty, rest) == ("content-length: 3", "", "")
    assert first.count(" ") == 2
    wanted = {"host": "h", "accept": "*/*", **{k.lower(): v for k, v in headers.items()}}
    assert dict(field.split(": ", 1) for field in fields) == wanted


def test_what_is_remembered() -> None:
    """Requests that differ get what is theirs, also when more differ than are remembered."""
    heads = Heads(Origin.of(URL))
    for _ in range(2):
        for number in range(200):
            said = heads.of("POST", URL, {"x": str(number)}, number)
            assert f"x: {number}\r\ncontent-length: {number}\r\n".encode() in said
            assert heads.of("POST", f"{URL}/{number}", {}, 1).startswith(
                f"POST /v1/{number} ".encode()
            )
    assert len(heads._known) <= 64
