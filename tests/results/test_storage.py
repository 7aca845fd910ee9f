"""What every storage does: one suite, run on a folder and on an S3-compatible server."""

import fcntl
import os
import pickle
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pgsearch.errors import StorageError, UsageError
from pgsearch.results import local_storage
from pgsearch.results.fetch import AT_ONCE, IN_A_ROW, fetch
from pgsearch.results.probe import probe
from pgsearch.results.storage import Conflict, Storage, StoredFile, open_storage, stored_file
from tests.conftest import Points
from tests.object_store import Fault, FlakyProxy


@pytest.fixture(
    params=["folder", pytest.param("s3", marks=pytest.mark.promise(10))],
)
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    if request.param == "folder":
        return open_storage(tmp_path / "results")
    return open_storage(request.getfixturevalue("s3"))


def test_what_is_written_is_read(storage: Storage) -> None:
    assert storage.read("a/1") is None
    assert storage.tag("a/1") is None
    tag = storage.write("a/1", b"one")
    assert storage.read("a/1") == (b"one", tag)
    assert storage.tag("a/1") == tag
    other = storage.write("a/1", b"two")
    assert other != tag
    assert storage.read("a/1") == (b"two", other)
    storage.write("empty", b"")
    stored = storage.read("empty")
    assert stored is not None
    assert stored.data == b""


@pytest.mark.parametrize("num_files", [3, AT_ONCE * IN_A_ROW * 3 + 1])
def test_many_files_are_fetched_in_order(storage: Storage, num_files: int) -> None:
    for number in range(0, num_files, 2):
        storage.write(f"a/{number}", str(number).encode())
    files = [StoredFile(storage, f"a/{number}") for number in range(num_files)]
    fetched = list(fetch(files))
    assert [file for file, _ in fetched] == files
    assert [None if stored is None else int(stored.data) for _, stored in fetched] == [
        None if number % 2 else number for number in range(num_files)
    ]


def test_files_are_fetched_side_by_side(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = open_storage(tmp_path)
    everybody = threading.Barrier(AT_ONCE)

    def read(self: object, key: str) -> None:
        everybody.wait(timeout=30)
        if key == "3":
            raise StorageError("3: cannot be read")

    monkeypatch.setattr(local_storage.LocalStorage, "read", read)
    fetched = fetch([StoredFile(storage, str(number)) for number in range(AT_ONCE)])
    assert [next(fetched)[0].key for _ in range(3)] == ["0", "1", "2"]
    with pytest.raises(StorageError, match="3: cannot be read"):
        next(fetched)


def test_a_pipe_in_the_place_of_a_file_is_named_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "search.json")
    with pytest.raises(StorageError, match=r"search\.json: cannot be read .*not a regular file"):
        open_storage(tmp_path).read("search.json")


def test_swap_creates_only_what_is_not_there(storage: Storage) -> None:
    tag = storage.swap("k", b"one", None)
    with pytest.raises(Conflict):
        storage.swap("k", b"two", None)
    assert storage.read("k") == (b"one", tag)


def test_swap_replaces_only_the_version_that_is_known(storage: Storage) -> None:
    first = storage.swap("k", b"one", None)
    second = storage.swap("k", b"two", first)
    with pytest.raises(Conflict):
        storage.swap("k", b"three", first)
    assert storage.read("k") == (b"two", second)
    storage.delete("k")
    with pytest.raises(Conflict):
        storage.swap("k", b"three", second)
    assert storage.read("k") is None


def test_the_same_bytes_again_are_another_version_for_a_folder(tmp_path: Path) -> None:
    storage = open_storage(tmp_path)
    first = storage.write("k", b"same")
    storage.write("k", b"same")
    with pytest.raises(Conflict):
        storage.swap("k", b"new!", first)


def test_of_many_swaps_none_is_lost(storage: Storage) -> None:
    storage.write("counter", b"0")

    def count(_: int) -> None:
        while True:
            stored = storage.read("counter")
            assert stored is not None
            try:
                storage.swap("counter", str(int(stored.data) + 1).encode(), stored.tag)
            except Conflict:
                continue
            return

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(count, range(40)))
    stored = storage.read("counter")
    assert stored is not None
    assert stored.data == b"40"


