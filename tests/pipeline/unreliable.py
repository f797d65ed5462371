"""An S3 server on this machine that fails as real ones do: busy, slow, broken connections, lost replies."""

import contextlib
import random
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any


@dataclass
class Unreliable:
    """Shares of the requests that meet each kind of trouble."""

    app: Any
    dice: random.Random
    busy: float = 0.05
    lost: float = 0.05
    reset: float = 0.02
    slow: float = 0.05
    num_lost: int = 0

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Any:
        roll = self.dice.random()
        if self.dice.random() < self.slow:
            time.sleep(0.05)
        if roll < self.busy:
            environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
            return self._say_busy(start_response)
        if roll < self.busy + self.reset:
            environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
            raise ConnectionResetError
        if environ["REQUEST_METHOD"] == "PUT" and roll < self.busy + self.reset + self.lost:
            self.num_lost += 1
            b"".join(self.app(environ, lambda status, headers, error=None: None))
            return self._say_busy(start_response)
        return self.app(environ, start_response)

    def _say_busy(self, start_response: Any) -> list[bytes]:
        body = b"<?xml version='1.0'?><Error><Code>SlowDown</Code><Message>slow down</Message></Error>"
        start_response("503 Slow Down", [("Content-Type", "application/xml"), ("Content-Length", str(len(body)))])
        return [body]


@contextlib.contextmanager
def unreliable_s3(bucket: str, seed: int) -> Iterator[tuple[str, Unreliable]]:
    """An endpoint, with an empty bucket behind it."""
    import boto3
    from botocore.config import Config
    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import make_server

    app = Unreliable(DomainDispatcherApplication(create_backend_app), random.Random(seed))
    server = make_server("127.0.0.1", 0, app, threaded=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    endpoint = f"http://127.0.0.1:{server.port}"
    patient = Config(retries={"max_attempts": 15, "mode": "standard"})
    boto3.client("s3", endpoint_url=endpoint, config=patient).create_bucket(Bucket=bucket)
    yield endpoint, app
    server.shutdown()
