"""Reading damaged data raises a message with the remedy."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import pipeline
from pipeline.errors import ConfigError, RefusedError
from pipeline.results.damage import damage_named
from pipeline.results.spectrum import read_spectrum
from tests.pipeline.conftest import MakeRun


@pytest.fixture
def run(tmp_path: Path, make_run: MakeRun) -> pipeline.Run:
    """Give a run whose shards are nonsense; its descriptions are whole."""
    make_run(tmp_path / "run")
    for store in ("spectra.zarr/flux", "encodings/toy.zarr/latents", "encodings/toy.zarr/restframe"):
        for shard in (tmp_path / "run" / store / "c").rglob("*"):
            if shard.is_file():
                shard.write_bytes(b"nonsense")
    return pipeline.open_run(tmp_path / "run")


READERS: dict[str, Callable[[pipeline.Run], object]] = {
    "table": lambda run: run.table(),
    "rows": lambda run: run.results().at(run.find(["26/300-51600-1"]), ["l0"]),
    "spectrum": lambda run: read_spectrum(run, 0),
    "index": lambda run: run.index(),
}


@pytest.mark.parametrize("reader", READERS)
def test_damaged_data_are_named_with_the_remedy(run: pipeline.Run, reader: str) -> None:
    with pytest.raises(RefusedError, match=r"data of .*run are damaged \(.+\); spender-pipeline verify"):
        READERS[reader](run)


def test_a_mistake_stays_what_it_is() -> None:
    with pytest.raises(ConfigError, match="^x is 1, expected 2"), damage_named("run"):
        raise ConfigError("x", 1, "2")