def test_one_of_many_creates_a_thing(storage: Storage) -> None:
    def create(i: int) -> bool:
        try:
            storage.swap("claim", f"by {i}".encode(), None)
        except Conflict:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(create, range(8))) == 1


def test_entries_are_listed_by_the_beginning_of_their_key(storage: Storage) -> None:
    for key in ("a/00003-1.json", "a/00003-10.json", "a/00004-1.json", "b/1", "top"):
        storage.write(key, b"xy")
    assert [e.key for e in storage.entries("a/00003-")] == ["a/00003-1.json", "a/00003-10.json"]
    assert {e.key for e in storage.entries()} == {
        "a/00003-1.json", "a/00003-10.json", "a/00004-1.json", "b/1", "top",
    }  # fmt: skip
    assert list(storage.entries("none/")) == []
    (entry,) = storage.entries("b/")
    assert entry.tag == storage.tag(entry.key)
    assert entry.num_bytes == 2
    assert abs(entry.modified_utc.timestamp() - time.time()) < 60
    storage.delete("b/1")
    storage.delete("b/1")  # gone already
    assert list(storage.entries("b/")) == []
    assert {e.key for e in storage.at("a").entries()} == {
        "00003-1.json", "00003-10.json", "00004-1.json",
    }  # fmt: skip


def test_a_storage_travels_to_another_process(storage: Storage) -> None:
    storage.write("k", b"x")
    copy: Storage = pickle.loads(pickle.dumps(storage))
    assert copy == storage
    assert copy.read("k") == storage.read("k")


def test_a_file_of_a_storage(storage: Storage) -> None:
    file = stored_file(f"{storage.url}/folder/name.bin")
    assert file.storage == storage.at("folder")
    assert str(file) == f"{storage.url}/folder/name.bin"
    assert not file.exists()
    file.write(b"x")
    assert file.exists()
    assert storage.read("folder/name.bin") == file.read()
    assert stored_file(file) is file


def test_the_doctor_finds_a_sound_storage_sound(storage: Storage) -> None:
    findings = list(probe(storage))
    assert len(findings) == 8
    assert all(f.held for f in findings if f.name != "free space"), findings
    assert list(storage.entries()) == []


# ---------------------------------------------------------------- folders


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    storage = open_storage(tmp_path)
    storage.write("file", b"old")
    (tmp_path / "folder").mkdir()
    with pytest.raises(StorageError, match="folder: cannot be written"):
        storage.write("folder", b"new")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder"]
    assert (tmp_path / "file").read_bytes() == b"old"


def test_temporary_files_are_leftovers_and_no_entries(tmp_path: Path) -> None:
    storage = open_storage(tmp_path)
    storage.write("a/file", b"x")
    (tmp_path / "a" / ".file.123.abc.tmp").write_bytes(b"half")
    assert [e.key for e in storage.entries()] == ["a/file"]
    assert [e.key for e in storage.leftovers()] == ["a/.file.123.abc.tmp"]


