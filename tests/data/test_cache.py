import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from pgsearch.data import cache
from pgsearch.data.cache import ArrayPlan, cached_arrays
from pgsearch.errors import StorageError

PLAN = {"images": ArrayPlan((6, 2, 3), "uint8"), "sizes": ArrayPlan((6,), "int64")}
IMAGES = np.arange(36, dtype=np.uint8).reshape(6, 2, 3)
SIZES = np.arange(6, dtype=np.int64)


class Builder:
    """Yields the arrays in two blocks and counts how often it was asked to."""

    def __init__(self) -> None:
        self.num_builds = 0

    def __call__(self) -> Iterator[dict[str, np.ndarray]]:
        self.num_builds += 1
        yield {"images": IMAGES[:4], "sizes": SIZES}
        yield {"images": IMAGES[4:]}


def _require_right(arrays: dict[str, np.ndarray]) -> None:
    np.testing.assert_array_equal(arrays["images"], IMAGES)
    np.testing.assert_array_equal(arrays["sizes"], SIZES)


def _folders(cache_dir: Path) -> list[str]:
    return sorted(path.name for path in cache_dir.iterdir() if path.is_dir())


def test_builds_once_then_maps_what_is_there(cache_dir: Path) -> None:
    build = Builder()
    for _ in range(2):
        arrays = cached_arrays(cache_dir, "key", plan=PLAN, build=build)
        _require_right(arrays)
        assert all(isinstance(array, np.memmap) for array in arrays.values())
        assert not any(array.flags.writeable for array in arrays.values())
    assert build.num_builds == 1
    assert _folders(cache_dir) == ["key"]


def test_another_plan_of_the_same_key_is_rebuilt(cache_dir: Path) -> None:
    cached_arrays(cache_dir, "key", plan=PLAN, build=Builder())
    plan = {"sizes": ArrayPlan((6,), "int64")}
    arrays = cached_arrays(cache_dir, "key", plan=plan, build=lambda: [{"sizes": SIZES[::-1]}])
    assert list(arrays) == ["sizes"]
    np.testing.assert_array_equal(arrays["sizes"], SIZES[::-1])


def _truncate(entry: Path) -> None:
    os.truncate(entry / "images.npy", 150)


def _grow(entry: Path) -> None:
    with (entry / "images.npy").open("ab") as file:
        file.write(b"more")


def _empty(entry: Path) -> None:
    (entry / "images.npy").write_bytes(b"")


def _lose_array(entry: Path) -> None:
    (entry / "sizes.npy").unlink()


def _lose_contents(entry: Path) -> None:
    (entry / "arrays.json").unlink()


def _cut_contents(entry: Path) -> None:
    path = entry / "arrays.json"
    path.write_bytes(path.read_bytes()[:-9])


def _falsify_contents(entry: Path) -> None:
    path = entry / "arrays.json"
    contents = json.loads(path.read_text())
    contents["sha256"] = "0" * 64
    path.write_text(json.dumps(contents))


def _swap_header(entry: Path) -> None:
    path = entry / "images.npy"
    path.write_bytes(path.read_bytes().replace(b"(6, 2, 3)", b"(6, 3, 2)"))


def _garble_header(entry: Path) -> None:
    path = entry / "images.npy"
    path.write_bytes(b"\0" * 20 + path.read_bytes()[20:])


@pytest.mark.parametrize(
    "damage",
    [
        _truncate,
        _grow,
        _empty,
        _lose_array,
        _lose_contents,
        _cut_contents,
        _falsify_contents,
        _swap_header,
        _garble_header,
    ],
)
def test_a_damaged_entry_is_rebuilt(cache_dir: Path, damage) -> None:
    cached_arrays(cache_dir, "key", plan=PLAN, build=Builder())
    damage(cache_dir / "key")
    build = Builder()
    _require_right(cached_arrays(cache_dir, "key", plan=PLAN, build=build))
    assert build.num_builds == 1
    assert _folders(cache_dir) == ["key"]


