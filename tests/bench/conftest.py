from collections.abc import Iterator

import pytest
import torch

from star_batch.bench import rates
from star_batch.bench.comparison import Comparison
from star_batch.bench.measure import compare
from star_batch.bench.results import Results
from star_batch.bench.subject import Subject, make_subject

OPTIONS = Comparison(
    shape="tiny",
    keeps=(8, 0.5),
    answer_tokens=(2, 5),
    generate_batches=(1, 4),
    requests=6,
    rounds=2,
    warm_up=2,
    dtype="float32",
    device="cpu",
)


@pytest.fixture(scope="session", autouse=True)
def few_milliseconds() -> Iterator[None]:
    """The device's rates are of no interest here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rates, "_SECONDS", 0.001)
        yield


@pytest.fixture(scope="session")
def subject() -> Subject:
    return make_subject(model=None, shape="tiny", dtype="float32", device="cpu", seed=0)


@pytest.fixture(scope="session")
def results(few_milliseconds: None) -> Iterator[Results]:
    """A whole comparison of the tiny shape."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield compare(OPTIONS, lambda _: None)
    torch.set_num_threads(threads)
