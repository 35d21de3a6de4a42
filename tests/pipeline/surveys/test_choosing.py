"""Columns by their aliases, and what joins make of their names."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.errors import RefusedError
from pipeline.surveys.choosing import Offer, base_of, candidates_of, choose_first

ALIASES = {"plate": ("plate", "plateid"), "ra": ("plug_ra", "ra")}


@pytest.mark.parametrize(
    ("available", "expected"),
    [
        (["PlateID", "MJD"], {"plate": ("PlateID",)}),
        (["plateid", "PLATE"], {"plate": ("PLATE", "plateid")}),
        (["ra", "PLUG_RA"], {"ra": ("PLUG_RA", "ra")}),
        (["ra_1", "ra_2"], {"ra": ("ra_1", "ra_2")}),
        (["ra_2", "ra"], {"ra": ("ra", "ra_2")}),
        (["plug_ra_1", "ra"], {"ra": ("ra", "plug_ra_1")}),
        (["extra", "ra_deg"], {}),
    ],
)
def test_names_match_in_any_case_the_preferred_first(
    available: list[str], expected: dict[str, tuple[str, ...]]
) -> None:
    assert candidates_of(ALIASES, available) == expected


@pytest.mark.parametrize(
    ("name", "base"), [("Z_2", "z"), ("z.1", "z"), ("Plate_x", "plate"), ("z_err", "z_err"), ("z", "z")]
)
def test_what_a_join_adds_is_not_the_name(name: str, base: str) -> None:
    assert base_of(name) == base


def offer(first: object, second: object) -> Offer:
    columns = {"plate": np.array(first), "PLATE": np.array(second)}
    return Offer("c.csv", list(columns), {"plate": ("plate", "PLATE")}, columns)


@pytest.mark.parametrize(
    ("first", "second"),
    [([1, 2], [1.0, 2.0]), ([b"1 ", b"2"], [1, 2]), ([1.0, np.nan], ["1", "null"]), (["a", ""], [b"a  ", b"--"])],
)
def test_the_same_values_in_other_types_are_the_same(first: object, second: object) -> None:
    choice = choose_first(offer(first, second), ids=["plate"])
    assert (choice.names, choice.said) == ({"plate": "plate"}, ())


def test_other_values_are_refused_for_ids_and_named_for_others() -> None:
    with pytest.raises(
        RefusedError, match="plate and PLATE of c.csv differ only in case; choose one with --column plate=NAME"
    ):
        choose_first(offer([1, 2], [1, 3]), ids=["plate"])
    assert choose_first(offer([1, 2], [1, 3])).said == ("plate from column plate, not PLATE",)
