import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import closing

import numpy as np
import pytest
import torch
from torch import Tensor

from pgsearch.data.augment import augment_batch
from pgsearch.data.loader import Indices, batches

WORKERS = [0, 1, 2, 5]


def _loader_threads() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name.startswith("pgsearch-batch")]


@pytest.fixture(autouse=True)
def _no_thread_survives_and_torch_is_left_alone() -> Iterator[None]:
    num_threads, random = torch.get_num_threads(), torch.get_rng_state()
    yield
    assert _loader_threads() == []
    assert torch.get_num_threads() == num_threads
    assert torch.equal(torch.get_rng_state(), random)


def _as_lists(indices_B: Indices, positions_B: Indices) -> tuple[list[int], list[int]]:
    return indices_B.tolist(), positions_B.tolist()


@pytest.mark.parametrize("workers", WORKERS)
@pytest.mark.parametrize("num_batches", [0, 1, 3, 40])
def test_batches_come_in_order_with_their_positions(workers: int, num_batches: int) -> None:
    indices = np.random.default_rng(0).permutation(4 * num_batches + 3)
    expected = [
        (indices[start : start + 4].tolist(), list(range(start, start + 4)))
        for start in range(0, 4 * num_batches, 4)
    ]
    assert list(batches(_as_lists, indices, batch_size=4, workers=workers)) == expected


@pytest.mark.parametrize("workers", WORKERS)
def test_order_does_not_depend_on_which_batch_is_ready_first(workers: int) -> None:
    def slow_at_first(_: Indices, positions_B: Indices) -> int:
        time.sleep(0.02 / (1 + positions_B[0]))
        return int(positions_B[0])

    stream = batches(slow_at_first, np.arange(20), batch_size=1, workers=workers)
    assert list(stream) == list(range(20))


def _epoch(batch_size: int, workers: int) -> list[tuple[Tensor, Tensor]]:
    generator = np.random.default_rng(0)
    images_NHWC = generator.integers(0, 256, (30, 16, 16, 3), dtype=np.uint8)
    targets_NC = generator.integers(0, 2, (30, 5), dtype=np.uint8)
    indices = generator.integers(0, 30, 96)

    def prepare(indices_B: Indices, positions_B: Indices) -> tuple[Tensor, Tensor]:
        images_BCHW = augment_batch(
            torch.from_numpy(images_NHWC[indices_B]),
            seed=1,
            epoch=2,
            positions_B=positions_B,
            photometric=0.5,
            crop_min=0.8,
            flip=0.5,
            mean=(0.5,) * 3,
            std=(0.2,) * 3,
        )
        return images_BCHW, torch.from_numpy(targets_NC[indices_B]).float()

    return list(batches(prepare, indices, batch_size=batch_size, workers=workers))


@pytest.mark.parametrize("batch_size", [8, 32])
@pytest.mark.parametrize("workers", WORKERS[1:])
def test_workers_and_grouping_change_no_bit(batch_size: int, workers: int) -> None:
    expected = [torch.cat(parts) for parts in zip(*_epoch(32, 0), strict=True)]
    actual = [torch.cat(parts) for parts in zip(*_epoch(batch_size, workers), strict=True)]
    assert [part.dtype for part in actual] == [torch.float32, torch.float32]
    assert all(map(torch.equal, actual, expected))


def test_batches_are_prepared_by_the_caller_or_by_the_workers_side_by_side() -> None:
    def name_of_thread(_: Indices, __: Indices) -> str:
        return threading.current_thread().name

    (name,) = set(batches(name_of_thread, np.arange(4), batch_size=1, workers=0))
    assert name == threading.current_thread().name

    together = threading.Barrier(3, timeout=20)

    def meet(_: Indices, __: Indices) -> str:
        together.wait()
        return threading.current_thread().name

    names = list(batches(meet, np.arange(3), batch_size=1, workers=3))
    assert len(set(names)) == 3
    assert all(name.startswith("pgsearch-batch") for name in names)


@pytest.mark.parametrize("workers", [1, 3])
def test_no_more_than_two_batches_a_worker_are_prepared_ahead(workers: int) -> None:
    prepared: list[int] = []

    def prepare(_: Indices, positions_B: Indices) -> int:
        prepared.append(int(positions_B[0]))
        return int(positions_B[0])

    with closing(batches(prepare, np.arange(50), batch_size=1, workers=workers)) as stream:
        for number in stream:
            limit = min(number + 1 + 2 * workers, 50)
            _wait_until(lambda: len(prepared) >= limit)  # noqa: B023
            time.sleep(0.002)
            assert len(prepared) == limit
    assert sorted(prepared) == list(range(50))


def _wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.0005)


