from __future__ import annotations

import numpy as np
import pytest

from pipeline.catalog.formats.joined import joined
from pipeline.catalog.table import Table, sliced

OWN = {"id": np.arange(5), "z": np.linspace(0, 1, 5)}
BESIDE = {"id": np.arange(5), "ra": np.linspace(10, 50, 5)}


def table() -> Table:
    return Table(tuple(OWN), sliced(OWN))


def test_columns_of_tables_beside_and_constants_come_with_every_block() -> None:
    found = joined(table(), [BESIDE], {"SURVEY": "main", "Z": 7}, 5)
    assert found.names == ("id", "z", "ra", "SURVEY")  # Z is the table's own
    blocks = list(found.blocks(("ra", "SURVEY"), 2))
    assert [list(block) for block in blocks] == [["ra", "SURVEY"]] * 3
    np.testing.assert_array_equal(np.concatenate([block["ra"] for block in blocks]), BESIDE["ra"])
    assert [block["SURVEY"].tolist() for block in blocks] == [["main"] * 2, ["main"] * 2, ["main"]]


def test_a_table_without_anything_beside_is_left_alone() -> None:
    own = table()
    assert joined(own, [], {}, 5) is own


def test_tables_of_other_rows_are_refused() -> None:
    other = {"id": np.array([0, 1, 2, 4, 3]), "ra": BESIDE["ra"]}
    with pytest.raises(ValueError, match="two tables of the file differ in id"):
        list(joined(table(), [other], {}, 5).blocks(("ra",), 2))
