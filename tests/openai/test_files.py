"""Files of requests as people have them: any packer, any encoding, one file or many, whole or cut."""

import bz2
import codecs
import gzip
import io
import json
import logging
import lzma
import os
import zipfile
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from star_batch.config import Input
from star_batch.errors import InputError
from star_batch.openai.files import find_files, read_text
from star_batch.storage.location import Location
from tests.conftest import BUCKET

TEXT = "".join(json.dumps({"custom_id": f"é{number}"}, ensure_ascii=False) + "\n" for number in range(40_000))
DATA = TEXT.encode()


def packed_by(codec: str) -> Callable[[bytes], bytes]:
    def pack(data: bytes) -> bytes:
        sink = pa.BufferOutputStream()
        with pa.CompressedOutputStream(sink, codec) as file:
            file.write(data)
        return bytes(sink.getvalue())

    return pack


def zipped(data: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("in.jsonl", data)
    return buffer.getvalue()


PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "bzip2": bz2.compress,
    "xz": lzma.compress,
    "zstd": packed_by("zstd"),
    "lz4": packed_by("lz4"),
}


def read(path: Path | str) -> bytes:
    return b"".join(read_text(Location.of(str(path))))


def written(folder: Path, data: bytes, name: str = "in.jsonl") -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("packer", [*PACKERS, "zip"])
def test_a_packed_file_is_read_whatever_its_name_says(tmp_path: Path, packer: str) -> None:
    pack = (PACKERS | {"zip": zipped})[packer]
    assert read(written(tmp_path, pack(DATA), "in.jsonl.gz")) == DATA
    assert read(written(tmp_path, pack(DATA), "in.jsonl")) == DATA


@pytest.mark.parametrize("packer", PACKERS)
def test_packed_files_one_after_the_other(tmp_path: Path, packer: str) -> None:
    pack = PACKERS[packer]
    assert read(written(tmp_path, pack(DATA) + pack(b"{}"))) == DATA + b"{}"


@pytest.mark.parametrize("packer", [*PACKERS, "zip"])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.99])
def test_a_cut_file_is_one_clear_line(tmp_path: Path, packer: str, share: float) -> None:
    data = (PACKERS | {"zip": zipped})[packer](DATA)
    path = written(tmp_path, data[: max(6, int(len(data) * share))])
    with pytest.raises(
        InputError, match=rf"in\.jsonl: is a {packer} file that is (cut|broken) .* up to line "
    ) as caught:
        read(path)
    assert "\n" not in str(caught.value)


def test_where_a_file_is_cut_is_said(tmp_path: Path) -> None:
    lines = [json.dumps({"custom_id": str(number), "noise": os.urandom(1000).hex()}) for number in range(1000)]
    data = gzip.compress("\n".join(lines).encode())
    with pytest.raises(InputError, match=r"cut .*: (\d[\d,]*) bytes of text could be read, up to line 5\d\d;"):
        read(written(tmp_path, data[: int(len(data) * 0.55)]))


@pytest.mark.parametrize("packer", PACKERS)
def test_a_broken_file_is_one_clear_line(tmp_path: Path, packer: str) -> None:
    data = bytearray(PACKERS[packer](os.urandom(300_000)))
    data[6:200] = b"\xff" * 194
    with pytest.raises(InputError, match=rf"is a {packer} file that is (broken|cut)"):
        read(written(tmp_path, bytes(data)))


@pytest.mark.parametrize(("flags", "name"), [(b"\0\xff", b"a\xa4"), (b"\0\0", b"\0b")], ids=["no text", "empty"])
def test_a_zip_whose_directory_has_a_broken_name(tmp_path: Path, flags: bytes, name: bytes) -> None:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("ab", "{}")
    data = bytearray(stream.getvalue())
    entry = data.index(b"PK\x01\x02")
    data[entry + 8 : entry + 10], data[entry + 46 : entry + 48] = flags, name
    with pytest.raises(InputError, match="is a zip file that is broken"):
        read(written(tmp_path, bytes(data)))


def test_a_zip_of_several_files_says_so(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "in.zip", "w") as archive:
        archive.writestr("a", "{}")
        archive.writestr("b", "{}")
    with pytest.raises(InputError, match="it holds 2 files; one is read"):
        read(tmp_path / "in.zip")


@pytest.mark.parametrize(
    ("encoding", "mark"),
    [
        ("utf-8", codecs.BOM_UTF8),
        ("utf-16-le", codecs.BOM_UTF16_LE),
        ("utf-16-be", codecs.BOM_UTF16_BE),
        ("utf-32-le", codecs.BOM_UTF32_LE),
        ("utf-32-be", codecs.BOM_UTF32_BE),
        ("utf-8", b""),
        ("utf-16-le", b""),
        ("utf-16-be", b""),
    ],
)
def test_encodings_are_told_by_how_a_file_begins(tmp_path: Path, encoding: str, mark: bytes) -> None:
    assert read(written(tmp_path, mark + TEXT.encode(encoding))) == DATA
    assert read(written(tmp_path, gzip.compress(mark + TEXT.encode(encoding)))) == DATA


