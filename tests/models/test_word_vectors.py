"""Word vectors arrive from their file as they stand there, or not at all."""

import gzip
import hashlib
import os

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pgsearch.errors import InvalidData
from pgsearch.models.build import build_model, check_model, trunk_fingerprint, weights_fingerprint
from pgsearch.models.word_vectors import (
    check_word_vectors,
    class_words,
    random_word_vectors,
    read_word_vectors,
)
from tests.models.models import class_names, model_config

WORDS = ("the", "dog", "hot", "traffic", "light", "tv", "monitor", "naïve")


def numbers(word, num=300):
    rng = np.random.default_rng(list(word.encode()))
    return [f"{x:.5f}" for x in rng.normal(size=num)]


def vector(word):
    return np.array([float(number) for number in numbers(word)])


def line(word, num=300):
    return " ".join([word, *numbers(word, num)]) + "\n"


@pytest.fixture
def glove(tmp_path):
    path = tmp_path / "glove.txt"
    path.write_text("".join(line(word) for word in WORDS), encoding="utf-8")
    return path


def test_vectors_are_those_of_the_file_and_of_several_words_the_mean(glove):
    names = ("hot_dog", "Dog", "traffic light", "tvmonitor", "naïve")
    vectors_CW = read_word_vectors(str(glove), names)
    assert vectors_CW.shape == (5, 300)
    assert vectors_CW.dtype == torch.float32
    expected = [
        (vector("hot") + vector("dog")) / 2,
        vector("dog"),
        (vector("traffic") + vector("light")) / 2,
        (vector("tv") + vector("monitor")) / 2,
        vector("naïve"),
    ]
    np.testing.assert_allclose(vectors_CW.numpy(), np.array(expected), rtol=1e-6, atol=1e-7)


@given(data=st.data())
def test_vectors_follow_the_order_of_the_classes_not_of_the_file(tmp_path_factory, data):
    order = data.draw(st.permutations(WORDS))
    names = data.draw(st.lists(st.sampled_from(WORDS), min_size=1, unique=True))
    path = tmp_path_factory.mktemp("glove") / "glove.txt"
    path.write_text("".join(map(line, order)), encoding="utf-8")
    expected = np.array([vector(name) for name in names])
    np.testing.assert_allclose(read_word_vectors(path, names).numpy(), expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("hot_dog", ["hot", "dog"]),
        ("traffic light", ["traffic", "light"]),
        ("diningtable", ["dining", "table"]),
        ("pottedplant", ["potted", "plant"]),
        ("tvmonitor", ["tv", "monitor"]),
        ("motorbike", ["motorbike"]),
        ("aeroplane", ["aeroplane"]),
        ("Person", ["person"]),
    ],
)
def test_class_names_are_split_into_words(name, words):
    assert class_words(name) == words


def test_the_first_of_two_lines_of_a_word_counts(glove):
    other = " ".join(["dog"] + ["9"] * 300) + "\n"
    glove.write_text(line("the") + line("dog") + other + line("hot"))
    np.testing.assert_allclose(read_word_vectors(glove, ["dog", "hot"])[0], vector("dog"), 1e-6)


def test_words_with_blanks_in_the_file_are_other_words(glove):
    # glove.840B.300d holds such lines.
    with glove.open("a") as stream:
        stream.write(line("email name@domain.com") + line("email"))
    np.testing.assert_allclose(read_word_vectors(glove, ["email"])[0], vector("email"), 1e-6)


def test_the_rest_of_the_file_is_not_read_once_all_words_are_found(glove):
    with glove.open("a") as stream:
        stream.write(line("light", 7))
        stream.write(line("late", 7))
    read_word_vectors(glove, ["light"])
    with pytest.raises(InvalidData, match=r"line 10: a word and 300 numbers.* 7 fields"):
        read_word_vectors(glove, ["late"])


def test_all_classes_without_a_vector_are_named_with_file_rule_and_fix(glove):
    names = ("dog", "teddy_bear", "hot_cat", "_")
    with pytest.raises(InvalidData) as info:
        read_word_vectors(glove, names)
    problems = info.value.problems
    assert problems[:3] == [
        f"{glove} has no vector of teddy or bear, which class teddy_bear needs",
        f"{glove} has no vector of cat, which class hot_cat needs",
        f"{glove} has no vector of an empty name, which class _ needs",
    ]
    assert len(problems) == 4
    assert "Every word of a class name needs a line" in problems[3]
    assert "word_vectors: random" in problems[3]


