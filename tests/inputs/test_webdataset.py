"""WebDataset as an input: shards as webdataset and img2dataset write them, and broken and hostile ones."""

import contextlib
import gzip
import io
import json
import os
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import webdataset
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from star_batch.errors import ConfigError, InputError
from star_batch.inputs import archives
from star_batch.inputs.base import plan_input
from star_batch.inputs.braces import expand
from star_batch.inputs.preprocess import Preprocess
from star_batch.inputs.rows import InputPlan, read_rows
from star_batch.inputs.shards import survey
from star_batch.inputs.sources import Sources
from star_batch.inputs.tar import Broken, Window, read_members
from star_batch.storage.location import Location
from tests.conftest import BUCKET
from tests.pipeline import bare
from tests.pipeline.fakes import FakePreprocessor
from tests.pipeline.samples import input_config, job, png
from tests.storage.test_hostile_files import star_batch

PROMPT = "what is {caption}?"


def write_shard(path: Path, numbers: range, shard: int = 0) -> Path:
    """As img2dataset does."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with webdataset.TarWriter(str(path)) as writer:
        for number in numbers:
            key = f"{shard:05d}{number:04d}"
            words = {"caption": f"thing {number}", "url": f"https://example.org/{number}", "key": key, "width": 12}
            sample = {"__key__": key, "png": png(number % 256), "txt": f"thing {number}", "json": words}
            writer.write(sample)
    return path


def write_tar(path: Path, *members: tuple[str | tarfile.TarInfo, bytes], format: int = tarfile.PAX_FORMAT) -> Path:
    with tarfile.open(path, "w", format=format) as tar:
        for name, data in members:
            info = name if isinstance(name, tarfile.TarInfo) else tarfile.TarInfo(name)
            info.size = info.size or len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def plan_of(path: Path | str | list[Path | str], **more: Any) -> InputPlan:
    return plan_input(input_config(path, kind="webdataset", **{"prompt": "what?"} | more))


def read(plan: InputPlan) -> list[dict[str, Any]]:
    return [row for piece in plan.pieces for table in read_rows(plan, piece) for row in table.to_pylist()]


def prepared(path: Path | str, **more: Any) -> dict[str, dict[str, Any]]:
    config = input_config(path, kind="webdataset", **{"prompt": "what?"} | more)
    plan = plan_input(config)
    sources = Sources.of(config, plan.root)
    stage = Preprocess(input=config, schema=plan.schema, sources=sources, load=FakePreprocessor)
    rows = [row for piece in plan.pieces for table in read_rows(plan, piece) for row in stage(table).to_pylist()]
    assert [row["id"] for row in rows] == plan.ids().to_pylist()
    assert len({row["id"] for row in rows}) == len(rows)
    return {row["id"]: row for row in rows}


def errors(rows: dict[str, dict[str, Any]]) -> dict[str, str | None]:
    return {id: row["error_type"] for id, row in rows.items()}


def test_rows_are_what_webdataset_reads(tmp_path: Path) -> None:
    for shard in range(2):
        write_shard(tmp_path / f"{shard:05d}.tar", range(300), shard)
    urls = [str(tmp_path / f"{shard:05d}.tar") for shard in range(2)]
    theirs = list(webdataset.WebDataset(urls, shardshuffle=False, empty_check=False))
    plan = plan_of(tmp_path, prompt=PROMPT, keep_columns=["__key__", "txt", "width"])
    ours = read(plan)
    assert [row["star_batch:id"] for row in ours] == [
        f"{os.path.basename(each['__url__'])}/{each['__key__']}" for each in theirs
    ]
    assert [(row["__key__"], row["image"], row["txt"].encode()) for row in ours] == [
        (each["__key__"], each["png"], each["txt"]) for each in theirs
    ]
    assert [row["caption"] for row in ours] == [json.loads(each["json"])["caption"] for each in theirs]
    assert {row["width"] for row in ours} == {"12"}
    assert plan.num_files == 2
    assert [len(piece) for piece in plan.pieces] == [256, 44] * 2


def test_shards_by_folder_glob_list_and_braces(tmp_path: Path) -> None:
    for shard in range(3):
        write_shard(tmp_path / "in" / f"{shard:05d}.tar", range(2), shard)
    whole = plan_of(tmp_path / "in").ids().to_pylist()
    assert len(whole) == 6
    for path in ("*.tar", "{00000..00002}.tar", "0000{0,1,2}.tar"):
        assert plan_of(tmp_path / "in" / path).ids().to_pylist() == whole
    assert plan_of([tmp_path / "in" / f"{shard:05d}.tar" for shard in range(3)]).ids().to_pylist() == whole
    with pytest.raises(InputError, match=r"00003\.tar: .*not found"):
        plan_of(tmp_path / "in" / "{00000..00003}.tar")
    write_shard(tmp_path / "in" / "{0..1}.tar", range(1))
    assert plan_of(tmp_path / "in" / "{0..1}.tar").ids().to_pylist() == ["{0..1}.tar/000000000"]


def test_braces() -> None:
    assert expand("a{08..11}b{x,y}") == [f"a{n}b{c}" for n in ("08", "09", "10", "11") for c in "xy"]
    assert expand("{2..0}") == ["2", "1", "0"]
    assert expand("plain{x}{}") == ["plain{x}{}"]
    with pytest.raises(ConfigError, match="means more than 1,000,000 files"):
        expand("{0..999999999999}")


def test_what_is_wrong_with_one_sample_is_its_own_error(tmp_path: Path) -> None:
    link = tarfile.TarInfo("link.jpg")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    device = tarfile.TarInfo("device.jpg")
    device.type = tarfile.CHRTYPE
    write_tar(
        tmp_path / "a.tar",
        ("ok.PNG", png(1)),
        ("ok.json", b'{"caption": "x"}'),
        ("none.json", b'{"caption": "x"}'),
        ("empty.jpg", b""),
        ("empty.json", b'{"caption": "x"}'),
        (link, b""),
        (device, b""),
        ("large.png", png(2) + bytes(5000)),
        ("broken.png", png(3)),
        ("broken.json", b'{"caption": '),
        ("list.png", png(3)),
        ("list.json", b"[1]"),
        ("null.png", png(3)),
        ("null.json", b'{"caption": null}'),
        ("twice.png", png(4)),
        ("twice.png", png(5)),
        ("two.webp", b"not an image"),
        ("two.jpg", png(6)),
        ("two.json", b'{"caption": "x"}'),
        ("../up/./x.png", png(7)),
        ("/root/x.png", png(8)),
        ("folder/", b""),
        ("no_suffix", b"x"),
        (".hidden.png", b"x"),
        ("__notes__/x.json", b"x"),
        ("ok.png", png(9)),
        ("ok#2.png", png(9)),
        ("ok.png", png(9)),
    )
    found = prepared(tmp_path / "a.tar", prompt="what is {caption}?", max_image_bytes=4000)
    assert errors(found) == {
        "a.tar/ok": None,
        "a.tar/none": "image_missing",
        "a.tar/empty": "image_missing",
        "a.tar/link": "image_unreadable",
        "a.tar/device": "image_unreadable",
        "a.tar/large": "image_too_large",
        "a.tar/broken": "value_invalid",
        "a.tar/list": "value_invalid",
        "a.tar/null": "prompt_missing",
        "a.tar/twice": "value_invalid",
        "a.tar/two": None,
        "a.tar/../up/./x": "prompt_missing",
        "a.tar//root/x": "prompt_missing",
        "a.tar/ok#3": "prompt_missing",
        "a.tar/ok#2": "prompt_missing",
        "a.tar/ok#4": "prompt_missing",
    }
    assert "no image among .json" in found["a.tar/none"]["error"]
    assert "large.png: 5,0" in found["a.tar/large"]["error"]
    assert not list(tmp_path.parent.glob("**/x.png"))


def test_the_image_can_be_named(tmp_path: Path) -> None:
    write_tar(tmp_path / "a.tar", ("1.left.png", png(1)), ("1.right.png", png(2)), ("2.left.png", png(3)))
    colours = [(row["id"], row["error_type"]) for row in prepared(tmp_path, image_column="right.png").values()]
    assert colours == [("a.tar/1", None), ("a.tar/2", "image_missing")]
    assert set(errors(prepared(tmp_path, image_column="right.png;left.png")).values()) == {None}
    assert read(plan_of(tmp_path))[0]["image"] == png(1)
    with pytest.raises(InputError, match=r"no column 'jgp' for image_column"):
        plan_of(tmp_path, image_column="jgp")
    with pytest.raises(InputError, match=r"no column 'captoin' for prompt"):
        plan_of(write_shard(tmp_path / "b.tar", range(2)), prompt="{captoin}")


@pytest.mark.parametrize("format", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
def test_headers_of_every_kind(tmp_path: Path, format: int) -> None:
    names = [f"{'d' * 90}/{'e' * 60}.png", "ü.png", "plain.png"]
    if format != tarfile.USTAR_FORMAT:
        names.append(f"{'f' * 200}.png")
    write_tar(tmp_path / "a.tar", *((name, png(1)) for name in names), format=format)
    assert plan_of(tmp_path).ids().to_pylist() == [f"a.tar/{name.removesuffix('.png')}" for name in names]
    odd = tarfile.TarInfo("caf\udce9.png")
    write_tar(tmp_path / "a.tar", (odd, png(1)), format=tarfile.GNU_FORMAT)
    assert plan_of(tmp_path).ids().to_pylist() == ["a.tar/caf\\xe9"]


@settings(max_examples=40)
@given(size=st.integers(1, 20_000))
def test_of_a_cut_archive_the_samples_before_are_there(tmp_path_factory: pytest.TempPathFactory, size: int) -> None:
    folder = tmp_path_factory.mktemp("cut")
    whole = write_shard(folder / "whole.tar", range(6)).read_bytes()
    (folder / "a.tar").write_bytes(whole[:size])
    if size < 1536:  # the headers of the first member
        with pytest.raises(InputError, match=r"a\.tar: is no tar archive"):
            plan_of(folder / "a.tar")
        return
    found = prepared(folder / "a.tar", prompt="{caption}") if size > 4096 else prepared(folder / "a.tar")
    good = [id for id, row in found.items() if row["error"] is None]
    assert good == [f"a.tar/00000{n:04d}" for n in range(len(good))]
    assert len(found) - len(good) <= 2
    assert all("a.tar" in row["error"] or "caption" in row["error"] for row in found.values() if row["error"])


@settings(max_examples=60)
@given(data=st.data())
def test_no_bytes_are_a_traceback(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    folder = tmp_path_factory.mktemp("odd")
    content = bytearray(write_shard(folder / "a.tar", range(3)).read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(content) - 1))
        piece = data.draw(st.binary(min_size=1, max_size=20))
        content[at : at + len(piece)] = piece
    (folder / "a.tar").write_bytes(content)
    with contextlib.suppress(InputError):
        prepared(folder / "a.tar")


@given(st.binary(max_size=3000))
def test_random_bytes_are_members_or_broken(content: bytes) -> None:
    window = Window(lambda start, end: content[start:end], len(content))
    with contextlib.suppress(Broken):
        list(read_members(window))
    survey(window)


def bomb(type: bytes, size: int) -> bytes:
    info = tarfile.TarInfo("x.png")
    info.type, info.size = type, size
    return info.tobuf(tarfile.GNU_FORMAT)


@pytest.mark.parametrize(
    "head",
    [
        bomb(b"L", 2**40),
        bomb(b"x", 2**33),
        bomb(b"L", 5000) + b"n" * 5120 + bomb(b"0", 0),
        bomb(b"x", 512) + b"99 path=x\n".ljust(512, b"\0") + bomb(b"0", 0),
        bomb(b"x", 512)
        + f"{len('29 size=99999999999999999999') + 1} size=99999999999999999999\n".encode().ljust(512, b"\0")
        + bomb(b"0", 0),
        bomb(b"g", 0) * 100,
    ],
)
def test_headers_that_lie_break_the_archive_there(tmp_path: Path, head: bytes) -> None:
    good = write_tar(tmp_path / "good.tar", ("1.png", png(1))).read_bytes()
    end = 512 + -(-len(png(1)) // 512) * 512
    (tmp_path / "a.tar").write_bytes(good[:end] + head + bytes(1024))
    found = prepared(tmp_path / "a.tar")
    assert errors(found) == {"a.tar/1": None, "a.tar": "value_invalid"}
    assert f"at byte {end:,}" in found["a.tar"]["error"]


def test_a_member_that_says_it_is_huge_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(bomb(b"0", 2**50))
    assert errors(prepared(tmp_path)) == {"a.tar/x": "image_unreadable"}
    with (tmp_path / "a.tar").open("wb") as file:
        file.write(bomb(b"0", 2**33))
        file.truncate(2**33 + 2048)
    assert errors(prepared(tmp_path)) == {"a.tar/x": "image_too_large"}


def test_sparse_members_are_no_images(tmp_path: Path) -> None:
    sparse = bytearray(bomb(b"S", 512))
    write_tar(tmp_path / "a.tar", ("2.png", png(1)))
    rest = (tmp_path / "a.tar").read_bytes()
    (tmp_path / "a.tar").write_bytes(bytes(sparse) + bytes(512) + rest)
    assert errors(prepared(tmp_path)) == {"a.tar/x": "image_unreadable", "a.tar/2": None}


@pytest.mark.parametrize(
    ("name", "pack"),
    [
        ("a.tar.gz", gzip.compress),
        ("a.tgz", gzip.compress),
        ("a.tar.zst", lambda data: zstandard.ZstdCompressor().compress(data)),
        ("a.tar", gzip.compress),
        ("a.tar", lambda data: zstandard.ZstdCompressor().compress(data)),
    ],
)
def test_packed_shards_are_refused_by_name(tmp_path: Path, name: str, pack: Callable[[bytes], bytes]) -> None:
    data = write_shard(tmp_path / "good.tar", range(2)).read_bytes()
    (tmp_path / name).write_bytes(pack(data))
    with pytest.raises(InputError, match=rf"{name}: is packed.*unpack archives to \.tar first"):
        plan_of(tmp_path)


@pytest.mark.parametrize(
    ("data", "why"),
    [(b"", "is empty"), (b"<!DOCTYPE html>" * 99, "is no tar archive"), (bytes(10240), "without a single sample")],
)
def test_what_is_no_archive_is_refused_by_name(tmp_path: Path, data: bytes, why: str) -> None:
    (tmp_path / "a.tar").write_bytes(data)
    with pytest.raises(InputError, match=why):
        plan_of(tmp_path)
    with pytest.raises(InputError, match=r"\.tar 1; archives of samples are read with kind: webdataset"):
        plan_input(input_config(tmp_path))


def test_no_image_is_read_for_rows_that_are_not_wanted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = plan_of(write_shard(tmp_path / "a.tar", range(300)), prompt=PROMPT, id_column="key")
    read_bytes = list[str]()
    original = archives.SampleReader._bytes

    def noted(self: Any, member: Any, error: Any) -> bytes:
        read_bytes.append(member.name)
        return original(self, member, error)

    monkeypatch.setattr(archives.SampleReader, "_bytes", noted)
    assert plan.ids().to_pylist()[-1] == "000000299"
    assert not [name for name in read_bytes if name.endswith(".png")]
    read_bytes.clear()
    [row] = read(plan.only(np.arange(300) == 299))
    assert (row["star_batch:id"], row["image"], row["caption"]) == ("000000299", png(299 % 256), "thing 299")
    assert sorted(read_bytes) == ["000000299.json", "000000299.png"]


def test_a_limit_reads_no_more_shards_than_it_needs(tmp_path: Path) -> None:
    write_shard(tmp_path / "a.tar", range(5))
    (tmp_path / "b.tar").write_bytes(b"no tar")
    assert len(read(plan_of(tmp_path, limit=3))) == 3


def test_a_shard_that_changes_behind_the_plan_is_no_lost_row(tmp_path: Path) -> None:
    plan = plan_of(write_shard(tmp_path / "a.tar", range(5)))
    write_shard(tmp_path / "a.tar", range(7, 12))
    with pytest.raises(InputError, match=r"a\.tar: has changed since it was planned: no sample '000000000' there"):
        read(plan)


def test_shards_in_a_bucket_are_planned_and_read_in_ranges(tmp_path: Path, s3_endpoint: str) -> None:
    options = {"client_kwargs": {"endpoint_url": s3_endpoint}}
    for shard in range(2):
        path = write_shard(tmp_path / f"{shard:05d}.tar", range(40), shard)
        Location.of(f"s3://{BUCKET}/in/{shard:05d}.tar", options).write_bytes(path.read_bytes())
    near = read(plan_of(tmp_path, prompt=PROMPT))
    far = f"s3://{BUCKET}/in"
    assert read(plan_of(f"{far}/{{00000..00001}}.tar", prompt=PROMPT, storage_options=options)) == near
    assert set(errors(prepared(far, prompt=PROMPT, storage_options=options)).values()) == {None}


def test_a_window_asks_for_more_as_it_goes_on_and_for_little_where_it_jumps() -> None:
    asked = list[tuple[int, int]]()
    content = bytes(range(256)) * 400

    def ranges(start: int, end: int) -> bytes:
        asked.append((start, end))
        return content[start:end]

    window = Window(ranges, len(content), least=1000, most=4000)
    assert window.at(0, 512) == content[:512]
    assert window.at(512, 1000) == content[512:1512]
    assert window.at(50_000, 10) == content[50_000:50_010]
    assert window.at(len(content) - 5, 99) == content[-5:]
    assert window.at(len(content) + 5, 99) == b""
    assert asked == [(0, 1000), (512, 2512), (50_000, 51_000), (len(content) - 5, len(content))]


def test_a_job_goes_on_where_it_was_left(tmp_path: Path) -> None:
    log = str(tmp_path / "log")
    write_shard(tmp_path / "in" / "00000.tar", range(20))
    sections = {"kind": "webdataset", "prompt": PROMPT, "keep_columns": ["url"]}
    assert bare.finish(job(tmp_path / "in", tmp_path / "out", input=sections | {"limit": 15}), log) == 0
    write_shard(tmp_path / "in" / "00001.tar", range(20), 1)
    assert bare.finish(job(tmp_path / "in", tmp_path / "out", input=sections), log) == 0
    ids = [f"{shard:05d}.tar/{shard:05d}{number:04d}" for shard in range(2) for number in range(20)]
    assert (tmp_path / "log").read_text().split() == ids
    answers = pq.read_table(tmp_path / "out" / "answers").to_pylist()
    assert {row["id"]: row["url"] for row in answers} == {id: f"https://example.org/{int(id[-4:])}" for id in ids}


@pytest.mark.ray
@pytest.mark.timeout(600)
def test_the_command_answers_shards_and_checks_itself(tmp_path: Path) -> None:
    for shard in range(2):
        write_shard(tmp_path / "in" / f"{shard:05d}.tar", range(3), shard)
    write_tar(tmp_path / "in" / "00002.tar", ("1.jpg", b"no image"), ("2.txt", b"none"))
    whole = (tmp_path / "in" / "00001.tar").read_bytes()
    (tmp_path / "in" / "00001.tar").write_bytes(whole[: len(whole) - 10240 + 1100])
    options = ["--kind", "webdataset", "--input", "in/{00000..00002}.tar", "--model", "demo"]
    options += ["--output", "out", "--prompt", "what is it?", "--max-new-tokens", "2"]
    done = star_batch(tmp_path, "run", *options)
    assert done.returncode == 0, done.stderr
    rows = {row["id"]: row["error_type"] for row in pq.read_table(tmp_path / "out" / "answers").to_pylist()}
    assert set(rows) == set(plan_of(tmp_path / "in").ids().to_pylist())
    assert rows["00000.tar/000000000"] is None
    assert rows["00002.tar/1"] == "image_unreadable"
    assert rows["00002.tar/2"] == "image_missing"
    for command in ("status", "verify"):
        done = star_batch(tmp_path, command, "out")
        assert done.returncode == 0, done.stderr
    again = star_batch(tmp_path, "run", *options)
    assert again.returncode == 0, again.stderr
