"""A server on this machine that speaks as much of Google Cloud Storage's JSON API as a job needs.

Generations and their conditions are honoured, unless it is told to be deaf to them; it can be busy, and lose replies.
"""

import base64
import contextlib
import hashlib
import json
import random
import threading
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar
from urllib.parse import parse_qsl, unquote, urlsplit

_TIME = "2026-01-01T00:00:00.000Z"
_STORAGE, _DOWNLOAD, _UPLOAD = "/storage/v1/b/", "/download/storage/v1/b/", "/upload/storage/v1/b/"


@dataclass(frozen=True)
class Stored:
    """One generation of an object."""

    data: bytes
    generation: int


class Refused(Exception):
    """What the server answers instead."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(status, message)
        self.status, self.message = status, message


@dataclass
class Google:
    """What is in the buckets, and how the server is today."""

    is_deaf: bool = False
    busy: float = 0.0
    lost: float = 0.0
    refuses: Refused | None = None
    dice: random.Random = field(default_factory=lambda: random.Random(3))
    objects: dict[tuple[str, str], Stored] = field(default_factory=dict)
    sessions: dict[str, tuple[str, str, dict[str, str], bytes]] = field(default_factory=dict)
    num_requests: int = 0
    num_lost: int = 0
    last: int = 1_000_000
    lock: threading.Lock = field(default_factory=threading.Lock)

    def insert(self, bucket: str, name: str, query: dict[str, str], data: bytes) -> dict[str, Any]:
        with self.lock:
            there = self.objects.get((bucket, name))
            wanted = query.get("ifGenerationMatch")
            if wanted is not None and not self.is_deaf and int(wanted) != (there.generation if there else 0):
                raise Refused(412, "At least one of the pre-conditions you specified did not hold.")
            self.last += 1
            self.objects[bucket, name] = Stored(data, self.last)
            return self.shown(bucket, name)

    def get(self, bucket: str, name: str) -> Stored:
        if (bucket, name) not in self.objects:
            raise Refused(404, f"No such object: {bucket}/{name}")
        return self.objects[bucket, name]

    def shown(self, bucket: str, name: str) -> dict[str, Any]:
        stored = self.get(bucket, name)
        return {
            "kind": "storage#object",
            "bucket": bucket,
            "name": name,
            "size": str(len(stored.data)),
            "generation": str(stored.generation),
            "metageneration": "1",
            "md5Hash": base64.b64encode(hashlib.md5(stored.data).digest()).decode(),
            "contentType": "application/octet-stream",
            "updated": _TIME,
            "timeCreated": _TIME,
        }

    def listed(self, bucket: str, query: dict[str, str]) -> dict[str, Any]:
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter")
        names = sorted(name for place, name in list(self.objects) if place == bucket and name.startswith(prefix))
        folders = {
            prefix + name.removeprefix(prefix).partition(delimiter)[0] + delimiter
            for name in names
            if delimiter and delimiter in name.removeprefix(prefix)
        }
        items = [name for name in names if not any(name.startswith(folder) for folder in folders)]
        return {
            "kind": "storage#objects",
            "items": [self.shown(bucket, name) for name in items],
            "prefixes": sorted(folders),
        }


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    google: ClassVar[Google]
    location: str | None = None

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self._answer(self._get)

    def do_POST(self) -> None:
        self._answer(self._post)

    def do_PUT(self) -> None:
        self._answer(self._post)

    def do_DELETE(self) -> None:
        self._answer(self._delete)

    def _answer(self, act: Callable[[str, dict[str, str], bytes], Any]) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        url, google = urlsplit(self.path), self.google
        google.num_requests += 1
        try:
            if google.refuses is not None:
                raise google.refuses
            if google.dice.random() < google.busy:
                raise Refused(503, "Backend Error")
            said = act(url.path, dict(parse_qsl(url.query)), body)
            if self.command == "POST" and google.dice.random() < google.lost:
                google.num_lost += 1
                raise Refused(503, "Backend Error")
            self._send(200, said if isinstance(said, bytes) else json.dumps(said).encode())
        except Refused as error:
            if error.status == 308:  # more of an upload is to come
                self._send(308, b"", Range=error.message)
                return
            said = {"error": {"code": error.status, "message": error.message}}
            self._send(error.status, json.dumps(said).encode())

    def _send(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        if self.location is not None:
            self.send_header("Location", self.location)
            self.location = None
        self.end_headers()
        self.wfile.write(body)

    def _get(self, path: str, query: dict[str, str], body: bytes) -> Any:
        bucket, _, rest = path.removeprefix(_DOWNLOAD).removeprefix(_STORAGE).partition("/")
        if not rest:
            return {"kind": "storage#bucket", "name": bucket}
        if rest == "o":
            return self.google.listed(bucket, query)
        name = unquote(rest.removeprefix("o/"))
        if query.get("alt") != "media":
            return self.google.shown(bucket, name)
        return self._ranged(self.google.get(bucket, name).data)

    def _ranged(self, data: bytes) -> bytes:
        wanted = self.headers.get("Range")
        if wanted is None:
            return data
        start, _, end = wanted.removeprefix("bytes=").partition("-")
        if start and int(start) >= len(data):
            raise Refused(416, "Request range not satisfiable")
        return data[int(start) : int(end) + 1 if end else None] if start else data[-int(end) :]

    def _post(self, path: str, query: dict[str, str], body: bytes) -> Any:
        if path.startswith("/session/"):
            return self._continue(path.rpartition("/")[2], body)
        bucket = path.removeprefix(_UPLOAD).partition("/")[0]
        if query["uploadType"] == "media":
            return self.google.insert(bucket, query["name"], query, body)
        if query["uploadType"] == "resumable":
            session = uuid.uuid4().hex
            self.google.sessions[session] = (bucket, json.loads(body)["name"], query, b"")
            self.location = f"http://{self.headers['Host']}/session/{session}"
            return {}
        _, rest = body.split(b"\n\n", 1)
        about, rest = rest.split(b"\n--==0==\n", 1)
        data = rest.split(b"\n\n", 1)[1].removesuffix(b"\n--==0==--")
        return self.google.insert(bucket, json.loads(about)["name"], query, data)

    def _continue(self, session: str, body: bytes) -> Any:
        bucket, name, query, data = self.google.sessions[session]
        self.google.sessions[session] = (bucket, name, query, data + body)
        total = self.headers["Content-Range"].rpartition("/")[2]
        if total == "*" or int(total) > len(data + body):
            raise Refused(308, f"bytes=0-{len(data + body) - 1}")
        return self.google.insert(bucket, name, query, data + body)

    def _delete(self, path: str, query: dict[str, str], body: bytes) -> Any:
        if path.startswith("/session/"):
            return b""
        bucket, _, rest = path.removeprefix(_STORAGE).partition("/")
        name = unquote(rest.removeprefix("o/"))
        with self.google.lock:
            self.google.get(bucket, name)
            del self.google.objects[bucket, name]
        return b""


@contextlib.contextmanager
def google_storage(**moods: Any) -> Iterator[tuple[str, Google]]:
    """An endpoint; every bucket is there, and empty."""
    google = Google(**moods)
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("BoundHandler", (Handler,), {"google": google}))
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", google
    server.shutdown()
    server.server_close()
