"""Weights and checkpoints that mean harm: nothing in them runs, and they are refused in a line."""

import io
import os
import pickle
import struct
import tarfile
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pgsearch.errors import InvalidData, StorageError
from pgsearch.models.backbones import build_backbone
from pgsearch.models.weights import check_weights, load_weights, weights_fingerprint
from pgsearch.results import Ledger
from pgsearch.training.checkpoint import Checkpoints
from pgsearch.training.trained import load_trained
from tests import hostile

pytestmark = [pytest.mark.slow, pytest.mark.promise(12), pytest.mark.timeout(60)]

BACKBONE = "digits_resnet"


def state() -> dict[str, Tensor]:
    return dict(build_backbone(BACKBONE).network.state_dict())


KEY = next(key for key, tensor in state().items() if tensor.dim() == 4)


def refused(read: Callable[[], object], error: type[Exception] = InvalidData) -> str:
    """The message of what is refused, once it is known to do no harm itself."""
    (problem,) = hostile.refused(read, error)
    return problem


def load(path: str | Path) -> None:
    check_weights(BACKBONE, path)
    load_weights(build_backbone(BACKBONE), BACKBONE, path)


def _saved(contents: object, **options: Any) -> bytes:
    file = io.BytesIO()
    torch.save(contents, file, **options)
    return file.getvalue()


def _tar(payload: hostile.Payload) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name in ("sys_info", "pickle", "storages", "tensors"):
            data = pickle.dumps(payload)
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return file.getvalue()


PICKLES: dict[str, Callable[[hostile.Payload], bytes]] = {
    "a pickle": lambda payload: pickle.dumps(payload),
    "an old pickle": lambda payload: pickle.dumps(payload, protocol=0),
    "a file of torch": lambda payload: _saved({"model": payload}),
    "an old file of torch": lambda payload: _saved(
        {"model": payload}, _use_new_zipfile_serialization=False
    ),
    "among tensors": lambda payload: _saved({**state(), "more": payload}),
    "a tar of torch": _tar,
}


@pytest.mark.parametrize("case", PICKLES)
@pytest.mark.parametrize("suffix", [".pth", ".pt", ".bin", ".safetensors"])
def test_nothing_in_weights_is_run(
    tmp_path: Path, payload: hostile.Payload, case: str, suffix: str
) -> None:
    path = tmp_path / f"w{suffix}"
    path.write_bytes(PICKLES[case](payload))
    said = refused(lambda: load(path))
    assert f"weights {path}: damaged, or not a plain {suffix} file" in said
    assert "weights_only" not in said or "False" not in said  # torch's advice to run it


@pytest.mark.parametrize("case", PICKLES)
def test_nothing_in_a_checkpoint_is_run(
    tmp_path: Path, payload: hostile.Payload, case: str
) -> None:
    path = tmp_path / "c.pt"
    path.write_bytes(PICKLES[case](payload))
    assert "checkpoint is damaged" in refused(Checkpoints(path).load, StorageError)
    assert "not a checkpoint" in refused(lambda: load_trained(path))


def test_nothing_in_the_header_of_a_search_is_run(tmp_path: Path, payload: hostile.Payload) -> None:
    (tmp_path / "search.json").write_bytes(pickle.dumps(payload))
    assert "search.json" in refused(Ledger(tmp_path).spec, StorageError)


def test_a_program_of_torch_is_not_weights(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(torch.nn.Linear(1, 1)).save(tmp_path / "w.pt")
        assert "damaged, or not a plain" in refused(lambda: load(tmp_path / "w.pt"))


def _of_8_bits() -> Tensor:
    return torch.quantize_per_tensor(state()[KEY], 0.1, 0, torch.qint8)


TENSORS: dict[str, tuple[Callable[[], object], str]] = {
    "larger than memory": (lambda: torch.zeros(1).expand(10**12), "of another shape"),
    "sparse": (lambda: state()[KEY].to_sparse(), "not only tensors"),
    "of rows": (lambda: torch.eye(4).to_sparse_csr(), "not only tensors"),
    "without numbers": (lambda: state()[KEY].to("meta"), "not only tensors"),
    "quantised": (_of_8_bits, "not only tensors"),
    "nested": (
        lambda: torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)]),
        "not only tensors",
    ),
    "complex": (lambda: state()[KEY].to(torch.complex64), "not of floating point"),
    "not finite": (lambda: state()[KEY] / 0, "not finite"),
    "not finite in 8 bits": (
        lambda: (state()[KEY] * torch.nan).to(torch.float8_e4m3fn),
        "not finite",
    ),
    "no tensor": (lambda: 3, "not only tensors"),
}


@pytest.mark.parametrize("case", TENSORS)
@pytest.mark.filterwarnings("ignore")
def test_odd_tensors_are_refused(tmp_path: Path, case: str) -> None:
    make, expected = TENSORS[case]
    torch.save({**state(), KEY: make()}, tmp_path / "w.pth")
    said = refused(lambda: load(tmp_path / "w.pth"))
    assert expected in said
    assert KEY in said


@pytest.mark.parametrize(
    "key", ["\x1b[2J", "a\nb", "\u202ea", 1_000_000 * "x"], ids=lambda k: k[:4]
)
@pytest.mark.parametrize("value", [torch.zeros(1), 3], ids=["tensor", "number"])
def test_odd_keys_are_shown_harmlessly(tmp_path: Path, key: str, value: object) -> None:
    torch.save({**state(), key: value}, tmp_path / "w.pth")
    assert repr(key)[1:60].rstrip("'") in refused(lambda: load(tmp_path / "w.pth"))


def test_an_archive_that_unpacks_to_more_is_refused(tmp_path: Path) -> None:
    stored = zipfile.ZipFile(io.BytesIO(_saved(state())))
    with zipfile.ZipFile(tmp_path / "w.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        for entry in stored.infolist():
            is_first = entry.filename.endswith("data/0")
            data = bytes(50_000_000) if is_first else stored.read(entry)
            archive.writestr(entry.filename, data)
    assert "would unpack to" in refused(lambda: load(tmp_path / "w.pth"))


@pytest.mark.parametrize(
    "data",
    [
        struct.pack("<Q", 2**62) + b"{}",
        struct.pack("<Q", 70)
        + b'{"a":{"dtype":"F32","shape":[999999999,999999999],"data_offsets":[0,4]}}'[:70],
        struct.pack("<Q", 100_000) + b"[" * 100_000,
        b"",
    ],
    ids=["long header", "lying header", "deep header", "nothing"],
)
def test_forged_safetensors_are_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "w.safetensors").write_bytes(data)
    refused(lambda: load(tmp_path / "w.safetensors"))


@pytest.mark.parametrize("kind", ["pipe", "zero", "loop", "folder", "absent"])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_weights_are_a_regular_file(tmp_path: Path, kind: str, suffix: str) -> None:
    path = tmp_path / f"w{suffix}"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind != "absent":
        path.symlink_to({"zero": "/dev/zero", "loop": path.name}[kind])
    for read in (lambda: load(path), lambda: weights_fingerprint(path)):
        said = refused(read)
        assert "cannot be read" in said or "no such file" in said


@pytest.mark.parametrize(
    "path",
    ["a\0.pth", "\ud800.pth", "\x1b[2J.pth", "a.\x1b[2J", f"{5_000 * 'x'}.pth", "~nobody!/x.pth"],
    ids=lambda path: ascii(path[:8]),
)
def test_odd_paths_are_shown_harmlessly(path: str) -> None:
    assert refused(lambda: load(path)).startswith("weights ")
