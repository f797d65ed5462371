"""Fetching from a server on this machine, which is what it must not reach unless it is told to."""

import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import aiohttp.resolver
import pytest

from star_batch.config import Fetch
from star_batch.inputs.fetch import fetch_all
from tests.pipeline.samples import png

BODY = png(1)


class Server(ThreadingHTTPServer):
    """Serves by path what a web may: images, redirects, and trouble."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[str] = []
        self.num_busy = 0

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        what, _, rest = self.path[1:].partition("?")[0].partition("/")
        getattr(self, f"_{what}", self._missing)(rest)

    def _send(self, status: int, body: bytes = b"", length: int | None = None, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if length is None or length >= 0:
            self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        self.wfile.write(body)

    def _image(self, rest: str) -> None:
        self._send(200, BODY)

    def _to(self, rest: str) -> None:
        self._send(302, Location=rest)

    def _again(self, rest: str) -> None:
        number = int(rest)
        self._send(301, Location=f"/again/{number - 1}" if number else "/image")

    def _busy(self, rest: str) -> None:
        self.server.num_busy += 1
        self._send(503) if self.server.num_busy < 3 else self._send(200, BODY)

    def _large(self, rest: str) -> None:
        self._send(200, b"x" * 5000, length=None if rest == "said" else -1)

    def _slow(self, rest: str) -> None:
        time.sleep(1.0)
        self._send(200, BODY)

    def _cut(self, rest: str) -> None:
        self._send(200, BODY, length=len(BODY) + 10)

    def _missing(self, rest: str) -> None:
        self._send(404)


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def fetch(url: str, **policy: Any) -> tuple[bytes | None, str | None, str]:
    [found] = fetch_all([url], Fetch.model_validate({"schemes": ["http", "https"], "allow_private": True} | policy))
    assert found.seconds >= 0.0
    assert (found.data is None) != (found.error is None)
    return found.data, found.error.kind if found.error else None, str(found.error or "")


def test_an_image(server: Server) -> None:
    assert fetch(f"http://{server.host}/image", hosts=[server.host])[0] == BODY


def test_many_at_once_in_their_order(server: Server) -> None:
    urls = [f"http://{server.host}/{'image' if number % 3 else 'none'}?{number}" for number in range(50)]
    found = fetch_all(urls, Fetch(hosts=(server.host,), schemes=("http",), allow_private=True))
    assert [each.data for each in found] == [BODY if number % 3 else None for number in range(50)]


@pytest.mark.parametrize(
    ("path", "policy", "kind", "said"),
    [
        ("none", {}, "image_fetch_failed", "the server says 404 Not Found"),
        ("large/said", {"max_bytes": 4000}, "image_too_large", "more than 4,000 bytes"),
        ("large/unsaid", {"max_bytes": 4000}, "image_too_large", "more than 4,000 bytes"),
        ("slow", {"seconds": 0.2}, "image_fetch_failed", "not there within 0.2 seconds"),
        ("cut", {}, "image_fetch_failed", "ClientPayloadError"),
        ("again/5", {"max_redirects": 2}, "image_fetch_refused", "more than 2 redirects"),
        ("to/https://elsewhere.example/a.png", {}, "image_fetch_refused", "host is not one of"),
        ("to/file:///etc/passwd", {}, "image_fetch_refused", "file is not one of input.fetch.schemes"),
        ("to/http://127.0.0.1:1/", {}, "image_fetch_refused", "host is not one of"),
        ("image", {"schemes": ["https"]}, "image_fetch_refused", "http is not one of input.fetch.schemes"),
    ],
)
def test_what_cannot_be_had(server: Server, path: str, policy: dict[str, Any], kind: str, said: str) -> None:
    _, found, message = fetch(f"http://{server.host}/{path}?signature=hunter2", **{"hosts": [server.host]} | policy)
    assert (found, said in message) == (kind, True), message
    assert "hunter2" not in message


def test_redirects_are_followed_as_far_as_allowed(server: Server) -> None:
    assert fetch(f"http://{server.host}/again/2", hosts=[server.host])[0] == BODY


def test_a_busy_server_is_asked_again(server: Server) -> None:
    assert fetch(f"http://{server.host}/busy", hosts=[server.host])[0] == BODY
    assert server.num_busy == 3


def test_nobody_there() -> None:
    _, kind, said = fetch("http://127.0.0.1:9/", hosts=["127.0.0.1:9"])
    assert kind == "image_fetch_failed"
    assert "cannot connect" in said


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost", "127.1", "2130706433", "0x7f000001", "[::ffff:7f00:1]"])
def test_a_private_address_is_not_connected_to(server: Server, name: str) -> None:
    host = server.host.replace("127.0.0.1", name)
    policy = Fetch(hosts=("*", "localhost", host), schemes=("http",))
    [found] = fetch_all([f"http://{host}/image"], policy)
    assert found.error is not None
    assert server.asked == []


def test_the_refusal_names_the_address(server: Server) -> None:
    _, kind, said = fetch(f"http://{server.host}/image", hosts=[server.host], allow_private=False)
    assert (kind, said) == ("image_fetch_refused", f"http://{server.host}/image: 127.0.0.1 is not a public address")


def test_a_name_that_turns_private_is_not_connected_to(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing depends on what the name meant when somebody looked before."""

    async def rebound(self: Any, host: str, port: int = 0, family: int = 0) -> list[dict[str, Any]]:
        return [{"hostname": host, "host": "127.0.0.1", "port": port, "family": socket.AF_INET, "proto": 6, "flags": 0}]

    monkeypatch.setattr(aiohttp.resolver.ThreadedResolver, "resolve", rebound)
    host = f"images.example.org:{server.server_address[1]}"
    assert fetch(f"http://{host}/image", hosts=["*.example.org", host], allow_private=False)[1] == "image_fetch_refused"
    assert server.asked == []
    assert fetch(f"http://{host}/image", hosts=[host])[0] == BODY


@pytest.mark.parametrize(
    ("url", "hosts", "is_allowed"),
    [
        ("http://a.example/x", ["a.example"], True),
        ("http://A.example./x", ["a.EXAMPLE"], True),
        ("http://b.a.example/x", ["a.example"], False),
        ("http://b.a.example/x", ["*.a.example"], True),
        ("http://a.example/x", ["*.a.example"], False),
        ("http://eva.example/x", ["*.a.example", "a.example"], False),
        ("http://a.example:8080/x", ["a.example"], False),
        ("http://a.example:8080/x", ["a.example:8080"], True),
        ("http://a.example:22/x", ["*"], False),
        ("http://a.example/x", ["*"], True),
        ("http://a.example@b.example/x", ["a.example"], False),
        ("http://u:p@a.example/x", ["a.example"], False),
        ("http://a.example%2f@b.example/", ["a.example"], False),
        ("http://bücher.example/x", ["xn--bcher-kva.example"], True),
        ("http://xn--bcher-kva.example/x", ["bücher.example"], True),
        ("http:///x", ["*"], False),
        ("http://[::1]:80/x", ["a.example"], False),
        ("http://[::1]:80/x", ["[::1]"], True),
    ],
)
def test_hosts(url: str, hosts: list[str], is_allowed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    async def nothing(*_: object) -> bytes:
        return BODY

    monkeypatch.setattr("star_batch.inputs.fetch._get", nothing)
    data, kind, _ = fetch(url, hosts=hosts)
    assert data == (BODY if is_allowed else None)
    assert is_allowed or kind in ("image_fetch_refused", "image_fetch_failed")
