from __future__ import annotations

import pytest

from pipeline.errors import ConfigError
from pipeline.surveys.sdss.keys import Ids, ids_of


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
