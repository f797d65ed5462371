"""Which commit of a repository on the Hugging Face Hub an input means. Opens no file; knows no format.

A branch moves on while a job runs, and workers would read what is there when they come. So a job asks once.
"""

import logging
import re

from star_batch.config import Input
from star_batch.errors import InputError
from star_batch.storage.hub import HUB
from star_batch.storage.location import Location, failing_as
from star_batch.storage.urls import scheme_of
from star_batch.wording import printable

_COMMIT = re.compile(r"[0-9a-f]{40}")

logger = logging.getLogger(__name__)


def pinned(config: Input) -> Input:
    """The same input; paths on the Hub have the commit that is there now, as `@commit`.

    Raises:
        InputError: the Hub cannot be asked, or has no such repository.
        ConfigError: a path cannot work.
    """
    if not any(scheme_of(path) == HUB for path in config.paths):
        return config
    known = dict[tuple[str, str, str], str]()
    paths = tuple(_pinned(path, config, known) for path in config.paths)
    return config.model_copy(update={"path": paths[0] if isinstance(config.path, str) else paths})


def _pinned(path: str, config: Input, known: dict[tuple[str, str, str], str]) -> str:
    place = Location.of(path, config.storage_options, retry_seconds=config.retry_seconds)
    if scheme_of(place.url) != HUB or place.path.startswith("buckets/"):
        return path
    with failing_as(InputError, "read the input", place):
        found = place.patiently(lambda: place.fs.resolve_path(place.path))
        asked = (found.repo_type, found.repo_id, found.revision)
        if asked not in known:
            known[asked] = place.patiently(lambda: _commit(place, *asked))
    kind = "" if found.repo_type == "model" else f"{found.repo_type}s/"
    within = f"/{found.path_in_repo}" if found.path_in_repo else ""
    return f"{HUB}://{kind}{found.repo_id}@{known[asked]}{within}"


def _commit(place: Location, kind: str, name: str, revision: str) -> str:
    if _COMMIT.fullmatch(revision):
        return revision
    from huggingface_hub import HfApi  # slow to import, and few inputs are there

    api = HfApi(endpoint=place.options.get("endpoint"), token=place.options.get("token"))
    sha = str(api.repo_info(name, revision=revision, repo_type=kind).sha)
    if not _COMMIT.fullmatch(sha):
        raise InputError(f"{place.shown}: the Hub names no commit for it")
    logger.info("%s: read at commit %s", place.shown, printable(sha))
    return sha
