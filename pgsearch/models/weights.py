"""Weights from a file, checked key by key: a network is never left partly random in silence.

`weights` is one of
- `None`: random initialisation, by explicit choice;
- the path of a file: `.safetensors`, or `.pth`, `.pt` or `.bin` as torch saves them;
- `torchvision:NAME`, for example `torchvision:IMAGENET1K_V1`: the file that torchvision publishes,
  from torch's cache or downloaded into it.
"""

import hashlib
import urllib.parse
import zipfile
from collections.abc import Mapping, Sequence
from http.client import HTTPException
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from pgsearch.errors import InvalidData
from pgsearch.models.backbones import TORCHVISION_BACKBONES, Backbone
from pgsearch.untrusted import one_line, open_file, shown, visible

SAFETENSORS_SUFFIX: Final = ".safetensors"
SUFFIXES: Final = (SAFETENSORS_SUFFIX, ".pth", ".pt", ".bin")
TORCHVISION_PREFIX: Final = "torchvision:"
WRAPPER_KEYS: Final = ("state_dict", "model")
PARALLEL_PREFIX: Final = "module."  # of torch's DataParallel
# BatchNorm fills it in by itself: files saved before torch 0.4.1 lack it.
OPTIONAL_SUFFIX: Final = "num_batches_tracked"
NUM_KEYS_SHOWN: Final = 3
LONGEST_KEY_SHOWN: Final = 80
LONGEST_REASON: Final = 120
"""Of a reader's message: torch's goes on to advise what would run a hostile file."""


def check_weights(backbone: str, weights: str | Path | None) -> None:
    """Raise InvalidData if the weights cannot be read, before anything is built or trained.

    A file must exist, be readable and have a known suffix; that its keys fit is seen only when it
    is loaded. A file of torchvision's is downloaded here if the cache does not hold it.
    """
    if weights is not None:
        _weights_file(backbone, weights)


def weights_fingerprint(weights: str | Path | None) -> str:
    """Return what identifies the weights in a result: 16 hexadecimal digits of a file's SHA-256.

    No weights are `random`. `torchvision:NAME` stands for itself: with the backbone it names one
    published file, whose hash is checked whenever it is loaded.
    """
    if weights is None:
        return "random"
    if is_published(weights):
        return str(weights)
    return _sha256(_checked_file(Path(weights)))[:16]


def load_weights(backbone: Backbone, name: str, weights: str | Path | None) -> None:
    """Replace all parameters and buffers of the backbone by those of the file; `None` does nothing.

    Args:
        backbone: what `build_backbone(name)` returned.
        name: the backbone's name.
        weights: as this module's head says.
    """
    if weights is None:
        return
    file = _weights_file(name, weights)
    state = _read_state(file)
    state = {
        key: tensor
        for key, tensor in state.items()
        if not key.startswith(tuple(f"{module}." for module in backbone.classifier_names))
    }
    problems = _misfits(state, backbone.network.state_dict())
    if problems:
        raise InvalidData(
            [
                f"{visible(str(file))} does not fit backbone {name}: {'; '.join(problems)}. "
                f"Give weights saved from {name}, or set the backbone to what they were saved from"
            ]
        )
    backbone.network.load_state_dict(state)


def _weights_file(backbone: str, weights: str | Path) -> Path:
    if is_published(weights):
        return _torchvision_file(backbone, str(weights).removeprefix(TORCHVISION_PREFIX))
    return _checked_file(Path(weights))


def is_published(weights: str | Path) -> bool:
    """Whether weights are named, and fetched by name, rather than given as a file."""
    return str(weights).startswith(TORCHVISION_PREFIX)


def _checked_file(path: Path) -> Path:
    given = f"weights {one_line(str(path))}"
    if path.suffix not in SUFFIXES:
        raise InvalidData(
            [
                f"{given}: the suffix tells how to read a file, and must be one of "
                f"{', '.join(SUFFIXES)}"
            ]
        )
    try:
        path = path.expanduser()
        with open_file(path) as stream:
            is_empty = not stream.read(1)
    except FileNotFoundError as error:
        raise InvalidData(
            [
                f"{given}: there is no such file (looked from {Path.cwd()}). Correct the "
                "path, put the file there, or set weights to random to start without"
            ]
        ) from error
    except (OSError, RuntimeError) as error:  # RuntimeError: ~ of a user that does not exist
        reason = error.strerror if isinstance(error, OSError) else error
        raise InvalidData([f"{given} cannot be read: {reason}; correct the path"]) from error
    if is_empty:
        raise InvalidData([f"{given}: the file is empty; fetch it again"])
    return path


