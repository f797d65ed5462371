"""The arithmetic between a pace and a price, and how the engine is kept busy while it is measured."""

from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from star_batch.bench.roofline import Cost
from star_batch.commit.fingerprint import Generation
from star_batch.engine import Engine
from star_batch.forecast import measure as measuring
from star_batch.forecast.forecast import Forecast, Pace
from star_batch.forecast.format import lines
from star_batch.forecast.lengths import Lengths, Memory, Spread, num_parameters
from star_batch.forecast.options import ForecastOptions
from star_batch.forecast.sample import RowSample, take_sample
from star_batch.inputs.base import plan_input
from star_batch.metrics import EngineStats
from star_batch.models import Checkpoint
from star_batch.options import Decoding
from star_batch.records import Answer, Picture, Record
from tests.pipeline.samples import job, rows, write


def forecast(*, is_cpu: bool, num_gpus: int = 1, price: float | None = None) -> Forecast:
    sample = RowSample(records=(), references=(), failed={}, examples={}, sizes=(), seconds=0.02)
    some = Spread(10.0, 1, 20)
    lengths = Lengths(
        offered=576.0,
        kept=(192.0, 64.0),
        groups=(range(16), range(16, 32)),
        prompt=some,
        answer=some,
        is_answer_known=True,
    )
    return Forecast(
        num_rows=36_000,
        num_files=1,
        schema=pa.schema([]),
        sample=sample,
        failed={},
        lengths=lengths,
        memory=Memory(weights=14e9, row=50e6, room=1e9, slots=128),
        dtype="bfloat16",
        pace=Pace(images_per_second=10.0, how="measured", device="", is_cpu=is_cpu),
        num_engines=num_gpus,
        options=ForecastOptions(price_per_gpu_hour=price),
        num_cores=2,
    )


def test_gpus_are_fed_by_other_cores_and_add_up() -> None:
    found = forecast(is_cpu=False, num_gpus=4, price=2.0)
    assert found.images_per_second == pytest.approx(40.0)
    assert found.cores_needed == pytest.approx(0.8)
    assert found.seconds == pytest.approx(900.0)
    assert found.cost == pytest.approx(2.0)


def test_an_engine_on_cpu_shares_its_cores_with_the_preparing() -> None:
    found = forecast(is_cpu=True)
    assert found.images_per_second == pytest.approx(1 / (0.1 + 0.02 / 2))
    assert found.cost is None


def test_lengths_and_what_fits() -> None:
    found = forecast(is_cpu=False)
    assert found.lengths.layer_mean == 128.0
    assert (found.memory.rows_that_fit, found.memory.rows) == (20, 20)
    assert replace(found.memory, room=0.0).rows == 1
    assert replace(found.memory, room=1e12).rows == 128


def test_parameters_are_counted_without_the_weights() -> None:
    """Biases and norms are left out, which is a hundredth of the small model and far less of a large one."""
    counted = num_parameters(Cost.of(Checkpoint(name="demo").config(), 144))
    with Engine.from_pretrained("demo", device="cpu") as engine:
        model = engine._core._runner.model
        parts = (getattr(model, name) for name in ("_encoder", "_projector", "_decoder", "_head"))
        modules = [getattr(part, "_tower", part) for part in parts]
        parameters = {id(p): p.numel() for module in modules for p in module.parameters()}
    assert counted == pytest.approx(sum(parameters.values()), rel=0.02)


class Counting:
    """An engine that answers at once and remembers what was in flight."""

    def __init__(self) -> None:
        self.windows: list[Sequence[Record]] = []
        self.is_closed = False

    def submit(self, records: Sequence[Record], *, decoding: Decoding | None = None) -> Future[list[Answer]]:
        self.windows.append(records)
        future: Future[list[Answer]] = Future()
        future.set_result([Answer(id=record.id, text="x") for record in records])
        return future

    def stats(self) -> EngineStats:
        return EngineStats(rows_answered=sum(map(len, self.windows)))

    def close(self) -> None:
        self.is_closed = True


def records(count: int) -> list[Record]:
    pictures = [Picture(np.full((1, 4, 4, 3), n, np.uint8), (4, 4)) for n in range(count)]
    return [Record(f"row-{n}", picture, "what?") for n, picture in enumerate(pictures)]


def test_a_measured_engine_gets_every_row_and_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Counting()
    monkeypatch.setattr(measuring, "load_engine", lambda config: engine)
    found = measuring.measure(job("in", "out"), records(20), seconds=0.02)
    assert {answer.id for answer in found.answers} == {f"row-{n}" for n in range(20)}
    assert found.rows_per_second == pytest.approx(found.stats.rows_answered / found.seconds)
    assert engine.is_closed


def test_no_picture_comes_twice_while_it_may_be_in_flight() -> None:
    """The engine encodes equal pictures once, which would make a small sample look fast."""
    windows = list(islice(measuring._windows(records(5)), 40))
    pictures = [picture.views.tobytes() for window in windows for record in window for picture in record.images]  # type: ignore[union-attr]
    assert len(pictures) == 320
    assert len(set(pictures)) == 320


def test_rows_are_taken_from_all_over_the_input(tmp_path: Path) -> None:
    for number in range(3):
        write(tmp_path / "in" / f"{number}.parquet", rows(100, first=100 * number), row_group_size=20)
    config = job(tmp_path / "in", tmp_path / "out", input={"id_column": "id"}, model={"name": "demo"})
    sample = take_sample(config, plan_input(config.input), 32)
    numbers = [int(record.id.removeprefix("row-")) for record in sample.records]
    assert len(numbers) == len(set(numbers)) == 32
    assert min(numbers) < 20
    assert max(numbers) >= 280
    assert set(sample.sizes) == {(12, 10)}
    assert sample.seconds > 0.0


def test_a_limit_limits_the_sample_too(tmp_path: Path) -> None:
    write(tmp_path / "in.parquet", rows(100))
    config = job(tmp_path / "in.parquet", tmp_path / "out", input={"limit": 7}, model={"name": "demo"})
    assert take_sample(config, plan_input(config.input), 32).num_rows == 7


def test_what_the_checkpoint_says_about_generating_is_told() -> None:
    """A penalty that bends answers, and settings that the library would go by."""
    quiet = [name for name, *_ in lines(forecast(is_cpu=True))]
    assert not {"repetition", "not applied"} & set(quiet)
    generation = Generation(repetition_penalty=1.05, not_applied={"num_beams": "4"})
    shown = list(lines(replace(forecast(is_cpu=True), generation=generation)))
    assert ("repetition", "1.05", "is the penalty on tokens of the prompt and of the answer so far") in shown
    assert ("not applied", "", "num_beams=4, of the checkpoint's generation settings") in shown
