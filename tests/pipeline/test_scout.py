"""The task that is sent ahead to a cluster."""

from collections.abc import Iterator

import pytest

from star_batch.errors import ClusterError
from star_batch.pipeline import scout
from star_batch.pipeline.scout import Need, send_ahead

CPU = Need(cpus=1.0)


@pytest.fixture(autouse=True)
def never_asked() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scout, "_asked", set())
        yield


@pytest.mark.ray
@pytest.mark.usefixtures("local_ray")
@pytest.mark.parametrize("missing", ["star_batch_that_is_nowhere", "star_batch.nowhere"])
def test_a_package_that_the_cluster_lacks_is_one_line(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scout, "_NEEDED", ("star_batch", missing))
    with pytest.raises(ClusterError) as error:
        send_ahead(CPU)
    assert str(error.value) == (
        f"the cluster's processes lack a package (No module named '{missing}'): give the cluster an image that has "
        "star-batch, or let Ray install it (cluster.runtime_env, such as jobs/runtime_env.yaml)"
    )


@pytest.mark.ray
@pytest.mark.usefixtures("local_ray")
def test_another_version_there_is_named_and_the_question_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scout, "__version__", "99.0")
    with pytest.raises(ClusterError, match=r"^the cluster has star-batch .*, and this is 99\.0$"):
        send_ahead(CPU)
    monkeypatch.undo()
    monkeypatch.setattr(scout, "_asked", set())
    send_ahead(CPU)
    monkeypatch.setattr(scout, "_NEEDED", ("nothing_like_it",))
    send_ahead(CPU)
