"""The Hugging Face Hub as a file system: names of its repositories, what it raises, and what its client is told.

Its client is huggingface_hub's own; errors are known by where they are defined, as no job but those that read there
needs it. Knows no file, and never shows a token.
"""

import os
import re
from collections.abc import Mapping
from typing import Any

HUB = "hf"
"""The scheme: `hf://datasets/OWNER/NAME@REVISION/path`."""

_PACKAGES = frozenset({"huggingface_hub", "httpx", "httpx2"})
_KIND = r"(?:datasets|spaces|models|buckets)/"
_REPOSITORY = re.compile(rf"hf://(?:{_KIND})?(?!{_KIND})[^/@]+/[^/@]+(?:[/@].*)?", re.DOTALL)
_LOG_IN = "log in (hf auth login) or set HF_TOKEN"
_TOLD = {
    "OfflineModeIsEnabled": "HF_HUB_OFFLINE is set: unset it, or read files of this machine",
    "GatedRepoError": f"it is gated: ask for access on its page, then {_LOG_IN}",
    "DisabledRepoError": "the Hub has disabled it",
    "RevisionNotFoundError": "there is no such revision",
    "RepositoryNotFoundError": f"no such repository, or it is private: check the name, and {_LOG_IN}",
    "BucketNotFoundError": f"no such bucket, or it is private: check the name, and {_LOG_IN}",
    "HFValidationError": "names no repository: write hf://datasets/OWNER/NAME/path",
    "HfUriError": "names no repository: write hf://datasets/OWNER/NAME/path",
    "EntryNotFoundError": "not found",
}
_DENIED = frozenset({401, 403})


def names_repository(url: str) -> bool:
    """Whether a URL says whose repository it is, and which."""
    return _REPOSITORY.fullmatch(url) is not None


def with_hub_defaults(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options for workers on other machines, which share neither the environment nor the login."""
    given = dict(options)
    if endpoint := os.environ.get("HF_ENDPOINT"):
        given.setdefault("endpoint", endpoint)
    if "token" not in given and (token := _token()):
        given["token"] = token
    return given


def _token() -> str | None:
    from huggingface_hub import constants, get_token  # slow to import, and few inputs are there

    return None if constants.HF_HUB_DISABLE_IMPLICIT_TOKEN else get_token()


def is_hubs(error: BaseException | None) -> bool:
    """Whether the Hub's client has made it."""
    return any(package in _PACKAGES for package, _ in _kinds(error))


def passes(error: BaseException, transient: frozenset[int]) -> bool:
    """Whether trying again may help, by the numbers of HTTP for which it may."""
    names = {name for _, name in _kinds(error)}
    if names & _TOLD.keys():
        return False
    return "TransportError" in names or status_of(error) in transient


def status_of(error: BaseException | None) -> int | None:
    """HTTP's number for it."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    return status if isinstance(status, int) else None


def told(error: BaseException | None) -> str | None:
    """What the Hub's client means, and what can be done; nothing of other errors."""
    if error is None or not is_hubs(error):
        return None
    names = [name for _, name in _kinds(error)]
    for name in names:
        if name in _TOLD:
            return _TOLD[name]
    if "TransportError" in names:
        return f"the Hub cannot be reached ({_first_line(error)})"
    status = status_of(error)
    if status in _DENIED:
        return f"access denied: {_LOG_IN} with a token that may read it"
    return _first_line(error) if status is None else f"the Hub says {status}"


def is_folder(fs: Any, path: str) -> bool:
    """As `isdir` of the file system, which however takes all trouble for no."""
    try:
        return bool(fs.info(path)["type"] == "directory")
    except FileNotFoundError as error:
        if error.__cause__ is not None:  # not even the repository is there
            raise
        return False


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _kinds(error: BaseException | None) -> list[tuple[str, str]]:
    """Package and name of each class that it is an instance of, the nearest first."""
    return [(kind.__module__.partition(".")[0], kind.__name__) for kind in type(error).__mro__]
