"""A small API server on this machine: RayJobs of one namespace, and every fault that a night can bring."""

import json
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Literal

Manifest = dict[str, Any]
Fault = Literal["none", "lost"]
NO_FAULT: Fault = "none"
PATH = "/apis/ray.io/v1/namespaces/star-batch/rayjobs"


@dataclass(slots=True)
class Reply:
    """What a request gets."""

    code: int
    body: Manifest


def status(code: int, reason: str, message: str = "") -> Reply:
    return Reply(code, {"kind": "Status", "code": code, "reason": reason, "message": message})


@dataclass(slots=True)
class ApiServer:
    """RayJobs by name. `faults`: what happens to the first requests. `life`: what a job's status goes through."""

    jobs: dict[str, Manifest] = field(default_factory=dict)
    life: list[Manifest] = field(default_factory=list)
    faults: list[Reply | Fault] = field(default_factory=list)
    requests: list[tuple[str, str]] = field(default_factory=list)
    tokens: list[str] = field(default_factory=list)
    created: list[Manifest] = field(default_factory=list)
    on_get: Callable[[str], None] = lambda name: None
    url: str = ""

    def answer(self, method: str, path: str, body: bytes) -> Reply | None:
        """None: the request takes effect, and nobody is told."""
        self.requests.append((method, path))
        fault = self.faults.pop(0) if self.faults else NO_FAULT
        if isinstance(fault, Reply):
            return fault
        reply = self._create(json.loads(body)) if method == "POST" else self._get(path.removeprefix(f"{PATH}/"))
        return None if fault == "lost" else reply

    def _create(self, job: Manifest) -> Reply:
        name = job["metadata"]["name"]
        if name in self.jobs:
            return status(409, "AlreadyExists", f'rayjobs.ray.io "{name}" already exists')
        self.jobs[name] = job
        self.created.append(job)
        return Reply(201, job)

    def _get(self, name: str) -> Reply:
        self.on_get(name)
        if name not in self.jobs:
            return status(404, "NotFound", f'rayjobs.ray.io "{name}" not found')
        job = self.jobs[name]
        if not job["spec"].get("suspend") and self.life:
            job["status"] = self.life.pop(0) if len(self.life) > 1 else self.life[0]
        return Reply(200, job)


@contextmanager
def serving(server: ApiServer, certificate: Path | None = None) -> Iterator[ApiServer]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._reply(b"")

        def do_POST(self) -> None:
            self._reply(self.rfile.read(int(self.headers["Content-Length"])))

        def _reply(self, body: bytes) -> None:
            server.tokens.append(self.headers["Authorization"])
            reply = server.answer(self.command, self.path, body)
            if reply is None:
                self.close_connection = True
                return
            self.send_response(reply.code)
            self.end_headers()
            self.wfile.write(json.dumps(reply.body).encode())

        def log_message(self, *_: object) -> None:
            """Silence."""

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        http.socket = context.wrap_socket(http.socket, server_side=True)
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    server.url = f"http{'s' if certificate else ''}://127.0.0.1:{http.server_port}"
    try:
        yield server
    finally:
        http.shutdown()
        http.server_close()
        thread.join()
