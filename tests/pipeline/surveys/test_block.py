from __future__ import annotations

import numpy as np
import pytest

from pipeline.errors import ConfigError
from pipeline.surveys.block import Block

COLUMNS = {"Z": np.array(["0.1", "", "far"]), "N": np.array([1.0, 2.5, np.nan]), "ID": np.array([7, -1, 3])}


def block() -> Block:
    return Block(COLUMNS, {"z": "Z", "flags": "N", "id": "ID"}, "c.csv")


def test_what_cannot_be_read_is_missing_and_remarked() -> None:
    made = block()
    np.testing.assert_array_equal(made.numbers("z"), [0.1, np.nan, np.nan])
    assert made.flags("flags").tolist() == [1, -1, -1]
    assert {text: rows.tolist() for text, rows in made.remarks.items()} == {
        "with a Z that is no number: stored as missing": [False, False, True],
        "with a N that is no whole number: stored as missing": [False, True, False],
    }
    assert np.isnan(made.numbers("absent")).all()


def test_ids_and_redshifts_that_are_none_are_refused() -> None:
    assert block().ids("id").tolist() == [7, -1, 3]
    assert block().ids("absent").tolist() == [-1] * 3
    for read, name in ((block().redshifts, "Z"), (lambda: block().ids("flags"), "N")):
        with pytest.raises(ConfigError, match=f"CATALOG column {name} is"):
            read()
