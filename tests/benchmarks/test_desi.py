"""The benchmark of DESI, at a tiny size: two workers read few bytes in few requests."""

from __future__ import annotations

import re

import pytest

from tests.benchmarks.running import lines_of

pytestmark = pytest.mark.long


@pytest.mark.parametrize("options", [(), ("--packed",)])
def test_a_release_is_read_in_few_requests(options: tuple[str, ...]) -> None:
    lines = lines_of("desi.py", "--targets", "40", "--per-file", "20", *options)
    for kind, most in (("redrock", 3), ("coadd", 8)):
        (line,) = [each for each in lines if each.startswith(kind)]
        found = re.search(r"at most (\d+)", line)
        assert found is not None
        assert int(found[1]) <= most
