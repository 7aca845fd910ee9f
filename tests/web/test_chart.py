import itertools
import math

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pgsearch.web.chart import chart, round_marks
from pgsearch.web.facts import ContrastFacts, Curves, Series
from pgsearch.web.forest import forest

numbers = st.floats(-1e6, 1e6).filter(lambda x: x == 0 or abs(x) > 1e-6)


@given(numbers, numbers, st.none() | st.floats(-1e-3, 1e-3))
@example(0.6526810129926706, 0.0, 1e-16)  # a mean that moved in its last digit
@example(-0.0002, 921557.0, None)
def test_marks_are_few_even_and_around_the_values(
    a: float, b: float, relative_step: float | None
) -> None:
    b = b if relative_step is None else a * (1 + relative_step)
    low, high = min(a, b), max(a, b)
    marks = round_marks(low, high)
    assert 2 <= len(marks) <= 9
    steps = [y - x for x, y in itertools.pairwise(marks)]
    assert min(steps) > 0
    assert min(steps) == pytest.approx(max(steps), rel=1e-3)
    assert marks[0] <= low + 1e-6 * steps[0]
    assert marks[-1] >= high - 1e-6 * steps[0]
    assert len({f"{mark:g}" for mark in marks}) == len(marks)


@given(st.lists(st.none() | st.floats(0, 1), min_size=1, max_size=20))
def test_lines_stay_inside_and_have_gaps(values: list[float | None]) -> None:
    if all(value is None for value in values):
        return
    series = Series(name="tail", kind="tail", values=values)
    curves = Curves(
        name="map", title="mAP", unit="%", epochs=[*range(1, len(values) + 1)], series=[series]
    )
    placed = chart(curves)
    (line,) = placed.lines
    known = sum(value is not None for value in values)
    assert line.path.count("M") + line.path.count("L") + len(line.dots) == known
    for x in placed.x:
        assert placed.left <= x <= placed.right
    for mark in line.path.replace("M", " ").replace("L", " ").split()[1::2]:
        assert placed.top <= float(mark) <= placed.bottom
    for text, value in zip(line.texts, values, strict=True):
        assert text == ("–" if value is None else f"{100 * value:.2f}")


def test_differences_lie_around_zero_and_classes_by_size() -> None:
    def contrast(over: str, group: str | None, count: int | None, by: float) -> ContrastFacts:
        return ContrastFacts(over=over, group=group, count=count, reference=0.5, other=0.5 + by,
                             n=3, difference=by, low=by - 0.01, high=None)  # fmt: skip

    assert forest([]) is None
    placed = forest([contrast("total", None, None, 0.02), contrast("b", "tail", 3, -0.05),
                     contrast("a", "head", 300, 0.01)])  # fmt: skip
    assert placed is not None
    assert [row.name for row in placed.rows] == ["total", "a", "b"]
    assert [row.begins_classes for row in placed.rows] == [False, True, False]
    total, a, b = (row.x or math.nan for row in placed.rows)
    assert b < placed.zero < a < total
    assert placed.rows[0].text == "+2.00"
