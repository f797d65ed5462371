from collections.abc import Iterator

import pytest

from tests.pipeline import fakes


@pytest.fixture(scope="session")
def fake_ray(local_ray: None) -> Iterator[None]:
    """The local Ray, whose workers need not find the tests on their path."""
    import ray

    ray.cloudpickle.register_pickle_by_value(fakes)
    yield
    ray.cloudpickle.unregister_pickle_by_value(fakes)
