"""The address opens a view again; what makes no sense in it is told in words, and nothing of it is obeyed."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import pipeline
from pipeline.explorer.address import from_address, to_address
from pipeline.explorer.columns import Columns
from pipeline.explorer.view import Filter, Map, View

pytestmark = pytest.mark.slow

REUSED = settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
NUMBER = st.floats(-1e3, 1e3).map(lambda each: float(f"{each:.5g}"))
SPAN = st.tuples(NUMBER, NUMBER).filter(lambda span: span[0] != span[1]).map(lambda span: (min(span), max(span)))


@pytest.fixture
def chart(run: pipeline.Run) -> Map:
    return Map(Columns(run.results("toy")))


@REUSED
@given(st.data())
def test_a_view_comes_back(chart: Map, data: st.DataObject) -> None:
    filters: dict[str, Filter] = {}
    if data.draw(st.booleans()):
        filters["z"] = data.draw(SPAN)
    if data.draw(st.booleans()):
        filters["class"] = data.draw(st.lists(st.sampled_from(["GALAXY", "QSO", "a & b=c"]), min_size=1, unique=True))
    view = View(
        data.draw(st.sampled_from(chart.axes)),
        data.draw(st.sampled_from(chart.axes)),
        data.draw(st.sampled_from(chart.colors)),
        filters,
        data.draw(st.none() | st.tuples(SPAN, SPAN)),
    )
    row = data.draw(st.none() | st.integers(0, 17))
    assert from_address(to_address(view, row), chart, chart.first_view()) == (view, row, [])


def test_only_the_token_and_the_theme_stay_of_the_address_before(chart: Map) -> None:
    found = to_address(chart.first_view(), None, "?token=abc&theme=dark&row=3&other=1")
    assert found == "?token=abc&theme=dark&x=PCA+1&y=PCA+2&color=class"


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("x=nothing", "x=nothing: this run has no such column"),
        ("color=<b>", "color=<b>: this run has no such column"),
        ("zoom=1,2,3", "zoom=1,2,3: expected four numbers"),
        ("zoom=1,1,0,2", "expected four numbers"),
        ("zoom=1,2,0,nan", "expected four numbers"),
        ("row=18", "row=18: expected a whole number from 0 to 17"),
        ("row=-1", "expected a whole number"),
        ("row=²", "expected a whole number"),
        ("filters={", "expected something like"),
        ("filters=[1]", "expected something like"),
        ('filters={"z":[2,1]}', "filters: z = [2, 1]: expected a range"),
        ('filters={"z":["a","b"]}', "expected a range"),
        ('filters={"z":[1,2,3]}', "expected a range"),
        ('filters={"class":"QSO"}', "filters: class"),
        ('filters={"class":[1]}', "filters: class"),
        ('filters={"PCA 1":[1,2]}', "filters: PCA 1"),
    ],
)
def test_nonsense_is_told(chart: Map, query: str, said: str) -> None:
    first = replace(chart.first_view(), color="z")
    view, row, problems = from_address("?" + query, chart, first)
    assert (view, row) == (first, None)
    assert len(problems) == 1
    assert said in problems[0]