def test_a_batch_that_was_passed_on_is_not_kept() -> None:
    class Big:
        pass

    def prepare(_: Indices, __: Indices) -> Big:
        return Big()

    for workers in WORKERS:
        with closing(batches(prepare, np.arange(9), batch_size=1, workers=workers)) as stream:
            reference = weakref.ref(next(stream))
            _wait_until(lambda: reference() is None)  # noqa: B023


class Broken(Exception):
    pass


@pytest.mark.parametrize("workers", WORKERS)
@pytest.mark.parametrize("error", [Broken, KeyboardInterrupt, SystemExit])
def test_what_prepare_raises_is_raised_after_the_batches_before_it(
    workers: int, error: type[BaseException]
) -> None:
    def prepare(_: Indices, positions_B: Indices) -> int:
        if positions_B[0] == 7:
            raise error("batch 7")
        return int(positions_B[0])

    stream = batches(prepare, np.arange(30), batch_size=1, workers=workers)
    assert [next(stream) for _ in range(7)] == list(range(7))
    with pytest.raises(error, match="batch 7"):
        next(stream)
    assert _loader_threads() == []


@pytest.mark.parametrize("workers", WORKERS)
def test_leaving_the_loop_early_ends_the_threads(workers: int) -> None:
    prepared: list[int] = []

    def prepare(_: Indices, positions_B: Indices) -> int:
        prepared.append(int(positions_B[0]))
        time.sleep(0.001)
        return int(positions_B[0])

    for number in batches(prepare, np.arange(1000), batch_size=1, workers=workers):
        if number == 3:
            break
    assert _loader_threads() == []
    assert len(prepared) <= 4 + 2 * workers


@pytest.mark.parametrize("workers", WORKERS)
@pytest.mark.parametrize("error", [Broken, KeyboardInterrupt])
def test_an_exception_in_the_consumer_ends_the_threads(
    workers: int, error: type[BaseException]
) -> None:
    def train() -> None:
        for _ in batches(_as_lists, np.arange(1000), batch_size=1, workers=workers):
            raise error

    def train_and_hold() -> None:
        stream = batches(_as_lists, np.arange(1000), batch_size=1, workers=workers)
        with closing(stream):  # the traceback holds this frame, and the frame the generator
            for _ in stream:
                raise error

    for fails in (train, train_and_hold):
        with pytest.raises(error) as raised:
            fails()
        assert raised.tb is not None
        assert _loader_threads() == []


@pytest.mark.parametrize("workers", WORKERS[1:])
def test_closing_waits_for_the_batches_that_are_being_prepared_and_starts_no_other(
    workers: int,
) -> None:
    begun: list[int] = []
    finished: list[int] = []
    closing_goes_on = threading.Event()

    def prepare(_: Indices, positions_B: Indices) -> None:
        begun.append(int(positions_B[0]))
        if positions_B[0] > 0:
            assert closing_goes_on.wait(timeout=20)
        finished.append(int(positions_B[0]))

    stream = batches(prepare, np.arange(1000), batch_size=1, workers=workers)
    next(stream)
    _wait_until(lambda: len(begun) == 1 + workers)
    timer = threading.Timer(0.3, closing_goes_on.set)
    timer.start()
    stream.close()
    timer.join()
    assert sorted(begun) == sorted(finished) == list(range(1 + workers))
    with pytest.raises(StopIteration):
        next(stream)


def test_nothing_starts_before_the_first_batch_is_asked_for() -> None:
    stream = batches(_as_lists, np.arange(10), batch_size=2, workers=2)
    assert _loader_threads() == []
    stream.close()


def test_batches_are_prepared_on_one_core_and_nothing_else_is() -> None:
    def numbers_of_threads(_: Indices, __: Indices) -> int:
        return torch.get_num_threads()

    def number_in_a_new_thread() -> int:
        numbers: list[int] = []
        thread = threading.Thread(target=lambda: numbers.append(torch.get_num_threads()))
        thread.start()
        thread.join()
        return numbers[0]

    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        for workers in WORKERS:
            stream = batches(numbers_of_threads, np.arange(6), batch_size=1, workers=workers)
            assert [(number, torch.get_num_threads()) for number in stream] == [(1, 2)] * 6
            assert number_in_a_new_thread() == 2
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("wrong", [{"batch_size": 0}, {"workers": -1}])
def test_impossible_numbers_are_refused_at_once(wrong: dict[str, int]) -> None:
    arguments = {"batch_size": 4, "workers": 0} | wrong
    with pytest.raises(ValueError, match=next(f"{k}={v}" for k, v in wrong.items())):
        batches(_as_lists, np.arange(10), **arguments)