def test_two_builders_without_locks_agree_on_one_copy(
    cache_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_locks(*args: object) -> None:
        raise OSError("no locks on this file system")

    monkeypatch.setattr(cache.fcntl, "flock", no_locks)
    both_are_building = threading.Barrier(2, timeout=20)

    def build() -> Iterator[dict[str, np.ndarray]]:
        both_are_building.wait()
        yield from Builder()()

    results = _in_two_threads(lambda: cached_arrays(cache_dir, "key", plan=PLAN, build=build))
    for arrays in results:
        _require_right(arrays)
    assert _folders(cache_dir) == ["key"]


def test_with_locks_the_second_builder_waits_for_the_first(cache_dir: Path) -> None:
    build = Builder()
    first_builds = threading.Event()

    def slow_build() -> Iterator[dict[str, np.ndarray]]:
        first_builds.set()
        threading.Event().wait(0.3)
        yield from build()

    def load() -> dict[str, np.ndarray]:
        return cached_arrays(cache_dir, "key", plan=PLAN, build=slow_build)

    for arrays in _in_two_threads(load):
        _require_right(arrays)
    assert build.num_builds == 1


def _in_two_threads(work) -> list:
    results: list = []
    threads = [threading.Thread(target=lambda: results.append(work())) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
    assert len(results) == 2
    return results


_BUILD_HALF_THEN_HANG = """
import sys, time
from pathlib import Path
import numpy as np
from pgsearch.data.cache import ArrayPlan, cached_arrays

def build():
    yield {"images": np.zeros((4, 2, 3), dtype=np.uint8)}
    print("half", flush=True)
    time.sleep(60)

plan = {"images": ArrayPlan((6, 2, 3), "uint8"), "sizes": ArrayPlan((6,), "int64")}
cached_arrays(Path(sys.argv[1]), "key", plan=plan, build=build)
"""


def test_a_killed_builder_leaves_no_entry_and_its_rest_is_removed(cache_dir: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", _BUILD_HALF_THEN_HANG, str(cache_dir)], stdout=subprocess.PIPE
    ) as builder:
        assert builder.stdout is not None
        assert builder.stdout.readline() == b"half\n"
        builder.send_signal(signal.SIGKILL)
    (left,) = _folders(cache_dir)
    assert left.endswith(".partial")

    _require_right(cached_arrays(cache_dir, "key", plan=PLAN, build=Builder()))
    assert _folders(cache_dir) == ["key"]


def test_a_build_that_fails_leaves_nothing(cache_dir: Path) -> None:
    def build() -> Iterator[dict[str, np.ndarray]]:
        yield {"images": IMAGES}
        raise RuntimeError("decoder broke")

    with pytest.raises(RuntimeError, match="decoder broke"):
        cached_arrays(cache_dir, "key", plan=PLAN, build=build)
    assert _folders(cache_dir) == []


@pytest.mark.parametrize(
    ("block", "message"),
    [
        ({"images": IMAGES[:5], "sizes": SIZES}, "got 5 rows"),
        ({"images": IMAGES.astype(np.int64), "sizes": SIZES}, "dtype int64"),
        ({"images": IMAGES.reshape(6, 3, 2), "sizes": SIZES}, r"shape \(3, 2\)"),
    ],
)
def test_a_build_must_keep_to_its_plan(cache_dir: Path, block: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        cached_arrays(cache_dir, "key", plan=PLAN, build=lambda: [block])
    assert _folders(cache_dir) == []


def test_a_disk_too_small_is_refused_before_any_work(cache_dir: Path) -> None:
    build = Builder()
    plan = {"images": ArrayPlan((2**40, 2**10), "uint8")}
    with pytest.raises(StorageError) as caught:
        cached_arrays(cache_dir, "key", plan=plan, build=build)
    message = str(caught.value)
    assert str(cache_dir) in message
    assert f"{2**50:,} bytes" in message
    assert "No space left" in message
    assert "PGSEARCH_CACHE" in message
    assert build.num_builds == 0


_BUILD_WITH_SMALL_FILES_ONLY = """
import resource, sys
from pathlib import Path
import numpy as np
from pgsearch.data.cache import ArrayPlan, cached_arrays
from pgsearch.errors import StorageError

resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    cached_arrays(
        Path(sys.argv[1]),
        "key",
        plan={"images": ArrayPlan((300_000,), "uint8")},
        build=lambda: [{"images": np.zeros(300_000, dtype=np.uint8)}],
    )
except StorageError as error:
    print(error)
"""


def test_a_write_that_the_disk_refuses_is_a_storage_error(cache_dir: Path) -> None:
    # A limit on the size of files stands in for the full disk: the write fails half-way.
    run = subprocess.run(
        [sys.executable, "-c", _BUILD_WITH_SMALL_FILES_ONLY, str(cache_dir)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout.startswith(f"{cache_dir}: cannot write 300,000 bytes")
    assert "File too large" in run.stdout
    assert _folders(cache_dir) == []


def test_a_cache_folder_that_cannot_be_made_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match=r"file/cache: cannot write 84 bytes .* Not a directory"):
        cached_arrays(tmp_path / "file" / "cache", "key", plan=PLAN, build=Builder())
