from __future__ import annotations

import pytest

from pipeline.config import SurveyConfig
from pipeline.surveys.sdss.survey import SDSS
from spender_core import get_instrument


@pytest.mark.parametrize("name", sorted(SDSS.instruments))
def test_grid_lengths_are_those_of_the_instruments(name: str) -> None:
    assert len(get_instrument(name).wave_obs) == SDSS.instruments[name]


def test_a_user_may_choose_just_the_layouts_there_are() -> None:
    assert tuple(SDSS.layouts) == ("spec-lite", "spec", "spPlate")
    assert SurveyConfig(source="s", targets="t").layout == next(iter(SDSS.layouts))
