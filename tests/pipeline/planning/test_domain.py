from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from pipeline.errors import ConfigError
from pipeline.planning.domain import Domain
from tests.planner import model

DOMAIN = Domain(z=(0.02, 0.5), classes=("GALAXY", "QSO"), sn=(2.0, 60.0))


def outside(domain: Domain = DOMAIN, **columns: list[Any]) -> list[bool]:
    return domain.outside(pd.DataFrame(columns)).tolist()


def test_targets_of_other_classes_redshifts_and_noise_are_outside() -> None:
    classes = ["GALAXY", "QSO", "STAR", "GALAXY", "GALAXY", "GALAXY", "GALAXY"]
    z = [0.1, 0.4, 0.1, 0.01, 0.7, 0.1, 0.1]
    sn = [10.0, 10.0, 10.0, 10.0, 10.0, 1.0, 80.0]
    assert outside(**{"class": classes}, z=z, sn_median=sn) == [False, False, True, True, True, True, True]


@pytest.mark.parametrize("z", [np.nan, np.inf, -1.0, -9999.0])
def test_what_is_not_known_of_a_target_puts_it_nowhere_outside(z: float) -> None:
    assert outside(**{"class": ["", "GALAXY "]}, z=[z, z], sn_median=[np.nan, 3.0]) == [False, False]
    assert outside(**{"class": ["STAR", "GALAXY"]}, z=[z, z], sn_median=[np.nan, 1.0]) == [True, True]
    assert outside(z=[0.1, 0.7]) == [False, True]
    assert outside(target=["a"]) == [False]


def test_the_ends_of_a_range_belong_to_it_in_the_columns_own_precision() -> None:
    ends = np.array([0.02, 0.5, np.nextafter(np.float32(0.5), np.float32(1))], np.float32)
    assert DOMAIN.outside(pd.DataFrame({"z": ends})).tolist() == [False, False, True]


def test_a_domain_of_any_class_and_noise_is_one_of_redshifts() -> None:
    assert outside(Domain(z=(0, 1)), **{"class": ["STAR"] * 2}, z=[0.5, 2.0], sn_median=[0.1, 0.1]) == [False, True]


@pytest.mark.parametrize(
    "entry",
    [
        {"classes": ["GALAXY", "QSO"], "z": [0.02, 0.5], "sn": [2, 60]},
        {"classes": None, "z": [0.0, 0.5], "sn": None},
        {"z": [0.1, 0.1]},
    ],
)
def test_a_plan_keeps_the_domain_of_a_checkpoint(entry: dict[str, Any]) -> None:
    domain = Domain.from_dict(entry)
    planned = model(domain=entry)
    assert planned.domain == domain
    assert type(planned).from_dict(planned.to_dict()) == planned


@pytest.mark.parametrize(
    "entry",
    [
        "GALAXY",
        {},
        {"z": None},
        {"z": [0.5, 0.1]},
        {"z": [0, np.nan]},
        {"z": [0.1]},
        {"z": [0, 1], "classes": "GALAXY"},
        {"z": [0, 1], "classes": [1]},
        {"z": [0, 1], "sn": 3},
        {"z": [0, 1], "snr": [1, 2]},
    ],
    ids=str,
)
def test_an_entry_of_another_form_is_refused(entry: object) -> None:
    with pytest.raises(ValueError, match=r"^domain is .*, expected {'classes'"):
        Domain.from_dict(entry)
    with pytest.raises(ConfigError, match=r"^model\.domain is .*; leave it out"):
        model(domain=entry)


def test_it_is_written_as_one_reads_it() -> None:
    assert str(DOMAIN) == "class GALAXY or QSO, z 0.02 to 0.5, S/N 2 to 60"
    assert str(Domain(z=(0, 1))) == "z 0 to 1"
