"""Tables of Lance, as Ray Data reads them: their columns are of types that this package takes."""

import importlib
from pathlib import Path
from typing import Any

import pyarrow as pa

from star_batch.inputs.columns import unified_schema, wanted_columns
from star_batch.inputs.sources import Sources
from star_batch.storage.location import Location
from tests.pipeline.samples import input_config, png


def test_what_ray_reads_of_lance_has_columns_that_are_taken(tmp_path: Path) -> None:
    table = pa.table({"id": ["a", "b"], "image": [png(0), png(1)], "question": ["what?"] * 2})
    importlib.import_module("lance").write_dataset(table, str(tmp_path / "a.lance"))
    source: Any = importlib.import_module("ray.data._internal.datasource.lance_datasource").LanceDatasource
    tables = [read for task in source(str(tmp_path / "a.lance")).get_read_tasks(1) for read in task()]
    found = pa.concat_tables(tables)
    input = input_config(tmp_path, id_column="id")
    assert unified_schema(wanted_columns(input), {"a.lance": found.schema}).names == ["id", "image", "question"]
    fetched = Sources.of(input, Location.of(str(tmp_path))).read_all(found["image"].to_pylist())
    assert [each.data for each in fetched] == [png(0), png(1)]
