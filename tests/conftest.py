"""What the slow rings share: one local Ray and one S3 server per session. Imports neither at module level."""

import logging
import os
import signal
from collections.abc import Iterator

import pytest
from hypothesis import settings

# On a busy machine any example may take long.
settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")

# The models here are tiny: a second thread only waits for the first, and on a busy machine it waits long.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# What a script starts in the background has Ctrl-C ignored, and hands that on; tests that press it need it.
signal.signal(signal.SIGINT, signal.default_int_handler)

# As in `star_batch.pipeline`; a test may import Ray first.
os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")

S3_KEY = "PLANTEDKEYAAAAAAAAAA"
S3_SECRET = "planted-secret-0123456789abcdef"
BUCKET = "bucket"


@pytest.fixture(scope="session")
def aws_environment() -> Iterator[None]:
    """Credentials that a test can look for wherever they must not be. Set before Ray starts its workers."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", S3_KEY)
        patch.setenv("AWS_SECRET_ACCESS_KEY", S3_SECRET)
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_PROFILE"):
            patch.delenv(name, raising=False)
        yield


@pytest.fixture(scope="session")
def local_ray(aws_environment: None) -> Iterator[None]:
    """A Ray on this machine with four logical CPUs, which asks for a token as a user's own does."""
    from star_batch.pipeline.tokens import own_token

    with own_token(), pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_BACKEND_LOG_LEVEL", "fatal")
        patch.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        patch.setenv("RAY_metrics_report_interval_ms", "1000")  # so that a test that looks at them need not wait
        import ray

        ray.init(
            address="local",
            num_cpus=4,
            object_store_memory=200 * 2**20,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
        yield
        ray.shutdown()


@pytest.fixture(scope="session")
def quiet_servers() -> Iterator[None]:
    """A line per request, and a traceback per client that hangs up, would bury what a failed test says."""
    from werkzeug.serving import BaseWSGIServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(BaseWSGIServer, "handle_error", lambda *_: None)
        yield


@pytest.fixture(scope="session")
def s3_server(aws_environment: None, quiet_servers: None) -> Iterator[str]:
    """The endpoint of an S3 server on this machine."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def s3_endpoint(s3_server: str) -> str:
    """The endpoint of a server whose one bucket is empty."""
    import boto3

    s3 = boto3.resource("s3", endpoint_url=s3_server)
    bucket = s3.Bucket(BUCKET)
    if bucket in s3.buckets.all():
        bucket.objects.all().delete()
    else:
        bucket.create()
    assert os.environ.get("AWS_ENDPOINT_URL") is None
    return s3_server
