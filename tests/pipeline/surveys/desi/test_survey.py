from __future__ import annotations

from pipeline.surveys.desi.coadd import BINS
from pipeline.surveys.desi.survey import DESI
from pipeline.surveys.registry import get_survey
from spender_core import get_instrument


def test_desi_is_a_survey_with_the_grid_of_its_instrument() -> None:
    assert get_survey("desi") is DESI
    assert DESI.instruments == {"desi": BINS}
    assert len(get_instrument("desi").wave_obs) == BINS


def test_its_layout_and_selections_have_their_names() -> None:
    assert tuple(DESI.layouts) == ("desi-healpix",)
    assert set(DESI.selections) == {"bgs", "lrg", "galaxies", "stars", "qso", "clean"}