def _torchvision_file(backbone: str, name: str) -> Path:
    url = _torchvision_url(backbone, name)
    file_name = Path(urllib.parse.urlparse(url).path).name
    file = Path(torch.hub.get_dir(), "checkpoints", file_name)
    hash_prefix = file.stem.rpartition("-")[2]
    if file.exists():
        if not _sha256(file).startswith(hash_prefix):
            raise InvalidData(
                [f"{file} is not the file that torchvision published: delete it and try again"]
            )
        return file
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(file), hash_prefix, progress=False)
    except (OSError, RuntimeError, HTTPException) as error:
        raise InvalidData(
            [
                f"the weights {TORCHVISION_PREFIX}{name} of {backbone} are not on this machine "
                f"and cannot be downloaded ({error}). Fetch {file_name} from {url}, then either "
                f"put it at {file} or give its path as weights"
            ]
        ) from error
    return file


def _torchvision_url(backbone: str, name: str) -> str:
    if backbone not in TORCHVISION_BACKBONES:
        raise InvalidData(
            [
                f"weights {TORCHVISION_PREFIX}{name} are for {', '.join(TORCHVISION_BACKBONES)}, "
                f"not for {backbone}: give the path of a file, or random"
            ]
        )
    import torchvision.models

    published = torchvision.models.get_model_weights(backbone)
    if name not in published.__members__:
        raise InvalidData(
            [
                f"torchvision publishes no weights {name} for {backbone}: choose "
                + " or ".join(TORCHVISION_PREFIX + member for member in published.__members__)
            ]
        )
    return str(published[name].url)


def _read_state(file: Path) -> dict[str, Tensor]:
    given = f"weights {visible(str(file))}"
    try:
        if file.suffix == SAFETENSORS_SUFFIX:
            from safetensors.torch import load_file

            contents: Any = load_file(file)
        else:
            _require_as_large_as_it_is(file)
            contents = torch.load(file, map_location="cpu", weights_only=True)
    # Neither reader promises a type of error for bytes that are damaged or something else.
    except Exception as error:
        first_line = str(error).partition("\n")[0][:LONGEST_REASON]
        raise InvalidData(
            [
                f"{given}: damaged, or not a plain {file.suffix} file of tensors "
                f"({type(error).__name__}: {visible(first_line)}). Fetch it again, or save it "
                "anew with torch.save(network.state_dict(), path)"
            ]
        ) from error
    return _unwrapped(contents, given)


def _require_as_large_as_it_is(file: Path) -> None:
    """Refuse an archive that would unpack to more than the file: torch stores, never compresses."""
    if zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as archive:
            num_bytes = sum(entry.file_size for entry in archive.infolist())
        if num_bytes > file.stat().st_size:
            raise ValueError(f"it would unpack to {num_bytes:,} bytes")


def _unwrapped(contents: Any, given: str) -> dict[str, Tensor]:
    state = contents
    for key in WRAPPER_KEYS:
        if isinstance(state, Mapping) and isinstance(state.get(key), Mapping):
            state = state[key]
    if not isinstance(state, Mapping) or not state:
        raise InvalidData([f"{given}: holds {type(state).__name__}, not named tensors"])
    strangers = [str(key) for key, value in state.items() if not _is_plain_tensor(value)]
    if strangers:
        raise InvalidData(
            [
                f"{given}: not only tensors, but also {_first(strangers)}. Save the network's "
                "state_dict of plain tensors alone, or under the key state_dict"
            ]
        )
    return {str(key).removeprefix(PARALLEL_PREFIX): tensor for key, tensor in state.items()}


def _is_plain_tensor(value: Any) -> bool:
    """Whether it is a tensor of numbers that are there: not sparse, nested, quantised or meta."""
    return (
        isinstance(value, Tensor)
        and not value.is_nested
        and not value.is_quantized
        and value.layout is torch.strided
        and value.device.type == "cpu"
    )


def _misfits(state: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> list[str]:
    shared = [key for key in expected if key in state]
    misfits = {
        "missing": [
            key for key in expected if key not in state and not key.endswith(OPTIONAL_SUFFIX)
        ],
        "not expected": [key for key in state if key not in expected],
        "of another shape": [
            f"{key} {list(state[key].shape)} instead of {list(expected[key].shape)}"
            for key in shared
            if state[key].shape != expected[key].shape
        ],
        "not of floating point": [
            key
            for key in shared
            if expected[key].is_floating_point() and not state[key].is_floating_point()
        ],
        # Of the same shape, since a few bytes can stand for a tensor that fills all memory.
        "not finite": [
            key
            for key in shared
            if state[key].shape == expected[key].shape and not _is_finite(state[key])
        ],
    }
    return [f"{problem}: {_first(keys)}" for problem, keys in misfits.items() if keys]


def _is_finite(tensor: Tensor) -> bool:
    # Types of 8 bits know no isfinite.
    return bool((tensor.float() if tensor.is_floating_point() else tensor).isfinite().all())


def _first(keys: Sequence[str]) -> str:
    first = ", ".join(
        visible(key) if len(key) <= LONGEST_KEY_SHOWN else shown(key)
        for key in keys[:NUM_KEYS_SHOWN]
    )
    more = len(keys) - NUM_KEYS_SHOWN
    return f"{first} and {more} more" if more > 0 else first


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
