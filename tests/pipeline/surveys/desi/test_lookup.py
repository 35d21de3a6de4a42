from __future__ import annotations

import pytest

from pipeline.errors import ConfigError
from pipeline.surveys.desi.lookup import LOOKUP, key_of
from pipeline.surveys.survey import Entry
from tests.desi_release import KEY


@pytest.mark.parametrize("entry", [KEY, KEY.upper().encode(), ("special", "Dark", 27247, 39089837499744649)])
def test_a_spectrum_is_named_by_its_key_or_its_parts(entry: Entry) -> None:
    assert key_of(entry) == KEY
    assert LOOKUP.numbers_of is not None
    assert LOOKUP.numbers_of(entry) == (27247, 39089837499744649)


@pytest.mark.parametrize("entry", [39089837499744649, "39089837499744649", (266, 51602, 1), ("a", "b", "c", "d"), 1.5])
def test_what_does_not_say_where_a_coadd_is_is_refused(entry: Entry) -> None:
    with pytest.raises(ConfigError, match="a target's key"):
        key_of(entry)


def test_a_folder_may_be_flat_or_by_pixel() -> None:
    name = "coadd-special-dark-27247.fits"
    assert list(LOOKUP.places(KEY)) == [f"27247/{name}", name]
