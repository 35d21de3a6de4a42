from __future__ import annotations

import numpy as np
import pytest

from pipeline.errors import ConfigError
from pipeline.surveys.sdss.keys import Ids, ids_of, plain_run2d
from pipeline.surveys.sdss.survey import SDSS


def test_a_key_gives_its_ids_without_loss():
    assert ids_of("v6_1_3/101077-60000-63050394784953920") == Ids("v6_1_3", 101077, 60000, 63050394784953920)


@pytest.mark.parametrize(
    "key",
    [
        "",
        "266-51602-x",
        "26/266-51602",
        "26/../266-51602-1/",
        "26/266-51602-1-2",
        "26/1_0-2-3",
        "26/ 1-2-3",
        "../26/1-2-3",
    ],
)
def test_what_is_no_key_is_refused(key: str):
    with pytest.raises(ConfigError, match="a key such as"):
        ids_of(key)


@pytest.mark.parametrize(
    "value", [26, 26.0, "26", "26.0", " 026 ", b"26  ", "2.6E+01", np.float32(26), np.str_("26"), np.int16(26)]
)
def test_a_reduction_s_number_has_one_form(value: object) -> None:
    assert plain_run2d(value) == "26"
    (key,) = SDSS.lookup.keys_of((266, 51602, 1, value), ())
    assert key == "26/266-51602-1"


@pytest.mark.parametrize(
    ("value", "plain"), [("v5_13_2 ", "v5_13_2"), ("1.5", "1.5"), ("master", "master"), ("1e400", "1e400")]
)
def test_other_names_are_only_stripped(value: str, plain: str) -> None:
    assert plain_run2d(value) == plain


@pytest.mark.parametrize("value", [None, "", " ", float("nan"), "null", b"\0\0"])
def test_no_reduction_is_no_name(value: object) -> None:
    assert plain_run2d(value) == ""