def test_utf_16_that_ends_within_a_letter(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is utf-16-le by how it begins, and cut or broken"):
        read(written(tmp_path, codecs.BOM_UTF16_LE + "{}\n".encode("utf-16-le") + b"{"))


def test_half_a_surrogate_pair_is_passed_on_and_not_replaced(tmp_path: Path) -> None:
    text = '{"a": "\ud800"}'
    path = written(tmp_path, codecs.BOM_UTF16_LE + text.encode("utf-16-le", "surrogatepass"))
    assert read(path) == text.encode("utf-8", "surrogatepass")


@pytest.mark.parametrize("data", [b"", b"\0", b"\0\0\0\0{}", b"\xff{}", b"{", b"\x1f{}"])
def test_what_is_no_text_comes_as_it_is(tmp_path: Path, data: bytes) -> None:
    assert read(written(tmp_path, data)) == data


@pytest.mark.parametrize(("data", "said"), [(b"PAR1....", "a Parquet file"), (gzip.compress(DATA), "gzip in it")])
def test_what_cannot_be_meant_is_refused(tmp_path: Path, data: bytes, said: str) -> None:
    with pytest.raises(InputError, match=said):
        read(written(tmp_path, gzip.compress(data)))


def found(*paths: Path | str, own: Path | None = None) -> list[str]:
    config = Input(path=tuple(map(str, paths)), kind="openai")
    files = find_files(config, [Location.of(str(own))] if own else [])
    return [os.path.basename(file.path) for file in files]


def folder_of_all(tmp_path: Path) -> Path:
    names = [
        "b.jsonl",
        "sub/a.JSONL.GZ",
        "c.ndjson.zst",
        "d.json",
        "notes.txt",
        "x.parquet",
        "_old/e.jsonl",
        ".f.jsonl",
    ]
    for name in names:
        written(tmp_path / "in", b"{}", name)
    return tmp_path / "in"


def test_a_folder_holds_files_of_requests_and_others(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        assert found(folder_of_all(tmp_path)) == ["b.jsonl", "c.ndjson.zst", "d.json", "a.JSONL.GZ"]
    assert "left alone, as no requests by their names: .txt 1, .parquet 1" in caplog.text


def test_lists_and_globs_name_each_file_once(tmp_path: Path) -> None:
    folder = folder_of_all(tmp_path)
    assert found(folder / "d.json", folder / "*.json*", folder) == ["d.json", "b.jsonl", "c.ndjson.zst", "a.JSONL.GZ"]
    odd = written(tmp_path / "[2026]", b"{}", "a[1].jsonl")
    assert found(odd) == found(odd.parent) == ["a[1].jsonl"]


def test_links_are_followed_and_circles_seen(tmp_path: Path) -> None:
    folder = folder_of_all(tmp_path)
    (folder / "sub" / "round").symlink_to(folder)
    written(tmp_path / "elsewhere", b"{}", "z.jsonl")
    (folder / "link").symlink_to(tmp_path / "elsewhere")
    assert found(folder) == ["b.jsonl", "c.ndjson.zst", "d.json", "z.jsonl", "a.JSONL.GZ"]


def test_the_jobs_own_results_are_no_requests_unless_they_are_named(tmp_path: Path) -> None:
    own = written(tmp_path, b"{}", "output.jsonl")
    written(tmp_path, b"{}", "in.jsonl")
    assert found(tmp_path, own=own) == ["in.jsonl"]
    assert found(own, own=own) == ["output.jsonl"]


def test_nothing_there(tmp_path: Path) -> None:
    written(tmp_path, b"", "a.txt")
    with pytest.raises(InputError, match=r"no requests there .*; found: \.txt 1"):
        found(tmp_path)
    with pytest.raises(InputError, match="no files there match"):
        found(tmp_path / "*.jsonl")
    with pytest.raises(InputError, match=r"'\*\*' can only be an entire path component"):
        found(tmp_path / "**.jsonl")
    with pytest.raises(InputError, match="not found"):
        found(tmp_path / "none.jsonl")


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "in.jsonl")
    with pytest.raises(InputError, match="is not a regular file"):
        found(tmp_path / "in.jsonl")
    with pytest.raises(InputError, match="no requests there"):
        found(tmp_path)


def test_files_in_a_bucket(s3_endpoint: str) -> None:
    options = {"endpoint_url": s3_endpoint}
    place = Location.of(f"s3://{BUCKET}/requests", options)
    place.at("a.jsonl.zst").write_bytes(PACKERS["zstd"](DATA))
    place.at("sub", "b.jsonl").write_bytes(b"{}")
    place.at("c.txt").write_bytes(b"{}")
    for path in (place.url, f"{place.url}/**/*.jsonl*"):
        files = find_files(Input(path=path, kind="openai", storage_options=options))
        assert [b"".join(read_text(file)) for file in files] == [DATA, b"{}"]
