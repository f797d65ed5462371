"""A remote file for readers that seek: each read is tried again by itself. Knows no file system."""

import io
from collections.abc import Callable
from typing import Any


class PatientFile(io.RawIOBase):
    """A remote file whose reads are tried again, each by itself: what was read before is not read twice."""

    def __init__(self, file: Any, patiently: Callable[[Callable[[], bytes]], bytes]) -> None:
        self._file = file
        self._patiently = patiently

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        return int(self._file.seek(offset, whence))

    def tell(self) -> int:
        return int(self._file.tell())

    def read(self, size: int = -1) -> bytes:
        start = self.tell()

        def again() -> bytes:
            self.seek(start)
            return bytes(self._file.read(size))

        return self._patiently(again)

    def close(self) -> None:
        self._file.close()
        super().close()
