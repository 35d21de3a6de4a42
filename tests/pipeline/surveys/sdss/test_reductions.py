from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pipeline.catalog import targets
from pipeline.surveys.sdss.reductions import (
    BOSS,
    KNOWN,
    SDSS_V,
    candidates,
    field_candidates,
    named,
    reduced,
    reductions_of,
    release_of,
)


@pytest.mark.parametrize(
    ("plate", "mjd", "rule"),
    [
        (266, 51602, "26"),
        (287, 52023, "26"),
        (288, 52000, "26"),
        (323, 51615, "26"),
        (751, 52251, "26"),
        (1960, 53289, "26"),  # a star cluster's, which the archive has under 103: no list tells
        (2974, 54592, "26"),
        (3000, 54843, "104"),
        (3306, 54922, "104"),
        (3509, None, "104"),
        (2640, 54806, "104"),  # the three plates below 3000 of SEGUE-2
        (2957, 54807, "104"),
        (2962, 54774, "104"),
        (2640, 54200, "26"),
        (2640, None, "26"),
        (3510, None, "v5_13_2"),
        (6177, 56268, "v5_13_2"),
    ],
)
def test_the_rule_names_a_plates_reduction(plate: int, mjd: int | None, rule: str):
    assert candidates(plate, 17, mjd)[0] == rule


@pytest.mark.parametrize(
    ("release", "rule"),
    [
        (9, "v5_4_45"),
        (10, "v5_5_12"),
        (11, "v5_6_5"),
        (12, "v5_7_0"),
        (13, "v5_9_0"),
        (14, "v5_10_0"),
        (15, "v5_10_0"),
        (16, "v5_13_0"),
        (17, "v5_13_2"),
        (None, "v5_13_2"),
        (8, "v5_13_2"),  # had none of BOSS
    ],
)
def test_a_release_has_its_own_reduction_of_later_plates(release: int | None, rule: str):
    assert candidates(6177, release)[0] == rule
    assert candidates(323, release)[0] == "26"


def test_every_reduction_of_a_plates_spectrograph_is_a_candidate_once():
    for plate in (266, 1960, 2700, 2950, 3306):
        assert sorted(candidates(plate, 17)) == ["103", "104", "26"]
    for release in [None, *BOSS]:
        names = candidates(3655, release)
        assert sorted(names) == sorted({name for each in BOSS.values() for name in each})
        assert set(names) | {"26", "103", "104"} == set(KNOWN)


def test_both_reductions_of_dr12_come_first_there():
    assert candidates(4455, 12)[:2] == ("v5_7_0", "v5_7_2")


def test_a_field_of_sdss_v_has_its_releases_reduction():
    assert [field_candidates(release)[0] for release in SDSS_V] == ["v6_0_4", "v6_1_3", "v6_2_1"]
    assert sorted(field_candidates()) == ["v6_0_4", "v6_1_3", "v6_2_1"]


@pytest.mark.parametrize(
    ("url", "release"),
    [
        ("https://data.sdss.org/sas/dr17", 17),
        ("https://data.sdss.org/sas/dr9/", 9),
        ("https://dr16.sdss.org/sas/dr16", 16),
        ("http://dr12.sdss3.org/sas", 12),
        ("s3://bucket/DR13", 13),
        ("/data/dr16/copy/dr17", 17),
        ("/data/mirror", None),
        ("s3://dr-what/dry17", None),
        ("", None),
    ],
)
def test_the_release_is_read_from_the_archives_url(url: str, release: int | None):
    assert release_of(url) == release


def test_the_rule_finds_the_real_reductions_among_its_candidates(catalog: Path):
    frame = targets.read_targets(str(catalog))
    for key, run2d, plate in zip(frame["target"], frame["run2d"], frame["plate"], strict=True):
        names = reductions_of(f"/{key.split('/')[1]}", "https://data.sdss.org/sas/dr17")
        assert run2d in names
        assert names[0] == ("26" if plate < 3510 else "v5_13_2")


def test_a_catalogid_tells_a_field_from_a_plate():
    assert reductions_of("/17057-59631-27021598108289694", "https://data.sdss.org/sas/dr19")[0] == "v6_1_3"
    assert reductions_of("/8065-57400-1000", "https://data.sdss.org/sas/dr19")[0] == "v5_13_2"


def test_targets_get_the_key_and_the_id_of_their_reduction(catalog: Path):
    real = targets.read_targets(str(catalog))
    assert reduced("/266-51602-1", "26") == reduced("104/266-51602-1", "26") == "26/266-51602-1"
    blank = real.assign(target="/" + real["target"].str.split("/").str[1], specobjid=np.uint64(7))
    pd.testing.assert_frame_equal(named(blank), real)


def test_targets_of_sdss_v_keep_their_ids():
    frame = pd.DataFrame(
        {
            "target": ["/17057-59631-27021598108289694"],
            "run2d": ["v6_1_3"],
            "plate": np.array([17057], np.int32),
            "mjd": np.array([59631], np.int32),
            "fiberid": np.array([0], np.int32),
            "specobjid": np.array([5], np.uint64),
        }
    )
    found = named(frame)
    assert found["target"].tolist() == ["v6_1_3/17057-59631-27021598108289694"]
    assert found["specobjid"].tolist() == [5]
