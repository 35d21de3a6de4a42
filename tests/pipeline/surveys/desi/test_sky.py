from __future__ import annotations

import pytest

from pipeline.surveys.desi.sky import _rows, pixel_of, pixels_of_brick


@pytest.mark.parametrize(
    ("ra", "dec", "pixel"),
    [  # the first two of DESI's own files, the others by astropy-healpix
        (149.465404, 1.7936467, 27247),
        (268.108997, 64.834587, 10237),
        (10, -80, 32929),
        (200, 89, 12286),
        (33, -45, 35123),
    ],
)
def test_a_position_has_its_pixel(ra: float, dec: float, pixel: int) -> None:
    assert pixel_of(ra, dec) == pixel
    assert pixel_of(ra - 360, dec) == pixel


def test_there_are_as_many_bricks_as_in_the_legacy_surveys() -> None:
    _, first = _rows()
    assert first[-1] - 1 == 662174


def test_a_number_says_where_its_target_is() -> None:
    brick = 341045  # of 149.465404, 1.7936467
    assert 27247 in pixels_of_brick((9010 << 42) + (brick << 22) + 5)
    assert pixels_of_brick((9010 << 42) + (630400 << 22))[0] == pixel_of(268.25, 64.75)


@pytest.mark.parametrize("targetid", [39089837499744649, 2305843019946942000, 5, (9010 << 42) + (700000 << 22)])
def test_a_number_without_a_brick_says_nothing(targetid: int) -> None:
    assert pixels_of_brick(targetid) == []
