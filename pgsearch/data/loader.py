"""Batches of an epoch, prepared by threads while the network trains.

Threads, not processes: preparing is torch and NumPy code that releases the interpreter's lock, and
nothing has to be started, pickled or copied.
"""

from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch

Indices = npt.NDArray[np.int64]
Batch = TypeVar("Batch")

_AHEAD_PER_WORKER = 2
"""One being prepared and one ready, so that a worker never waits for the training step."""


def batches(
    prepare: Callable[[Indices, Indices], Batch],
    indices: Indices,
    *,
    batch_size: int,
    workers: int,
) -> Generator[Batch, None, None]:
    """Yield `prepare(indices_B, positions_B)` for each batch of an epoch, in order.

    `positions_B` is where the images stand in `indices`. As `prepare` gets nothing else, batches
    are the same for any number of workers, provided that it draws random numbers by position
    (`augment_batch` does) and not from a generator that is shared. It is called from several
    threads at once; it may copy to a GPU, where work of all threads goes into one default stream.
    What it raises is raised here, after the batches before it.

    A batch is prepared on one core, whoever does it.

    The threads end with the generator: after the last batch, on an exception and on `close()`,
    where each finishes the batch that it is at. A loop over the generator that is left early
    closes it, unless something else still holds it: use `contextlib.closing` then.

    Args:
        prepare: makes a batch from the indices of its images and their positions.
        indices: images of an epoch in order. The rest that fills no batch is dropped.
        batch_size: images per batch.
        workers: threads that prepare ahead, up to two batches each; 0 prepares in the caller.
    """
    if batch_size < 1 or workers < 0:
        raise ValueError(
            f"batches need batch_size >= 1 and workers >= 0, got batch_size={batch_size} and "
            f"workers={workers}"
        )

    def numbered(number: int) -> Batch:
        positions_B = np.arange(number * batch_size, (number + 1) * batch_size)
        return prepare(indices[positions_B], positions_B)

    num_batches = len(indices) // batch_size
    return _ahead(numbered, num_batches, workers) if workers else _in_turn(numbered, num_batches)


def _in_turn(numbered: Callable[[int], Batch], num_batches: int) -> Generator[Batch, None, None]:
    for number in range(num_batches):
        num_threads = torch.get_num_threads()
        _use_one_core()
        try:
            batch = [numbered(number)]  # a list, to keep no hold of it below
        finally:
            torch.set_num_threads(num_threads)
        yield batch.pop()


def _ahead(
    numbered: Callable[[int], Batch], num_batches: int, workers: int
) -> Generator[Batch, None, None]:
    torch.get_num_threads()  # fixes this thread's number before a worker sets its own
    pool = ThreadPoolExecutor(
        workers, thread_name_prefix="pgsearch-batch", initializer=_use_one_core
    )
    pending: deque[Future[Batch]] = deque()
    try:
        for number in range(num_batches):
            pending.append(pool.submit(numbered, number))
            if len(pending) > _AHEAD_PER_WORKER * workers:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        # What a thread sets is also what threads to come start with: give them ours again.
        torch.set_num_threads(torch.get_num_threads())


def _use_one_core() -> None:
    """Let each torch operation of this thread run on one core; other threads keep their number.

    Operations on a few images are too short to share: two threads beside a busy neighbour took ten
    times as long as one. And each worker would bring as many threads as the training step has.
    """
    torch.set_num_threads(1)
