import struct
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tensorboardX.proto.event_pb2 import Event
from tensorboardX.proto.plugin_hparams_pb2 import HParamsPluginData

from pgsearch.export import Target
from pgsearch.export.export import export
from pgsearch.results import Ledger
from pgsearch.results.read import DamagedFileWarning
from tests.export.reference import HOSTILE, raw, raw_epochs

MEASURED = {
    "map.validation/tail": "map.validation.tail", "map.test/total": "map.test.total",
    "loss/train": "loss.train", "loss/validation": "loss.validation",
    "p_pos/head": "p_pos.head", "p_neg/medium": "p_neg.medium", "learning_rate": "learning_rate",
}  # fmt: skip


def events(folder: Path) -> list[Any]:
    """The records of the one event file of a run."""
    return [Event.FromString(payload) for _, payload, _ in records(folder)]


def records(folder: Path) -> Iterator[tuple[bytes, bytes, bytes]]:
    """Each record as its length with a checksum, its payload, and the payload's checksum."""
    (file,) = folder.glob("*tfevents*")
    data = file.read_bytes()
    while data:
        end = 12 + struct.unpack("<Q", data[:8])[0]
        yield data[:12], data[12:end], data[end : end + 4]
        data = data[end + 4 :]


def masked_crc32c(data: bytes) -> int:
    """Bit by bit (RFC 3720, appendix B.4), with the rotation of TFRecord."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def scalars(run: Path) -> dict[str, list[tuple[int, float, float]]]:
    """Step, wall time and value by tag."""
    found = defaultdict(list)
    for event in events(run):
        for value in event.summary.value:
            if not value.tag.startswith("_hparams_"):
                found[value.tag].append((event.step, event.wall_time, value.simple_value))
    return found


def hparams(run: Path) -> dict[str, Any]:
    """The plugin's messages by tag."""
    return {
        value.tag: HParamsPluginData.FromString(value.metadata.plugin_data.content)
        for event in events(run)
        for value in event.summary.value
        if value.metadata.plugin_data.plugin_name == "hparams"
    }


def test_scalars_are_as_the_parquet_has_them(all_states: Ledger, tmp_path: Path) -> None:
    export(all_states, Target.tensorboard, tmp_path / "tb")
    runs = sorted(path.name for path in (tmp_path / "tb").iterdir() if path.is_dir())
    assert runs == [f"{n:05d}" for n in range(6)]
    for number, run in enumerate(runs):
        found = scalars(tmp_path / "tb" / run)
        epochs = raw_epochs(Path(all_states.url), number)
        assert "p_neg/tail" not in found  # undefined everywhere
        for tag, column in MEASURED.items():
            expected = [
                (e["epoch"], e["recorded_utc"].timestamp(), e[column])
                for e in epochs
                if e[column] is not None
            ]
            assert [steps[:2] for steps in found[tag]] == [e[:2] for e in expected]
            # An event file holds single precision.
            assert [s[2] for s in found[tag]] == pytest.approx([e[2] for e in expected], rel=1e-6)


def test_records_carry_their_checksums(ablation: Ledger, tmp_path: Path) -> None:
    export(ablation, Target.tensorboard, tmp_path / "tb")
    for head, payload, checksum in records(tmp_path / "tb"):
        assert head[8:] == struct.pack("<I", masked_crc32c(head[:8]))
        assert checksum == struct.pack("<I", masked_crc32c(payload))


def test_hparams(all_states: Ledger, tmp_path: Path) -> None:
    export(all_states, Target.tensorboard, tmp_path / "tb")
    rows = raw(Path(all_states.url) / "trials")
    columns = hparams(tmp_path / "tb")["_hparams_/experiment"].experiment
    names = {info.name for info in columns.hparam_infos}
    assert names == {
        "loss.focusing", "loss.lambda0", "loss.lambda1_neg.head", "loss.lambda1_neg.medium",
        "loss.lambda1_neg.tail", "seed", "state",
    }  # fmt: skip
    tags = {info.name.tag for info in columns.metric_infos}
    assert tags == {f"map.{s}/{p}" for s in ("validation", "test")
                    for p in ("total", "head", "medium", "tail")}  # fmt: skip
    statuses = []
    for row in rows:
        parts = hparams(tmp_path / "tb" / f"{row['number']:05d}")
        start = parts["_hparams_/session_start_info"].session_start_info
        assert start.hparams["state"].string_value == row["state"]
        assert start.start_time_secs == row["started_utc"].timestamp()
        end = parts.get("_hparams_/session_end_info")
        statuses.append(None if end is None else end.session_end_info.status)
    success, failure, unknown = 1, 2, 0
    assert statuses == [success, failure, success, unknown, success, None]


def test_hostile_names_are_values_and_no_paths(ablation: Ledger, tmp_path: Path) -> None:
    export(ablation, Target.tensorboard, tmp_path / "tb")
    names = []
    for number in range(2 * len(HOSTILE)):
        start = hparams(tmp_path / f"tb/{number:05d}")["_hparams_/session_start_info"]
        names.append(start.session_start_info.hparams["variant"].string_value)
    assert names == [name for name in HOSTILE for _ in (1, 2)]


def test_the_same_search_gives_the_same_bytes(ablation: Ledger, tmp_path: Path) -> None:
    for name in ("a", "b"):
        export(ablation, Target.tensorboard, tmp_path / name)
    a, b = (
        {p.relative_to(tmp_path / n): p.read_bytes() for p in (tmp_path / n).rglob("*tfevents*")}
        for n in ("a", "b")
    )
    assert a == b


def test_damaged_files_are_left_out(damaged: Ledger, tmp_path: Path) -> None:
    with pytest.warns(DamagedFileWarning):
        export(damaged, Target.tensorboard, tmp_path / "tb")
    runs = sorted(path.name for path in (tmp_path / "tb").iterdir() if path.is_dir())
    assert runs == ["00000", "00003", "00004", "00005"]
    assert not scalars(tmp_path / "tb/00004")