def test_a_read_only_folder_is_explained(tmp_path: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may write everywhere")
    tmp_path.chmod(0o500)
    with pytest.raises(StorageError, match="see that the folder is writable"):
        open_storage(tmp_path).write("k", b"x")


def test_a_url_of_another_kind_is_refused() -> None:
    with pytest.raises(UsageError, match=r"ftp://host/x: results go to a folder, or to a URL"):
        open_storage("ftp://host/x")


# ---------------------------------------------------------------- hiccups of object stores


@pytest.mark.slow
@pytest.mark.promise(10)
@pytest.mark.parametrize("fault", ["500", "503", "reset", "lost answer", "slow"])
def test_a_hiccup_is_not_noticed(
    flaky_s3: tuple[str, FlakyProxy], fault: Fault, points: Points
) -> None:
    """Each operation meets each fault, once and twice in a row."""
    url, proxy = flaky_s3
    storage = open_storage(url)
    tag = storage.write("k", b"0")
    for times in (1, 2):
        for i in range(1):
            with points.point():
                proxy.faults = [fault] * times
                tag = storage.swap("k", f"swap {times} {i}".encode(), tag)
                assert storage.read("k") == (f"swap {times} {i}".encode(), tag)
        with points.point():
            proxy.faults = [fault] * times
            created = storage.swap(f"new {times}", b"created", None)
            assert storage.read(f"new {times}") == (b"created", created)
        with points.point():
            proxy.faults = [fault] * times
            assert storage.read("k") == (f"swap {times} 0".encode(), tag)
        with points.point():
            proxy.faults = [fault] * times
            assert storage.tag("k") == tag
        with points.point():
            proxy.faults = [fault] * times
            assert "k" in {entry.key for entry in storage.entries()}
        with points.point():
            proxy.faults = [fault] * times
            storage.delete(f"new {times}")
            assert storage.read(f"new {times}") is None
        with points.point():
            proxy.faults = [fault] * times
            tag = storage.write("k", f"written {times}".encode())
            assert storage.read("k") == (f"written {times}".encode(), tag)
    assert {met for met, _ in proxy.met} == {fault}


@pytest.mark.promise(10)
def test_a_lost_answer_does_not_hide_a_conflict(flaky_s3: tuple[str, FlakyProxy]) -> None:
    url, proxy = flaky_s3
    storage = open_storage(url)
    old = storage.write("k", b"old")
    storage.write("k", b"somebody else's")
    proxy.faults = ["lost answer"]
    with pytest.raises(Conflict):
        storage.swap("k", b"ours", old)
    stored = storage.read("k")
    assert stored is not None
    assert stored.data == b"somebody else's"


@pytest.mark.promise(10)
def test_a_lost_answer_does_not_take_the_same_bytes_of_another_for_its_own(
    flaky_s3: tuple[str, FlakyProxy],
) -> None:
    url, proxy = flaky_s3
    storage = open_storage(url)
    old = storage.write("k", b"1")
    storage.write("k", b"2")
    proxy.faults = ["reset"]
    with pytest.raises(Conflict):
        storage.swap("k", b"2", old)


@pytest.mark.promise(10)
@pytest.mark.parametrize("fault", ["500", "reset"])
def test_a_store_that_stays_away_is_an_error_in_time(
    flaky_s3: tuple[str, FlakyProxy], monkeypatch: pytest.MonkeyPatch, fault: Fault
) -> None:
    url, proxy = flaky_s3
    monkeypatch.setenv("PGSEARCH_STORAGE_RETRY_SECONDS", "2")
    storage = open_storage(url)
    tag = storage.write("k", b"old")
    proxy.always = fault
    start = time.monotonic()
    with pytest.raises(StorageError, match=r"k: the object store refuses or does not answer"):
        storage.swap("k", b"new", tag)
    assert 1 < time.monotonic() - start < 20
    proxy.always = None
    assert storage.read("k") == (b"old", tag)


@pytest.mark.promise(10)
def test_a_bucket_that_is_not_there_is_named_at_once(s3: str) -> None:
    start = time.monotonic()
    with pytest.raises(StorageError, match="NoSuchBucket"):
        open_storage("s3://nowhere/x").write("k", b"x")
    assert time.monotonic() - start < 5


def test_a_stored_file_is_equal_by_its_place(tmp_path: Path) -> None:
    assert StoredFile(open_storage(tmp_path), "k") == StoredFile(open_storage(tmp_path), "k")


@pytest.mark.promise(5)
def test_a_lock_that_somebody_keeps_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a process does that was stopped between comparing and renaming."""
    monkeypatch.setattr(local_storage, "SECONDS_FOR_LOCK", 0.2)
    storage = open_storage(tmp_path)
    tag = storage.write("k", b"one")
    with (tmp_path / local_storage.LOCK_FILE).open("ab") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(StorageError, match=r"\.lock: another process has held this lock"):
            storage.swap("k", b"two", tag)
    assert storage.read("k") == (b"one", tag)
    storage.swap("k", b"two", tag)


@pytest.mark.promise(5)
def test_a_link_that_was_made_though_the_answer_says_no_is_no_conflict(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As NFS does when it asks a second time; no such server is at hand."""
    link = os.link

    def asked_twice(source: Path, target: Path) -> None:
        link(source, target)
        link(source, target)

    monkeypatch.setattr(local_storage.os, "link", asked_twice)
    storage = open_storage(tmp_path)
    tag = storage.swap("k", b"ours", None)
    assert storage.read("k") == (b"ours", tag)
    with pytest.raises(Conflict):
        storage.swap("k", b"another's", None)
