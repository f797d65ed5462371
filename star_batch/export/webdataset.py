"""Images and answers as WebDataset shards: tars whose members of one key are a sample. Decodes no image.

A key is a number of nine digits, as ids may hold what a key may not; the id stands in the sample's `.json`.
"""

import io
import re
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice

from star_batch.export.folder import empty
from star_batch.export.images import Illustrated
from star_batch.export.plain import to_json
from star_batch.formats import image_suffix
from star_batch.storage.location import Location

_SHARD = re.compile(r"\d{5}\.tar")
_ROWS_PER_SHARD = 10_000


def write_webdataset(
    samples: Iterable[Illustrated], to: Location, labels: Sequence[str] = (), rows_per_shard: int = _ROWS_PER_SHARD
) -> int:
    """Shards `00000.tar` and so on, each there whole or not at all; how many samples there were.

    A sample has its image (`.jpg`, `.png`; `.0.jpg`, `.1.jpg` where a row has several), the answer (`.txt`), the row
    (`.json`), and where the answers are `labels` the number of its label among them (`.cls`).
    """
    empty(to, _SHARD)
    count, rest = 0, iter(samples)
    for shard, first in enumerate(rest):
        with to.at(f"{shard:05d}.tar").writing() as file, tarfile.open(fileobj=file, mode="w|") as tar:
            for sample in chain([first], islice(rest, rows_per_shard - 1)):
                for suffix, data in _members(sample, labels):
                    _add(tar, f"{count:09d}.{suffix}", data)
                count += 1
    return count


def _members(sample: Illustrated, labels: Sequence[str]) -> Iterator[tuple[str, bytes]]:
    suffixes = [image_suffix(image) for image in sample.images]
    for number, (suffix, image) in enumerate(zip(suffixes, sample.images, strict=True)):
        yield (suffix if len(suffixes) == 1 else f"{number}.{suffix}"), image
    yield "txt", (sample.row["answer"] or "").encode()
    yield "json", to_json(sample.row).encode()
    if sample.row["label"] in labels:
        yield "cls", str(labels.index(sample.row["label"])).encode()


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))
