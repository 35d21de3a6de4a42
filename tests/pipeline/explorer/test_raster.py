"""Pictures show each point that is drawn, and nothing else; places on them are found again."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.explorer.columns import Groups
from pipeline.explorer.raster import GROUP_COLORS, Points, Raster, inside_box, inside_lasso, nearest_to

pytestmark = pytest.mark.slow


def points(n: int = 200, color: object = None, seed: int = 0) -> Points:
    random = np.random.default_rng(seed)
    x, y = random.normal(size=(2, n)).astype(np.float32)
    x[0] = np.nan
    shown = np.ones(n, np.bool_)
    shown[1] = False
    return Points(x, y, color, shown)  # type: ignore[arg-type]


def test_what_has_no_place_or_does_not_pass_is_not_drawn() -> None:
    assert np.flatnonzero(~points().drawn).tolist() == [0, 1]


def test_few_points_are_all_within_the_extent() -> None:
    own = points()
    (left, right), (low, high) = own.extent
    drawn = own.drawn
    assert ((own.x[drawn] > left) & (own.x[drawn] < right)).all()
    assert ((own.y[drawn] > low) & (own.y[drawn] < high)).all()


def test_every_point_is_seen_where_it_is() -> None:
    own = points(12)
    picture = Raster(own).picture(*own.extent, 300, 200)
    (left, right), (low, high) = own.extent
    for x, y in zip(own.x[own.drawn], own.y[own.drawn], strict=True):
        column, row = int((x - left) / (right - left) * 300), int((y - low) / (high - low) * 200)
        assert picture[row, column, 3] > 0


def test_a_group_has_its_color() -> None:
    number = np.zeros(200, np.int8)
    number[100:] = 1
    own = points(color=Groups(number, ("GALAXY", "STAR")))
    one = np.flatnonzero(own.drawn & (number == 1))[:1]
    alone = Points(own.x, own.y, own.color, np.isin(np.arange(200), one))
    picture = Raster(alone).picture(*own.extent, 300, 200)
    shade = picture[picture[..., 3] > 0][0]
    assert "#{:02x}{:02x}{:02x}".format(*shade[:3].tolist()) == GROUP_COLORS[1]


def test_colors_of_numbers_span_most_of_them() -> None:
    values = np.linspace(0, 100, 200, dtype=np.float32)
    span = points(color=values).span()
    assert span is not None
    assert span == pytest.approx((3, 98), abs=1)


@pytest.mark.parametrize("color", [None, np.zeros(5, np.float32), Groups(np.full(5, -1, np.int8), ("GALAXY",))])
def test_nothing_to_draw_is_an_empty_picture(color: object) -> None:
    nothing = Points(*np.full((2, 5), np.nan, np.float32), color, np.ones(5, np.bool_))  # type: ignore[arg-type]
    assert not Raster(nothing).picture((0, 1), (0, 1), 30, 20).any()
    assert nothing.extent == ((0, 1), (0, 1))


def test_the_nearest_point_is_found_within_some_pixels() -> None:
    own = points()
    row = 17
    x, y = float(own.x[row]), float(own.y[row])
    assert nearest_to(own, x + 0.001, y, (0.01, 0.01), 5) == row
    assert nearest_to(own, x + 90, y, (0.01, 0.01), 5) is None


@given(st.integers(0, 50), st.floats(-1, 1), st.floats(0.1, 2))
def test_a_lasso_around_a_box_finds_what_the_box_does(seed: int, left: float, width: float) -> None:
    own = points(seed=seed)
    right = left + width
    outline = np.array([(left, left), (right, left), (right, right), (left, right)])
    found = inside_lasso(own, outline)
    other = np.setxor1d(found, inside_box(own, (left, right), (left, right)))
    places = np.concatenate([own.x[other], own.y[other]])
    edges = np.minimum(np.abs(places - left), np.abs(places - right)).reshape(2, -1).min(axis=0)
    assert (edges < 1e-5).all()  # whose sides are decided by the rounding of single precision
    assert own.drawn[found].all()


def test_a_lasso_of_two_corners_finds_nothing() -> None:
    assert inside_lasso(points(), np.zeros((2, 2))).size == 0
