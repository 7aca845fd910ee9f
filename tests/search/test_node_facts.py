"""What a node tells of itself."""

from pathlib import Path

import pytest

from pgsearch.search.node_facts import node_sees


def test_files_and_folders_by_their_size(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images.csv").write_text("12345")
    paths = ["images", "images.csv", "absent.csv", str(tmp_path / "images.csv")]
    expected = {"images": 0, "images.csv": 5, "absent.csv": None, paths[3]: 5}
    assert node_sees(str(tmp_path), paths) == expected


def test_a_node_without_the_drivers_folder_looks_in_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "images.csv").write_text("12345")
    assert node_sees(str(tmp_path / "not here"), ["images.csv"]) == {"images.csv": 5}
