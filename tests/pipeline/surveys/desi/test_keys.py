from __future__ import annotations

import pytest

from pipeline.errors import ConfigError
from pipeline.surveys.desi.keys import Ids, ids_of, is_key


def test_a_key_is_taken_apart() -> None:
    assert ids_of("main-dark-27247-39628473198710603") == Ids("main", "dark", 27247, 39628473198710603)
    assert ids_of("sv3-backup-0-2305843019946942000").targetid == 2305843019946942000


@pytest.mark.parametrize(
    "text",
    [
        "",
        "main-dark-27247",
        "main-dark-49152-1",  # a pixel beyond the last
        "main-dark-1-9223372036854775808",  # beyond 63 bits
        "main-../..-1-2",
        "Main-dark-1-2",
        "main-dark-1--2",
        "26/266-51602-1",
    ],
)
def test_what_is_no_key_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="survey-program-healpix-targetid"):
        ids_of(text)


def test_text_is_told_from_a_key() -> None:
    assert is_key(" main-dark-27247-39628473198710603 ")
    assert not is_key("266-51602-1")
    assert is_key("39628473198710603")  # a TARGETID
    assert not is_key("51602")
