"""The few requests of the Hugging Face Hub that reading a data set needs, served on this machine."""

import contextlib
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from urllib.parse import unquote, urlsplit

COMMIT, NEXT = "1" * 40, "2" * 40


@dataclass
class Hub:
    """`owner/name` at two commits; `main` is the first until `moved`. `refused` is what every request gets instead."""

    files: Mapping[str, Mapping[str, bytes]]
    url: str = ""
    main: str = COMMIT
    token: str | None = None
    refused: tuple[int, str] | None = None
    hiccups: int = 0
    asked: Counter[str] = field(default_factory=Counter)
    tokens: set[str] = field(default_factory=set)


class _Handler(BaseHTTPRequestHandler):
    hub: Hub

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.asked[path] += 1
        self.hub.tokens.add(self.headers.get("authorization", ""))
        if self.hub.hiccups:
            self.hub.hiccups -= 1
            self._send(503, b"busy")
        elif self.hub.refused is not None:
            self._send(self.hub.refused[0], b"{}", {"X-Error-Code": self.hub.refused[1]})
        elif found := re.fullmatch(r"/api/datasets/owner/name(?:/revision/([^/]+))?", path):
            self._info(found[1] or "main")
        elif found := re.fullmatch(r"/api/datasets/owner/name/tree/([^/]+)(?:/(.*))?", path):
            self._tree(found[1], found[2] or "")
        elif found := re.fullmatch(r"/datasets/owner/name/resolve/([^/]+)/(.*)", path):
            self._file(found[1], found[2])
        else:
            self._send(401, b"{}", {"X-Error-Code": "RepoNotFound"})

    def _commit(self, revision: str) -> str:
        return self.hub.main if revision == "main" else revision

    def _info(self, revision: str) -> None:
        commit = self._commit(revision)
        if commit not in self.hub.files:
            self._send(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
        else:
            self._send(200, json.dumps({"id": "owner/name", "sha": commit}).encode())

    def _tree(self, revision: str, folder: str) -> None:
        files = self.hub.files[self._commit(revision)]
        prefix = f"{folder}/" if folder else ""
        below = {name.removeprefix(prefix) for name in files if name.startswith(prefix)}
        if not below:
            self._send(404, b"{}", {"X-Error-Code": "EntryNotFound"})
            return
        is_deep = "recursive=true" in urlsplit(self.path).query.lower()
        entries: list[dict[str, object]] = []
        for name in sorted({"/".join(n.split("/")[: k + 1]) for n in below for k in range(n.count("/") + 1)}):
            kind = {"type": "file", "size": len(files.get(prefix + name, b""))}
            kind = kind if prefix + name in files else {"type": "directory"}
            if is_deep or "/" not in name:
                entries.append({"path": prefix + name, "oid": "0" * 40} | kind)
        self._send(200, json.dumps(entries).encode())

    def _file(self, revision: str, name: str) -> None:
        data = self.hub.files[self._commit(revision)].get(name)
        if data is None:
            self._send(404, b"{}", {"X-Error-Code": "EntryNotFound"})
        elif found := re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("range", "")):
            self._send(206, data[int(found[1]) : int(found[2]) + 1])
        else:
            self._send(200, data)

    def _send(self, status: int, data: bytes, headers: Mapping[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), "ETag": '"x"', **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)


@contextlib.contextmanager
def serving(files: Mapping[str, Mapping[str, bytes]]) -> Iterator[Hub]:
    """The repository `datasets/owner/name`, by commit and path."""
    hub = Hub(files)
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
