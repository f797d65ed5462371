"""What Ray says when it cannot be joined, in one line that names the setting."""

import pytest
from ray.exceptions import AuthenticationError

from star_batch.pipeline.joining import origin, why_not_joined


def chained(message: str, cause: str) -> Exception:
    error = ConnectionError(message)
    error.__cause__ = RuntimeError(cause)
    return error


MISMATCH = (
    "Version mismatch: The cluster was started with:\n    Ray: 2.60.0\n    Python: 3.11.7\n"
    "This process on node 10.0.0.1 was started with:\n    Ray: 2.55.0\n    Python: 3.12.1\n"
)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            chained(
                "Failed to connect to Ray cluster at 10.0.0.1:6379",
                "Failed to connect to GCS. Last connection error: Traceback\n  File ...\n"
                "ray.exceptions.AuthenticationError: InvalidAuthToken: Authentication token is missing or incorrect",
            ),
            "set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH to the cluster's",
        ),
        (
            AuthenticationError("Token authentication is enabled but no authentication token was found"),
            "RAY_AUTH_MODE is token, and there is none: set RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH",
        ),
        (ConnectionError("ray client connection timeout"), "is the port that of the Ray client (10001)"),
        (
            RuntimeError(MISMATCH),
            "The cluster was started with: Ray: 2.60.0 Python: 3.11.7 This process on node 10.0.0.1 was started with: "
            "Ray: 2.55.0 Python: 3.12.1; use the cluster's versions here",
        ),
        (ConnectionRefusedError(111, "Connection refused"), "[Errno 111] Connection refused"),
        (Exception("The current node timed out during startup. This could happen"), "the machine is busy"),
        (RuntimeError(), "RuntimeError"),
        (RuntimeError("first\x1b[31m\nsecond"), "first\\x1b[31m"),
    ],
)
def test_one_line_that_says_what_to_set(error: Exception, said: str) -> None:
    line = why_not_joined(error)
    assert said in line
    assert line.isprintable()


def test_an_address_that_nobody_has_typed_says_where_it_is_from() -> None:
    assert origin("10.0.0.1:6379", "10.0.0.1:6379") == "10.0.0.1:6379"
    assert origin("10.0.0.1:6379", None) == "10.0.0.1:6379 (RAY_ADDRESS)"
