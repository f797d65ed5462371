"""Only regular files are read, whatever a name stands for, and only so much of them."""

import os
import re
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from star_batch.errors import ImageFetchFailed, ImageFetchRefused, ImageTooLarge
from star_batch.regular import read_regular


def make_socket(path: Path) -> None:
    # Its name may be too long for a socket.
    with socket.socket(socket.AF_UNIX) as one:
        folder = os.open(path.parent, os.O_RDONLY)
        one.bind(f"/proc/self/fd/{folder}/{path.name}")
        os.close(folder)


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    ("make", "kind"),
    [(os.mkfifo, "a pipe"), (make_socket, "a socket"), (Path.mkdir, "a folder")],
)
def test_what_is_no_file_is_not_opened(tmp_path: Path, make: Callable[[Path], None], kind: str) -> None:
    make(tmp_path / "x")
    (tmp_path / "link").symlink_to("x")
    for name in ("x", "link"):
        with pytest.raises(ImageFetchFailed, match=f"is {kind}, not a file"):
            read_regular(str(tmp_path / name), 100)


@pytest.mark.parametrize("path", ["/dev/zero", "/dev/null", "/dev/tty"])
def test_devices(path: str) -> None:
    with pytest.raises(ImageFetchFailed, match="is a device"):
        read_regular(path, 100)


def test_a_large_file_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(10_000_000_000)
    with pytest.raises(ImageTooLarge, match="10,000,000,000 bytes; the limit is 1,000"):
        read_regular(str(tmp_path / "sparse"), 1000)


def test_sizes_around_the_limit_and_the_pieces(tmp_path: Path) -> None:
    path = tmp_path / "a"
    for size in (0, 1, 4096, 9_000_000):
        path.write_bytes(os.urandom(size))
        assert read_regular(str(path), max(size, 1)) == path.read_bytes()
        if size > 1:
            with pytest.raises(ImageTooLarge):
                read_regular(str(path), size - 1)


def test_a_file_that_says_it_is_empty_is_read_to_its_end_or_the_limit(tmp_path: Path) -> None:
    """As those of some network mounts do; of this machine only the kernel's."""
    assert read_regular("/proc/self/status", 100_000).startswith(b"Name:")
    with pytest.raises(ImageTooLarge, match="more than 10 bytes"):
        read_regular("/proc/self/status", 10)


def test_the_check_sees_where_links_lead_before_anything_is_opened(tmp_path: Path) -> None:
    (tmp_path / "secret").mkdir()
    (tmp_path / "link").symlink_to("secret")
    os.mkfifo(tmp_path / "secret" / "x")

    def refuse(real: str) -> None:
        raise ImageFetchRefused(real)

    with pytest.raises(ImageFetchRefused, match=re.escape(f"{tmp_path.resolve()}/secret/x")):
        read_regular(str(tmp_path / "link" / "x"), 100, refuse)


@pytest.mark.parametrize("becomes", ["link", "pipe"])
@pytest.mark.timeout(20)
def test_a_file_that_is_exchanged_before_it_is_opened(
    tmp_path: Path, becomes: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, secret, real_open = tmp_path / "a", tmp_path / "secret", os.open
    path.write_bytes(b"image")
    secret.write_bytes(b"secret")

    def exchange(name: str, flags: int) -> int:
        path.unlink()
        path.symlink_to(secret) if becomes == "link" else os.mkfifo(path)
        return real_open(name, flags)

    def only_images(real: str) -> None:
        if real.endswith("secret"):
            raise ImageFetchRefused("no")

    monkeypatch.setattr(os, "open", exchange)
    with pytest.raises((ImageFetchRefused, ImageFetchFailed)):
        read_regular(str(path), 100, only_images)


def test_no_descriptor_stays_open(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"image")
    before = len(os.listdir("/proc/self/fd"))
    for limit in (1, 100):
        for _ in range(20):
            try:
                read_regular(str(tmp_path / "a"), limit)
            except ImageTooLarge:
                assert limit == 1
    assert len(os.listdir("/proc/self/fd")) == before
