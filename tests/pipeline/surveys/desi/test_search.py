from __future__ import annotations

import pandas as pd

from pipeline.surveys.desi.search import PROGRAMS, SEARCH

TARGETS = pd.DataFrame(
    {
        "targetid": [39089837499744649] * 2,
        "ra": [149.465404, None],
        "dec": [1.7936467, None],
        "survey": "",
        "program": "",
        "healpix": -1,
    }
)


def test_a_target_is_looked_for_in_every_program_of_its_pixel() -> None:
    by_position, by_number = SEARCH.candidates(TARGETS)
    assert by_position == [f"{program}-27247-39089837499744649" for program in PROGRAMS]
    assert by_number == []


def test_a_redrock_file_says_what_keys_its_targets_have() -> None:
    path = "some/where/redrock-special-dark-27247.fits"
    assert SEARCH.keys_in(path, TARGETS[:1]) == {0: "special-dark-27247-39089837499744649"}
    assert SEARCH.keys_in("some/where/coadd-special-dark-27247.fits", TARGETS) == {}
    assert SEARCH.keys_in(path, TARGETS.assign(survey=["", "main"])) == {0: "special-dark-27247-39089837499744649"}


def test_a_key_names_its_target() -> None:
    lost = pd.DataFrame({"target": "--1-5", "targetid": [5], "survey": "", "program": "", "healpix": [-1]})
    (found,) = SEARCH.named(lost, ["sv3-bright-12-5"]).to_dict("records")
    assert found == {"target": "sv3-bright-12-5", "targetid": 5, "survey": "sv3", "program": "bright", "healpix": 12}
