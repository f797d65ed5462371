"""One place on a file system, local or in an object store, and what can be done there.

Everything goes through fsspec, so that one set of options serves Parquet, images and control files.
Knows no Ray and no schema, and never shows the value of an option.
"""

import contextlib
import errno
import functools
import logging
import os
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any, Concatenate, ParamSpec, TypeVar

import fsspec

from star_batch.config import RETRY_SECONDS
from star_batch.errors import ConfigError, StarBatchError
from star_batch.storage.hub import HUB, is_folder, names_repository
from star_batch.storage.locks import locked
from star_batch.storage.patient import PatientFile
from star_batch.storage.redaction import has_userinfo, redacted, without_credentials
from star_batch.storage.retry import retrying
from star_batch.storage.trouble import STORAGE_ERRORS as STORAGE_ERRORS
from star_batch.storage.trouble import code_of, typed
from star_batch.storage.trouble import explain as explain
from star_batch.storage.urls import absolute, scheme_of, with_defaults
from star_batch.wording import printable

# FAT, some FUSE mounts and some network shares.
_NO_LINKS = frozenset({errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK})

P = ParamSpec("P")
T = TypeVar("T")

# It logs what it raises as well, with a traceback each time.
logging.getLogger("gcsfs").setLevel(logging.CRITICAL)
# Else it asks another service, by gRPC and for minutes, what kind of bucket it is; conditions go by the JSON API alone.
os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")


def _retried(method: Callable[Concatenate["Location", P], T]) -> Callable[Concatenate["Location", P], T]:
    @functools.wraps(method)
    def patiently(self: "Location", /, *args: P.args, **kwargs: P.kwargs) -> T:
        return self.patiently(lambda: method(self, *args, **kwargs))

    return patiently


