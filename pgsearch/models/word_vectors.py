"""Word vectors of class names: from a text file of GloVe, or drawn once and for all.

GloVe's text format: one word a line, then its numbers, with blanks between, in UTF-8. Files of
300 numbers are published at https://nlp.stanford.edu/projects/glove (glove.6B.300d.txt and others).

Shapes: C classes, W = 300 numbers of a word.
"""

import contextlib
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from io import BufferedReader
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from pgsearch.errors import InvalidData
from pgsearch.untrusted import open_file

WORD_DIM: Final = 300

RANDOM_SEED: Final = 0
"""Of `random_word_vectors`, whatever the seed of a trial is: the vectors stand for a file."""

COMPOUNDS: Final = {
    "diningtable": "dining table",
    "pottedplant": "potted plant",
    "tvmonitor": "tv monitor",
}
"""Class names of VOC that run two words together."""

LONGEST_LINE: Final = 100_000  # bytes of a first line: what is longer is not of this format


def read_word_vectors(path: str | Path, class_names: Sequence[str]) -> Tensor:
    """Return the vectors of the classes `[C, 300]`; of several words, their mean.

    The file is read until all words are found: in GloVe's files the frequent ones come first.

    Raises:
        InvalidData: the file cannot be read, a line that is needed is not a word and 300 numbers,
            or words are missing; names all classes that lack one.
    """
    path = Path(path).expanduser()
    words = {name: class_words(name) for name in class_names}
    vectors = _find(path, {word for needed in words.values() for word in needed})
    problems = [
        f"{path} has no vector of {' or '.join(missing) or 'an empty name'}, which class {name} "
        "needs"
        for name, needed in words.items()
        if (missing := [word for word in needed if word not in vectors]) or not needed
    ]
    if problems:
        raise InvalidData(
            [
                *problems,
                "Every word of a class name needs a line in the file of model.word_vectors: use a "
                "file that has it, add a line, rename the class, or set word_vectors: random",
            ]
        )
    return torch.stack(
        [torch.stack([vectors[word] for word in words[name]]).mean(dim=0) for name in class_names]
    ).float()


def check_word_vectors(path: str | Path) -> None:
    """Raise InvalidData if the file cannot be read, or its first line is not of its format."""
    path = Path(path).expanduser()
    with _opened(path) as stream:
        _first_line(stream, path)


def word_vectors_fingerprint(path: str | Path) -> str:
    """Return what identifies the file in a result: 16 hexadecimal digits of its SHA-256."""
    with _opened(Path(path).expanduser()) as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()[:16]


def random_word_vectors(num_classes: int) -> Tensor:
    """Return standard normal vectors `[C, 300]`, the same for every trial of every seed."""
    generator = torch.Generator(device="cpu").manual_seed(RANDOM_SEED)
    return torch.randn(num_classes, WORD_DIM, generator=generator, device="cpu")


def class_words(class_name: str) -> list[str]:
    """Split a class name at underscores and blanks into words in lower case."""
    name = class_name.lower()
    return COMPOUNDS.get(name, name).replace("_", " ").split()


def _find(path: Path, words: Iterable[str]) -> dict[str, Tensor]:
    wanted = {word.encode(): word for word in words}
    found: dict[str, Tensor] = {}
    with _opened(path) as stream:
        first = _first_line(stream, path)
        for number, line in enumerate(_chain(first, stream), start=1):
            if not wanted:
                break
            word = line[: line.find(b" ")]
            if word not in wanted:
                continue
            fields = line.split()
            if _is_longer_word(fields):
                continue
            found[wanted.pop(word)] = _vector(fields, path, number)
    return found


def _chain(first: bytes, rest: Iterable[bytes]) -> Iterator[bytes]:
    yield first
    yield from rest


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[BufferedReader]:
    try:
        with open_file(path) as stream:
            yield stream
    except FileNotFoundError as error:
        raise InvalidData(
            [
                f"word vectors {path}: there is no such file (looked from {Path.cwd()}). Correct "
                "the path, put the file there, or set model.word_vectors to random"
            ]
        ) from error
    except OSError as error:
        raise InvalidData([f"word vectors {path} cannot be read: {error.strerror}"]) from error


def _first_line(stream: BufferedReader, path: Path) -> bytes:
    line = stream.readline(LONGEST_LINE)
    if not line:
        raise InvalidData([f"word vectors {path}: the file is empty; fetch it again"])
    _vector(line.split(), path, 1)
    return line


def _is_longer_word(fields: Sequence[bytes]) -> bool:
    # glove.840B.300d has words with blanks in them, such as "at name@domain.com".
    return len(fields) > WORD_DIM + 1 and not _is_number(fields[1])


def _vector(fields: Sequence[bytes], path: Path, line_number: int) -> Tensor:
    place = f"word vectors {path}, line {line_number}"
    numbers = fields[1:]
    if len(numbers) != WORD_DIM:
        raise InvalidData(
            [
                f"{place}: a word and {WORD_DIM} numbers are needed, and {len(numbers)} fields "
                f"follow the word; use an unpacked text file of GloVe with {WORD_DIM} numbers a "
                "word"
            ]
        )
    strangers = [number for number in numbers if not _is_number(number)]
    if strangers:
        raise InvalidData(
            [
                f"{place}: {strangers[0].decode(errors='replace')!r} is not a number in float32; "
                "fetch the file again"
            ]
        )
    return torch.tensor([float(number) for number in numbers], dtype=torch.float64)


def _is_number(field: bytes) -> bool:
    try:
        return abs(float(field)) <= torch.finfo(torch.float32).max  # False for NaN, too
    except ValueError:
        return False