@pytest.mark.parametrize("stranger", ["x", "nan", "inf", "1e39", "--1"])
def test_what_is_not_a_number_is_named_with_its_line(glove, stranger):
    spoilt = ["cat", *numbers("cat")]
    spoilt[17] = stranger
    with glove.open("a") as stream:
        stream.write(" ".join(spoilt) + "\n")
    with pytest.raises(InvalidData, match=rf"glove\.txt, line 9: '{stranger}' is not a number"):
        read_word_vectors(glove, ["cat"])


@pytest.mark.parametrize("num", [1, 50, 299, 301])
def test_another_dimension_is_named_with_its_line(glove, num):
    with glove.open("a") as stream:
        stream.write(line("cat", num))
    message = rf"glove\.txt, line 9: a word and 300 numbers are needed, and {num} fields"
    with pytest.raises(InvalidData, match=message):
        read_word_vectors(glove, ["cat"])


@pytest.mark.parametrize("read", [check_word_vectors, lambda path: read_word_vectors(path, ["a"])])
def test_files_that_are_not_of_the_format_are_refused_by_their_first_line(tmp_path, read):
    for num in (50, 100, 400):
        (tmp_path / "glove.txt").write_text(line("the", num) + line("a", num))
        with pytest.raises(InvalidData, match=rf"line 1: .*and {num} fields follow"):
            read(tmp_path / "glove.txt")
    (tmp_path / "word2vec.txt").write_text("400000 300\n" + line("the"))
    with pytest.raises(InvalidData, match=r"line 1: .*and 1 fields follow"):
        read(tmp_path / "word2vec.txt")
    (tmp_path / "glove.txt.gz").write_bytes(gzip.compress(line("the").encode() * 100))
    with pytest.raises(InvalidData, match=r"line 1: .*use an unpacked text file"):
        read(tmp_path / "glove.txt.gz")


@pytest.mark.parametrize(
    "read",
    [
        check_word_vectors,
        lambda path: read_word_vectors(path, ["a"]),
        lambda path: check_model(model_config(head="ml_gcn", word_vectors=str(path))),
        lambda path: weights_fingerprint(model_config(head="ml_gcn", word_vectors=str(path))),
    ],
)
def test_absent_and_unreadable_files_are_named_with_the_fix(tmp_path, read):
    with pytest.raises(InvalidData, match=r"absent\.txt: there is no such file.*to random"):
        read(tmp_path / "absent.txt")
    with pytest.raises(InvalidData, match=r"cannot be read: Is a directory"):
        read(tmp_path)
    os.mkfifo(tmp_path / "pipe.txt")  # nobody writes into it
    with pytest.raises(InvalidData, match=r"pipe\.txt cannot be read: it is not a regular file"):
        read(tmp_path / "pipe.txt")


def test_an_empty_file_is_named(tmp_path):
    (tmp_path / "empty.txt").touch()
    with pytest.raises(InvalidData, match=r"empty\.txt: the file is empty"):
        check_word_vectors(tmp_path / "empty.txt")


def test_random_vectors_are_the_same_whatever_the_global_stream_and_leave_it_alone():
    torch.manual_seed(1)
    first_CW = random_word_vectors(20)
    state = torch.get_rng_state()
    torch.rand(3)
    assert torch.equal(random_word_vectors(20), first_CW)
    torch.manual_seed(1)
    assert torch.equal(torch.get_rng_state(), state)
    assert first_CW.mean().item() == pytest.approx(0, abs=0.05)
    assert first_CW.std().item() == pytest.approx(1, abs=0.05)


def test_a_model_reads_the_words_of_its_classes(glove):
    config = model_config(head="ml_gcn", word_vectors=str(glove))
    names = ("hot_dog", "light")
    check_model(config, names)
    model = build_model(config, class_names=names, train_targets_NC=np.eye(2, dtype=np.uint8))
    assert torch.equal(model.head.word_vectors, read_word_vectors(glove, names))


def test_the_check_reads_the_words_only_if_it_knows_the_classes(glove):
    config = model_config(head="ml_gcn", word_vectors=str(glove))
    check_model(config)
    with pytest.raises(InvalidData, match="class class0 needs"):
        check_model(config, class_names(2))


def test_a_file_that_no_head_reads_is_not_looked_for():
    config = model_config(head="linear", word_vectors="absent.txt")
    check_model(config, class_names(2))
    assert weights_fingerprint(config) == "random"


def test_the_fingerprint_holds_the_hash_of_the_words_where_they_are_read(glove):
    config = model_config(head="ml_gcn", word_vectors=str(glove))
    digest = hashlib.sha256(glove.read_bytes()).hexdigest()[:16]
    assert weights_fingerprint(config) == f"random+{digest}"
    assert trunk_fingerprint(config) == "random"
    assert weights_fingerprint(model_config(head="ml_gcn")) == "random"
