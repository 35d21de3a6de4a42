"""The index of latents: what it holds, where it lies, and when it is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import pipeline
from pipeline.compute.planner import drop_model
from pipeline.results.latents import index as indices
from pipeline.results.latents.index import open_index
from pipeline.store.root import encode_ledger
from tests.pipeline.conftest import MakeRun, model_config
from tests.pipeline.results.latents.conftest import stored


@pytest.fixture
def run(tmp_path: Path, make_run: MakeRun) -> pipeline.Run:
    """Give a run of 18 spectra in chunks of 4, of which one is not done and two spectra have no latents."""
    make_run(tmp_path / "run", without=[("encode toy", 2)])
    latents = stored(tmp_path / "run")["latents"]
    random = np.random.default_rng(0)
    latents[:] = random.normal(3, [1, 5, 0.1], (18, 3)).astype(np.float32)
    latents[0:1] = np.nan
    latents[13:14, 1:2] = np.inf
    return pipeline.open_run(tmp_path / "run")


def remarked(run: pipeline.Run, chunk: int) -> None:
    """Have a chunk look as if it was encoded again."""
    ledger = encode_ledger(run.root, run.plan, "toy")
    record = ledger.read(chunk)
    record["checksums"]["latents"] = "other"
    ledger.replace(chunk, record)


def test_it_holds_latents_without_correlation_and_counts_what_is_left_out(run: pipeline.Run) -> None:
    index = run.index()
    there = np.isfinite(index.values).all(axis=1)
    assert np.flatnonzero(~there).tolist() == [0, 8, 9, 10, 11, 13]
    assert (index.count, index.not_done, index.not_finite) == (12, 4, 2)
    assert index.values.dtype == np.float32
    np.testing.assert_allclose(index.values[there].mean(axis=0), 0, atol=1e-6)
    np.testing.assert_allclose(np.cov(index.values[there].T, bias=True), np.eye(3), atol=1e-5)
    latents = run.encodings()["latents"].to_numpy()
    np.testing.assert_array_equal(index.whiten(latents[there]), index.values[there])


def test_it_is_made_once_and_found_again(run: pipeline.Run, monkeypatch: pytest.MonkeyPatch) -> None:
    made = run.index()
    file = Path(run.root, "neighbors", "toy.latents")
    content = file.read_bytes()
    assert [each.name for each in file.parent.iterdir()] == ["toy.latents"]
    monkeypatch.setattr(indices, "make_index", None)
    again = pipeline.open_run(run.root).index()
    np.testing.assert_array_equal(again.values, made.values)
    monkeypatch.undo()
    run.index(remake=True)
    assert file.read_bytes() == content


def test_one_of_other_latents_is_refused_until_it_is_made_again(run: pipeline.Run) -> None:
    run.index()
    remarked(run, 1)
    with pytest.raises(pipeline.ConfigError, match=r"neighbors/toy\.latents was made before chunks were encoded; .*"):
        pipeline.open_run(run.root).index()
    pipeline.open_run(run.root).index(remake=True)
    pipeline.open_run(run.root).index()


@pytest.mark.parametrize("damage", [b"", b"x" * 100])
def test_a_damaged_one_is_refused(run: pipeline.Run, damage: bytes) -> None:
    run.index()
    Path(run.root, "neighbors", "toy.latents").write_bytes(damage)
    with pytest.raises(pipeline.ConfigError, match="is damaged; make it again"):
        pipeline.open_run(run.root).index()


def test_where_root_cannot_be_written_it_lies_in_the_cache(run: pipeline.Run, cache: Path) -> None:
    Path(run.root, "neighbors").write_text("a file where the folder would be")
    run.index()
    (file,) = cache.rglob("*.latents")
    assert file.name == "toy.latents"
    before = file.stat().st_mtime_ns
    pipeline.open_run(run.root).index()
    assert file.stat().st_mtime_ns == before


def test_of_a_root_on_a_server_it_lies_in_the_cache(make_run: MakeRun, cache: Path) -> None:
    make_run("memory://neighbors")
    assert pipeline.open_run("memory://neighbors").index().count == 14  # of 18, four of whose latents are all NaN
    assert len(list(cache.rglob("*.latents"))) == 1


def test_latents_that_never_vary_are_not_blown_up(run: pipeline.Run) -> None:
    latents = stored(run.root)["latents"]
    values = latents[:]
    values[:, 2] = 7
    latents[:] = values
    index = run.index()
    assert np.nanmax(np.abs(index.values)) < 10
    latents[:] = np.where(np.isfinite(values), 1, np.nan).astype(np.float32)
    assert np.nanmax(np.abs(run.index(remake=True).values)) == 0


def test_a_model_without_latents_is_refused(tmp_path: Path, make_run: MakeRun) -> None:
    make_run(tmp_path / "run", models=(model_config(variables=("chi2", "n_pixels")),))
    with pytest.raises(pipeline.ConfigError, match="keeps no latents of toy; plan the model with the output latents"):
        pipeline.open_run(tmp_path / "run").index()


def test_a_run_without_a_spectrum_that_is_done_is_refused(tmp_path: Path, make_run: MakeRun) -> None:
    make_run(tmp_path / "run", without=[("encode toy", chunk) for chunk in range(5)])
    with pytest.raises(pipeline.ConfigError, match="no spectrum has latents of toy yet"):
        open_index(pipeline.open_run(tmp_path / "run").results())
    assert not list(Path(tmp_path, "run", "neighbors").iterdir())


def test_it_goes_with_its_model(run: pipeline.Run) -> None:
    run.index()
    drop_model(run.root, "toy")
    assert not Path(run.root, "neighbors", "toy.latents").exists()
