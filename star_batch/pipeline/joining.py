"""Why a Ray cannot be joined or started, in one line that says what to set. Knows no job and starts nothing."""

from collections.abc import Iterator

import ray.exceptions

from star_batch.storage.redaction import redacted
from star_batch.wording import printable

_NEEDS_TOKEN = (
    "the cluster asks for a token, and this process brings none or another: set RAY_AUTH_MODE=token, and "
    "RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH to the cluster's (`ray get-auth-token` on its head shows it)"
)
_NO_TOKEN = (
    "RAY_AUTH_MODE is token, and there is none: set RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH to the cluster's "
    "(`ray get-auth-token` on its head shows it), or leave RAY_AUTH_MODE out if the cluster asks for none"
)
_NO_CLIENT = (
    "no answer within Ray's time: is the port that of the Ray client (10001), and does the cluster ask for a token "
    "(RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH)?"
)
_TOO_SLOW = "it did not come up within Ray's 30 s: the machine is busy, or has little memory left; run it again"


def why_not_joined(error: BaseException) -> str:
    """What an error of `ray.init` means, in one line."""
    said = "\n".join(_chain(error))
    if isinstance(error, ray.exceptions.AuthenticationError) and "no authentication token was found" in said:
        return _NO_TOKEN
    if "InvalidAuthToken" in said or "Unauthenticated" in said:
        return _NEEDS_TOKEN
    if "ray client connection timeout" in said:
        return _NO_CLIENT
    if said.startswith("Version mismatch"):
        return printable(f"{' '.join(str(error).split())}; use the cluster's versions here")
    if "timed out during startup" in said:
        return _TOO_SLOW
    return printable(redacted(str(error)).strip().partition("\n")[0] or type(error).__name__)


def _chain(error: BaseException | None) -> Iterator[str]:
    while error is not None:
        yield str(error)
        error = error.__cause__ or error.__context__


def origin(address: str, configured: str | None) -> str:
    """An address as it is shown, with where it was read if nobody has typed it for this job."""
    shown = printable(redacted(address))
    return shown if configured is not None else f"{shown} (RAY_ADDRESS)"
