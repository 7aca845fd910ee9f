import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pgsearch.errors import StorageError, UsageError
from pgsearch.export.place import whole

FILES = ("a.csv", "b.csv")


def write(place: Path, text: str = "new", *, force: bool = False) -> None:
    with whole(place, force=force, files=FILES) as new:
        new.mkdir()
        (new / "a.csv").write_text(text)


def test_it_appears_at_the_end_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    place = tmp_path / "made/for/it"
    with whole(place, force=False, files=FILES) as new:
        new.mkdir()
        assert not place.exists()
    assert place.is_dir()
    assert list(place.parent.iterdir()) == [place]


def test_what_is_there_stays_unless_forced(tmp_path: Path) -> None:
    place = tmp_path / "out"
    write(place, "old")
    with pytest.raises(UsageError, match=r"is there already.*--force"):
        write(place)
    assert (place / "a.csv").read_text() == "old"
    write(place, force=True)
    assert (place / "a.csv").read_text() == "new"
    assert list(tmp_path.iterdir()) == [place]


def test_the_folder_that_one_is_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "empty"
    place.mkdir()
    monkeypatch.chdir(place)
    write(Path(), force=True)
    assert (place / "a.csv").read_text() == "new"
    assert list(tmp_path.iterdir()) == [place]


def test_what_came_while_it_was_written_stays(tmp_path: Path) -> None:
    place = tmp_path / "out.db"

    def write_slowly() -> None:
        with whole(place, force=False, files=None) as new:
            new.write_text("new")
            place.write_text("another's")

    with pytest.raises(UsageError, match="is there already"):
        write_slowly()
    assert place.read_text() == "another's"


@pytest.mark.parametrize("inner", ["notes.txt", "deeper/notes.txt"])
def test_force_spares_a_folder_of_other_things(tmp_path: Path, inner: str) -> None:
    file = tmp_path / "out" / inner
    file.parent.mkdir(parents=True)
    file.write_text("mine")
    with pytest.raises(UsageError, match=r"notes\.txt, which no such export wrote"):
        write(tmp_path / "out", force=True)
    assert file.read_text() == "mine"


def test_file_and_folder_are_not_taken_for_each_other(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("mine")
    with (
        pytest.raises(UsageError, match="is a folder; name a file"),
        whole(tmp_path / "folder", force=True, files=None),
    ):
        pass
    with pytest.raises(UsageError, match="is a file; name the folder"):
        write(tmp_path / "file", force=True)


def test_a_search_holds_no_exports(tmp_path: Path) -> None:
    (tmp_path / "search.json").write_text("{}")
    for place in (tmp_path / "out", tmp_path / "epochs/deeper/out"):
        with pytest.raises(UsageError, match="inside the search"):
            write(place)


@pytest.mark.parametrize("url", ["s3://bucket/out", "https://host/out", "file:///tmp/out"])
def test_a_url_is_no_place(url: str) -> None:
    with pytest.raises(UsageError, match="not a URL"):
        write(Path(url))


@pytest.mark.parametrize("suffix", ["-wal", "-journal"])
def test_a_database_in_use_is_not_replaced(tmp_path: Path, suffix: str) -> None:
    (tmp_path / "out.db").write_text("old")
    (tmp_path / f"out.db{suffix}").write_text("pages")
    with (
        pytest.raises(UsageError, match="is in use"),
        whole(tmp_path / "out.db", force=True, files=None),
    ):
        pass


def test_an_error_leaves_what_was_there(tmp_path: Path) -> None:
    def write_to_a_full_disk() -> None:
        with whole(tmp_path / "out", force=True, files=FILES) as new:
            new.mkdir()
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    write(tmp_path / "out", "old")
    with pytest.raises(StorageError, match="No space left"):
        write_to_a_full_disk()
    assert (tmp_path / "out/a.csv").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot be written"):
        write(tmp_path / "file" / "out")


def test_a_kill_leaves_no_half_export(tmp_path: Path) -> None:
    code = (
        "import os, sys; from pathlib import Path; from pgsearch.export.place import whole\n"
        "with whole(Path(sys.argv[1]), force=False, files=()) as new:\n"
        "    new.mkdir(); (new / 'a.csv').write_text('half'); os.kill(os.getpid(), 9)"
    )
    ended = subprocess.run([sys.executable, "-c", code, str(tmp_path / "out")], check=False)
    assert ended.returncode == -signal.SIGKILL
    assert not (tmp_path / "out").exists()
    write(tmp_path / "out")  # the next one is not disturbed
    assert (tmp_path / "out/a.csv").read_text() == "new"
