"""One team of OpenMP threads per process. Knows no model.

On CPU, torch's kernels keep a team of threads for every thread that ever called them, for as long as that one lives.
Where all teams together outnumber the processors, the library lets their members sleep at each barrier, and small
operations take four times as long. So an engine's kernels run on one thread, what is done before on threads that end.
"""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

T = TypeVar("T")


def on_passing_thread(work: Callable[[], T]) -> T:
    """What `work` returns or raises, once the thread that did it has ended, and its team with it."""
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)

    # A daemon: whoever is interrupted while waiting here may leave.
    thread = threading.Thread(target=run, name="star-batch-passing", daemon=True)
    thread.start()
    thread.join()
    return future.result()