@dataclass(frozen=True, slots=True)
class Location:
    """A file or a folder: a local path, `s3://`, `gs://`, `hf://`; `options` are fsspec's for that file system.

    Passing trouble (a server that is busy, connections that break) is tried again for `retry_seconds`; what
    will not pass (access denied, a full disk) is raised at once.
    Make one with `Location.of`. Its methods raise what the file system raises: see `failing_as`.
    """

    url: str
    options: Mapping[str, Any] = field(default_factory=dict, repr=False)
    retry_seconds: float = RETRY_SECONDS

    @classmethod
    def of(
        cls, url: str, options: Mapping[str, Any] | None = None, *, retry_seconds: float = RETRY_SECONDS
    ) -> "Location":
        """A location that means the same in every process, whatever its folder and its environment.

        Raises:
            ConfigError: the scheme is unknown, its file system is not installed, or the URL holds a password.
        """
        if has_userinfo(url):
            raise ConfigError(f"{redacted(url)}: credentials do not belong into a URL: use the storage options")
        if "\0" in url:
            raise ConfigError(f"{printable(url)}: a path holds no null character")
        scheme, rest = scheme_of(url), url.partition("://")[2].strip("/")
        if scheme != "file" and not rest:
            raise ConfigError(f"{printable(url)}: names no bucket")
        if scheme == HUB and not names_repository(url):
            raise ConfigError(f"{printable(url)}: names no repository; write hf://datasets/OWNER/NAME/path")
        url = absolute(url) if scheme == "file" else f"{scheme}://{url.partition('://')[2].rstrip('/')}"
        location = cls(url, with_defaults(scheme, options or {}), retry_seconds)
        location._check_scheme()
        return location

    def _check_scheme(self) -> None:
        try:
            fsspec.get_filesystem_class(scheme_of(self.url))
        except ValueError:
            raise ConfigError(f"{self.shown}: unknown scheme; use a path, s3://, gs:// or hf://") from None
        except ImportError as error:
            raise ConfigError(f"{self.shown}: {error}") from None

    @property
    def shown(self) -> str:
        """How it may be written down."""
        return printable(without_credentials(self.url))

    @property
    def is_local(self) -> bool:
        return scheme_of(self.url) == "file"

    @property
    def fs(self) -> Any:
        return fsspec.core.url_to_fs(self.url, **self.options)[0]

    @property
    def path(self) -> str:
        """What the file system itself calls it."""
        return str(fsspec.core.url_to_fs(self.url, **self.options)[1])

    def at(self, *names: str) -> "Location":
        """A file or a folder below."""
        folder = self.url if self.url.endswith("/") else f"{self.url}/"
        return replace(self, url=folder + "/".join(names))

    def at_path(self, path: str) -> "Location":
        """Another file or folder of the same file system, under that system's own name for it."""
        return replace(self, url=path if self.is_local else f"{scheme_of(self.url)}://{path}")

    @_retried
    def exists(self) -> bool:
        return bool(self.fs.exists(self.path))

    @_retried
    def is_folder(self) -> bool:
        is_on_hub = scheme_of(self.url) == HUB
        return is_folder(self.fs, self.path) if is_on_hub else bool(self.fs.isdir(self.path))

    @_retried
    def files(self) -> list[str]:
        """Names of all files below, relative, sorted; none when there is no such folder."""
        return sorted(self._found())

    @_retried
    def sizes(self) -> dict[str, int]:
        """The same names with the files' sizes in bytes."""
        return dict(self._found(with_sizes=True))

    def _found(self, *, with_sizes: bool = False) -> dict[str, int]:
        if self.is_local:
            return dict(_walked(self.path, with_sizes))
        prefix = self.path.rstrip("/") + "/"
        try:
            found = self.fs.find(self.path, detail=with_sizes)
        except FileNotFoundError:
            return {}
        sizes = (
            {path: int(info["size"] or 0) for path, info in found.items()} if with_sizes else dict.fromkeys(found, 0)
        )
        return {str(path).removeprefix(prefix): size for path, size in sizes.items()}

    @_retried
    def delete(self) -> None:
        """Delete a file; one that is not there is fine."""
        with contextlib.suppress(FileNotFoundError):
            self.fs.rm_file(self.path)

    def patiently(self, work: Callable[[], T]) -> T:
        """Something else that is done with the file system."""

        def once() -> T:
            with typed():
                return work()

        return retrying(self)(once)

    def open_file(self, path: str, **options: Any) -> Any:
        """A file of the same file system, under that system's own name for it, to read and seek in."""
        file = self.patiently(lambda: self.fs.open(path, "rb", **options))
        return file if self.is_local else PatientFile(file, self.patiently)

    @_retried
    def read_bytes(self, start: int | None = None) -> bytes:
        """The whole file, or what is left of it from the byte `start`."""
        return bytes(self.fs.cat_file(self.path, start=start))

    @_retried
    def write_bytes(self, data: bytes) -> None:
        """Write a file that no reader ever sees half of."""
        if not self.is_local:
            self.fs.pipe_file(self.path, data)
            return
        with self._draft(data) as draft:
            draft.replace(self.path)

    @contextlib.contextmanager
    def writing(self) -> Iterator[IO[bytes]]:
        """A file to write piece by piece; it is there, whole, when the block has ended well, or else not at all."""
        if self.is_local:
            with self._draft(b"") as draft:
                with draft.open("wb") as local:
                    yield local
                draft.replace(self.path)
            return
        file: Any = self.patiently(lambda: self.fs.open(self.path, "wb", autocommit=False))
        with typed():
            try:
                yield file
                file.close()
                file.commit()
            except BaseException:
                file.discard()
                raise

    @_retried
    def create(self, data: bytes) -> None:
        """Write a whole file unless there is one.

        Raises:
            FileExistsError: there is one: another's, or our own when the reply to a first try was lost.
        """
        if not self.is_local:
            self._create_remotely(data)
            return
        with self._draft(data) as draft:
            try:
                # A hard link appears with its whole content or not at all, where O_EXCL would show an empty file.
                os.link(draft, self.path)
            except OSError as error:
                if error.errno not in _NO_LINKS:
                    raise
                self._create_under_lock(draft)

    def _create_under_lock(self, draft: Path) -> None:
        """For mounts without hard links: exclusive among those who come through here."""
        target = Path(self.path)
        with locked(target.with_name(".lock")):
            if target.exists():
                raise FileExistsError(errno.EEXIST, "exists already", self.path)
            draft.replace(target)

    def _create_remotely(self, data: bytes) -> None:
        try:
            self.fs.pipe_file(self.path, data, mode="create")
        except OSError as error:
            # s3fs looks for a field in the reply that not every S3 server sends.
            if code_of(error.__cause__) in ("PreconditionFailed", "412"):
                raise FileExistsError(errno.EEXIST, "exists already", self.path) from error
            raise

    @contextlib.contextmanager
    def _draft(self, data: bytes) -> Iterator[Path]:
        target = Path(self.path)
        if target.exists() and not target.is_file():
            raise OSError(errno.EEXIST, "something is there that is no regular file", self.path)
        target.parent.mkdir(parents=True, exist_ok=True)
        draft = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
        try:
            draft.write_bytes(data)
            yield draft
        finally:
            draft.unlink(missing_ok=True)


def _walked(top: str, with_sizes: bool) -> Iterator[tuple[str, int]]:
    """Files below a local folder. A folder that cannot be listed is trouble: fsspec would call it empty."""
    for folder, _, names in os.walk(top, onerror=_raise_unless_absent):
        for name in names:
            path = os.path.join(folder, name)
            with contextlib.suppress(FileNotFoundError):
                yield os.path.relpath(path, top), os.stat(path).st_size if with_sizes else 0


def _raise_unless_absent(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):
        raise error


@contextlib.contextmanager
def failing_as(kind: type[StarBatchError], doing: str, location: Location) -> Iterator[None]:
    """Turn what a file system raises into one clear line of `kind`.

    Raises:
        StarBatchError: of that kind.
    """
    try:
        with typed():
            yield
    except STORAGE_ERRORS as error:
        raise kind(f"{location.shown}: cannot {doing}: {explain(error, location.options)}") from None
