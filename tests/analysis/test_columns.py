import pytest

from pgsearch.analysis.columns import (
    parse_condition,
    plain_text,
    resolve,
    resolve_metric,
)
from pgsearch.errors import UsageError
from pgsearch.results.schema import epoch_schema, trial_schema


@pytest.mark.parametrize(
    ("name", "column"),
    [
        ("loss.lambda1_neg.tail", "loss.lambda1_neg.tail"),
        ("lambda1_neg.tail", "loss.lambda1_neg.tail"),
        ("λ1-.tail", "loss.lambda1_neg.tail"),
        ("λ2+.head", "loss.lambda2_pos.head"),
        ("λ1-mode.tail", "loss.lambda1_neg_mode.tail"),
        ("λ0.head", "loss.lambda0.head"),
        ("γ.medium", "loss.gamma.medium"),
        ("loss", "loss.name"),
        ("data", "data.name"),
        ("backbone", "model.backbone"),
        ("variant", "variant"),
        ("seed", "seed"),  # data.seed is another
        (" search ", "search"),
        ("test.tail", "map.test.tail"),
    ],
)
def test_names_of_columns(name: str, column: str) -> None:
    assert resolve(name) == column


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("lambda1_neg", "has several values: loss.lambda1_neg.head, loss.lambda1_neg.medium, loss"),
        ("name", "the end of several columns: data.name, loss.name; name one"),
        ("lambd1_neg.tail", "no column 'lambd1_neg.tail'; did you mean loss.lambda1_neg.tail or"),
        ("qqqq", "no column 'qqqq'; pgsearch schema --columns lists them"),
        ("class.ap.test", "no column"),  # a list
        ("params", "no column"),  # a document
        ("", "no column ''"),
    ],
)
def test_names_that_are_none(name: str, message: str) -> None:
    with pytest.raises(UsageError) as error:
        resolve(name)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("name", "column"),
    [
        ("test.tail", "map.test.tail"),
        ("test.micro", "f1.test.micro"),
        ("p_pos.tail", "p_pos.tail"),
        ("loss.train", "loss.train"),
        ("train", "loss.train"),
        ("train_seconds", "train_seconds"),
        ("wall_seconds", "wall_seconds"),
    ],
)
def test_names_of_metrics(name: str, column: str) -> None:
    assert resolve_metric(name) == column


@pytest.mark.parametrize("name", ["loss.lambda1_neg.tail", "seed", "variant", "map.test", "tail"])
def test_what_was_not_measured_is_no_metric(name: str) -> None:
    with pytest.raises(UsageError):
        resolve_metric(name)


def test_every_plain_column_has_its_own_name() -> None:
    """A column whose full name means another could not be asked for."""
    for schema in (trial_schema(), epoch_schema()):
        for column in schema:
            is_plain = str(column.type) in ("int64", "double", "string", "bool")
            if is_plain and column.name not in ("params", "optuna_state", "provenance", "error"):
                assert resolve(column.name) == column.name


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("pg", "is no condition; write COLUMN=VALUE"),
        ("=pg", "is no condition"),
        ("loss.name<pg", "'loss.name<pg': < compares numbers; use = or !="),
        ("seed>=", ">= compares numbers"),
        ("seed=one", "seed holds numbers, and 'one' is none"),
        ("seed=nan", "seed holds numbers, and 'nan' is none"),
        ("rebalance_weight=1", "loss.rebalance_weight is true or false, not '1'"),
        ("losss=pg", "no column 'losss'"),
    ],
)
def test_what_is_no_condition_is_refused(text: str, message: str) -> None:
    with pytest.raises(UsageError) as error:
        parse_condition(text)
    assert message in str(error.value)


def test_the_value_of_a_condition_may_hold_its_signs() -> None:
    condition = parse_condition("variant!=a<b=c")
    assert (condition.column, condition.operator, condition.value) == ("variant", "!=", "a<b=c")
    assert parse_condition("seed==3").operator == "="


def test_settings_as_people_write_them() -> None:
    values = [4.0, 0.1, 0.1234567, True, None, float("nan"), "fixed", 3]
    assert [plain_text(value) for value in values] == [
        "4", "0.1", "0.123457", "true", "–", "–", "fixed", "3",
    ]  # fmt: skip
