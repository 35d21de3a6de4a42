"""Densities of a run's latents: trained, planned, scored, replaced, and kept up while a run grows."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import s3fs
import torch
import xarray as xr
from astropy.io import fits

import pipeline
from pipeline.catalog import targets as tables
from pipeline.cli import main as cli
from pipeline.compute.stages.density import score
from pipeline.errors import ConfigError
from pipeline.store import arrays
from pipeline.store.root import density_ledger, encode_ledger, read_plan
from spender_core.dataset import validation
from spender_core.density import Density, density_of
from spender_core.density_fit import FlowSample, fit_density
from spender_core.training_file import LocalFile
from tests import s3
from tests.running import file_hashes, random_checkpoint
from tests.spender_core.density_samples import QUICK
from tests.spender_core.test_flow import upstream

SCORES = {"log_prob", "log_prob_percentile", "log_prob_percentile_sn"}
N, SHARD = 20, 4


def catalog(mirror: Path) -> pd.DataFrame:
    """Give real targets, one of them without a redshift, and so without latents of a model that needs it."""
    frame = tables.read_targets(str(mirror / "sdss" / "spectro" / "redux" / "specObj-dr17.fits"))
    z = frame["z"].to_numpy(copy=True)
    z[3] = np.nan
    return frame.assign(z=z)


def plan_run(root: Path, mirror: Path, n: int = N, variables: str = "latents,chi2,n_pixels") -> None:
    checkpoint = random_checkpoint(root.parent, n_aux=1)
    names = variables.split(",")
    model = f"random={checkpoint}"
    pipeline.plan(root, targets=catalog(mirror).iloc[:n], source=mirror, models=model, shard=SHARD, variables=names)


def flow_of(root: Path, file: Path, seed: int = 1) -> Path:
    """Train a density of latents like those of a run, in a second."""
    sha256 = read_plan(str(root)).model("random").sha256 or ""
    own = pipeline.open_run(root).encodings("random")["latents"].to_numpy()
    own = own[np.isfinite(own).all(axis=1)]
    random = np.random.default_rng(seed)
    latents = own.mean(axis=0) + own.std(axis=0) * random.normal(size=(400, own.shape[1]))
    sn = random.uniform(1, 30, 400).astype(np.float32)
    sample = FlowSample(latents.astype(np.float32), validation(np.arange(400)), sn, sha256)
    fit_density(sample, QUICK, LocalFile(file))
    return file


@pytest.fixture(scope="module")
def encoded(tmp_path_factory: pytest.TempPathFactory, mirror: Path) -> Path:
    """Give a finished run without a density, and two densities beside it."""
    root = tmp_path_factory.mktemp("density") / "run"
    plan_run(root, mirror)
    assert cli.main(["run", str(root), "--serial"]) == 0
    flow_of(root, root.parent / "flow.pt")
    flow_of(root, root.parent / "other.pt", seed=2)
    return root


@pytest.fixture
def root(encoded: Path, tmp_path: Path) -> Path:
    """Give a copy of that run, to be changed."""
    return Path(shutil.copytree(encoded, tmp_path / "run"))


def plan_density(root: Path, flow: Path) -> None:
    pipeline.plan(root, models="random", density=flow)


def test_a_finished_run_gets_scores_and_repeats_nothing(root: Path, encoded: Path) -> None:
    before = file_hashes(root / "encodings") | file_hashes(root / "spectra.zarr")
    plan_density(root, encoded.parent / "flow.pt")
    summary = pipeline.run(root, serial=True, progress=False)
    assert (summary.total, summary.done_before, summary.done) == (15, 10, 5)
    assert (file_hashes(root / "encodings") | file_hashes(root / "spectra.zarr")) == before
    found = pipeline.open_run(root).encodings("random").load()
    assert set(found.data_vars) >= SCORES
    assert "log_prob_noise" not in found
    density = density_of((encoded.parent / "flow.pt").read_bytes(), "flow.pt")
    with torch.no_grad():
        expected = density.log_prob(torch.from_numpy(found["latents"].to_numpy())).numpy()
    np.testing.assert_allclose(found["log_prob"], expected, rtol=1e-5)
    has = np.isfinite(found["latents"].to_numpy()).all(axis=1)
    assert 0 < has.sum() < N
    np.testing.assert_array_equal(np.isfinite(found["log_prob"].to_numpy()), has)
    percentile = found["log_prob_percentile"].to_numpy()
    assert ((percentile[has] >= 0) & (percentile[has] <= 100)).all()
    assert (np.diff(percentile[has][np.argsort(found["log_prob"].to_numpy()[has])]) >= 0).all()
    assert np.isfinite(found["log_prob_percentile_sn"].to_numpy()[has]).all()


def test_what_was_scored_says_by_what(root: Path, encoded: Path) -> None:
    plan_density(root, encoded.parent / "flow.pt")
    pipeline.run(root, serial=True, progress=False)
    with xr.open_zarr(root / "density" / "random.zarr", consolidated=True) as store:
        attributes = dict(store.attrs)
        assert store["log_prob"].attrs["long_name"]
        assert (store["quality"] != 2**31).all()
    assert attributes["density"] == "flow.pt"
    assert attributes["density_model_sha256"] == attributes["model_sha256"]
    plan = read_plan(str(root))
    assert attributes["density_sha256"] == plan.model("random").density_sha256
    assert attributes["fingerprint"] == plan.density_fingerprint("random")
    assert "zuko" in attributes["package_versions"]
    table = pipeline.open_run(root).table("random", where="log_prob_percentile <= 100")
    assert set(table.columns) >= SCORES
    assert np.isfinite(table["log_prob"]).all()


def test_status_and_verify_know_the_stage(root: Path, encoded: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan_density(root, encoded.parent / "flow.pt")
    stages = {(each.stage, each.model): each.pending for each in pipeline.status(root).stages}
    assert stages == {("ingest", None): 0, ("encode", "random"): 0, ("density", "random"): 5}
    assert "density random: not begun" in " ".join(pipeline.verify(root).problems)
    assert cli.main(["run", str(root), "--serial"]) == 0
    capsys.readouterr()
    assert cli.main(["status", str(root)]) == 0
    assert "density random" in capsys.readouterr().out
    assert pipeline.verify(root).problems == ()
    (chunk,) = (root / "density" / "random.zarr" / "log_prob" / "c").glob("2")
    chunk.write_bytes(b"not a chunk")
    assert any("density random chunk 2: log_prob" in each for each in pipeline.verify(root, repair=True).problems)
    hashes = file_hashes(root / "encodings")
    assert cli.main(["run", str(root), "--serial"]) == 0
    assert pipeline.verify(root).problems == ()
    assert file_hashes(root / "encodings") == hashes


def test_another_density_replaces_the_scores_alone(root: Path, encoded: Path) -> None:
    plan_density(root, encoded.parent / "flow.pt")
    pipeline.run(root, serial=True, progress=False)
    first = pipeline.open_run(root).encodings("random")["log_prob"].to_numpy()
    before = file_hashes(root / "encodings") | file_hashes(root / "spectra.zarr")
    plan_density(root, encoded.parent / "other.pt")
    assert "log_prob" not in pipeline.open_run(root).encodings("random")
    assert pipeline.run(root, serial=True, progress=False).done == 5
    second = pipeline.open_run(root).encodings("random")["log_prob"].to_numpy()
    assert not np.array_equal(first, second, equal_nan=True)
    assert (file_hashes(root / "encodings") | file_hashes(root / "spectra.zarr")) == before
    assert len(list((root / "ledger").glob("density-*"))) == 1
    plan_density(root, encoded.parent / "other.pt")  # again: nothing to do
    pipeline.plan(
        root, models=f"random={random_checkpoint(encoded.parent, n_aux=1)}", variables=["latents", "chi2", "n_pixels"]
    )
    assert pipeline.run(root, serial=True, progress=False).done == 0
    assert pipeline.verify(root).problems == ()


def test_scores_are_the_same_interrupted_or_on_workers(root: Path, encoded: Path, tmp_path: Path) -> None:
    plan_density(root, encoded.parent / "flow.pt")
    pipeline.run(root, serial=True, progress=False)
    done = file_hashes(root / "density")
    plan = read_plan(str(root))
    ledger = density_ledger(str(root), plan, "random")
    for index in (1, 3):  # as a kill before the marker leaves it
        ledger.unmark(index)
        (root / "density" / "random.zarr" / "log_prob" / "c" / str(index)).unlink()
    assert pipeline.run(root, serial=True, progress=False).done == 2
    assert file_hashes(root / "density") == done
    for index in (0, 2, 4):
        encode_ledger(str(root), plan, "random").unmark(index)
    assert pipeline.run(root, workers=2, progress=False).done == 6  # encoded again, and scored after that
    assert file_hashes(root / "density") == done


def test_scores_of_encodings_that_are_done_again_are_done_again(root: Path, encoded: Path) -> None:
    plan_density(root, encoded.parent / "flow.pt")
    pipeline.run(root, serial=True, progress=False)
    plan = read_plan(str(root))
    before = file_hashes(root / "density") | file_hashes(root / "ledger")
    encode_ledger(str(root), plan, "random").unmark(2)
    summary = pipeline.run(root, serial=True, progress=False)
    assert summary.done == 2
    assert (file_hashes(root / "density") | file_hashes(root / "ledger")) == before
    encode_ledger(str(root), plan, "random").unmark(2)
    pipeline.run(root, serial=True, progress=False, stages="encode")  # leaves the density to be done
    assert 2 not in density_ledger(str(root), plan, "random").done()
    assert pipeline.run(root, serial=True, progress=False).done == 1


def test_a_growing_run_scores_what_is_added(tmp_path: Path, mirror: Path) -> None:
    root, whole = tmp_path / "run", tmp_path / "whole"
    plan_run(root, mirror, n=10)
    pipeline.run(root, serial=True, progress=False)
    flow = flow_of(root, tmp_path / "flow.pt")
    plan_density(root, flow)
    pipeline.run(root, serial=True, progress=False)
    pipeline.plan(root, targets=catalog(mirror).iloc[:N], extend=True)
    summary = pipeline.run(root, serial=True, progress=False)
    assert (summary.total, summary.done_before) == (15, 6)
    assert pipeline.verify(root).problems == ()
    plan_run(whole, mirror)
    plan_density(whole, flow)
    pipeline.run(whole, serial=True, progress=False)
    grown, fresh = (pipeline.open_run(each).encodings("random").load() for each in (root, whole))
    fresh = fresh.isel(spectrum=pd.Index(fresh["target"].to_numpy()).get_indexer(grown["target"].to_numpy()))
    for name in SCORES:
        np.testing.assert_array_equal(grown[name], fresh[name])


def test_a_first_plan_may_bring_a_density(tmp_path: Path, mirror: Path, encoded: Path) -> None:
    root = tmp_path / "run"
    model = f"random={random_checkpoint(encoded.parent, n_aux=1)}"
    flow = encoded.parent / "flow.pt"
    pipeline.plan(root, targets=catalog(mirror).iloc[:6], source=mirror, models=model, density=flow, shard=2)
    assert pipeline.run(root, serial=True, progress=False).done == 9
    assert "log_prob" in pipeline.open_run(root).encodings()


def test_dropping_a_model_drops_its_scores(root: Path, encoded: Path) -> None:
    plan_density(root, encoded.parent / "flow.pt")
    pipeline.run(root, serial=True, progress=False)
    pipeline.drop_model(root, "random")
    assert not list((root / "ledger").glob("density-*"))
    assert not (root / "density" / "random.zarr").exists()
    assert not (root / "encodings" / "random.zarr").exists()


def test_another_checkpoints_density_is_refused(root: Path, encoded: Path, tmp_path: Path) -> None:
    entries = torch.load(encoded.parent / "flow.pt", weights_only=True)
    file = tmp_path / "stranger.pt"
    torch.save({**entries, "model_sha256": "cd" * 32}, file)
    with pytest.raises(
        ConfigError, match=r"--density is '.*stranger.pt, of the latents of another checkpoint, SHA-256 cd"
    ):
        plan_density(root, file)
    torch.save(upstream(6).state_dict(), file)
    with pytest.raises(ConfigError, match=r"of 6 latents', expected a density of the 4 latents of random; train one"):
        plan_density(root, file)
    with pytest.raises(
        ConfigError, match=r"--density is '.*nowhere.pt', expected a file that exists, or one of sdss_II"
    ):
        plan_density(root, tmp_path / "nowhere.pt")
    file.write_bytes(b"a thesis")
    with pytest.raises(ConfigError, match="--density cannot be used: .* is not a density of latents"):
        plan_density(root, file)
    with pytest.raises(ConfigError, match="a --model with it"):
        pipeline.plan(root, density=encoded.parent / "flow.pt")
    assert read_plan(str(root)).model("random").density is None


def test_a_density_needs_latents(tmp_path: Path, mirror: Path, encoded: Path) -> None:
    root = tmp_path / "run"
    plan_run(root, mirror, n=4, variables="chi2,n_pixels")
    with pytest.raises(ConfigError, match="latents among them; a density is of latents"):
        plan_density(root, encoded.parent / "flow.pt")


def test_a_flow_that_names_no_model_is_taken_with_a_warning(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "theirs.pt"
    theirs = upstream(4)
    torch.save(theirs.state_dict(), file)
    assert cli.main(["plan", str(root), "--model", "random", "--density", str(file)]) == 0
    said = capsys.readouterr().out
    assert "warning: the density theirs.pt does not say which checkpoint's latents it is of" in said
    assert cli.main(["run", str(root), "--serial"]) == 0
    found = pipeline.open_run(root).encodings("random").load()
    has = np.isfinite(found["latents"].to_numpy()).all(axis=1)
    with torch.no_grad():
        expected = theirs.log_prob(torch.from_numpy(found["latents"].to_numpy()[has]))
    np.testing.assert_allclose(found["log_prob"].to_numpy()[has], expected, rtol=1e-5)
    assert np.isnan(found["log_prob_percentile"]).all()


def test_the_density_of_a_run_is_kept_in_it(root: Path, encoded: Path, tmp_path: Path) -> None:
    flow = tmp_path / "flow.pt"
    flow.write_bytes((encoded.parent / "flow.pt").read_bytes())
    plan_density(root, flow)
    flow.unlink()
    assert pipeline.run(root, serial=True, progress=False).done == 5
    (kept,) = (root / "density").glob("*.pt")
    kept.write_bytes(b"damaged")
    density_ledger(str(root), read_plan(str(root)), "random").unmark(0)
    from pipeline.compute.stages import process

    process._densities.clear()
    with pytest.raises(pipeline.ChunksFailed, match="1 of 15"):
        pipeline.run(root, serial=True, progress=False)


def test_a_plan_without_a_density_says_nothing_of_it(root: Path) -> None:
    assert b'"density' not in (root / "plan.json").read_bytes()


def test_noise_is_scored_where_covariances_are_stored(tmp_path: Path, mirror: Path) -> None:
    root = tmp_path / "run"
    plan_run(root, mirror, n=6, variables="latents,latents_fit,latents_cov")
    pipeline.run(root, serial=True, progress=False)
    plan_density(root, flow_of(root, tmp_path / "flow.pt"))
    pipeline.run(root, serial=True, progress=False)
    found = pipeline.open_run(root).encodings("random").load()
    has = np.isfinite(found["latents_cov"].to_numpy()).all(axis=1)
    assert has.any()
    noise = found["log_prob_noise"].to_numpy()
    assert np.isfinite(noise[has]).all()
    assert np.isnan(noise[~has]).all()


def test_a_score_does_not_depend_on_what_it_comes_with(encoded: Path) -> None:
    density: Density = density_of((encoded.parent / "flow.pt").read_bytes(), "flow.pt")
    latents = np.random.default_rng(0).normal(size=(2500, 4)).astype(np.float32)
    device = torch.device("cpu")
    whole = score(density, latents, None, None, SCORES, device)
    part = score(density, latents[1100:1103], None, None, SCORES, device)
    for name in SCORES:
        np.testing.assert_array_equal(whole[name][1100:1103], part[name])


def test_damaged_latents_are_never_scored(root: Path, encoded: Path) -> None:
    plan_density(root, encoded.parent / "flow.pt")
    url = arrays.encodings_url(str(root), "random")
    plan = read_plan(str(root))
    shard = plan.shards()[1]
    arrays.write_region(url, shard, {"latents": np.ones((SHARD, 4), np.float32)})
    with pytest.raises(pipeline.ChunksFailed) as failed:
        pipeline.run(root, serial=True, progress=False)
    assert "its latents is not what was encoded" in str(failed.value.reasons)


def test_scores_of_two_densities_are_not_joined(root: Path, encoded: Path, tmp_path: Path, mirror: Path) -> None:
    other = tmp_path / "other"
    frame = catalog(mirror).iloc[N : N + 4]
    model = f"random={random_checkpoint(encoded.parent, n_aux=1)}"
    names = ["latents", "chi2", "n_pixels"]
    flow, stranger = encoded.parent / "flow.pt", encoded.parent / "other.pt"
    pipeline.plan(other, targets=frame, source=mirror, models=model, variables=names, density=flow, shard=SHARD)
    plan_density(root, flow)
    for each in (root, other):
        pipeline.run(each, serial=True, progress=False)
    joined = pipeline.open_runs([root, other])
    assert set(joined.table().columns) >= SCORES
    assert set(joined.encodings().data_vars) >= SCORES
    plan_density(root, stranger)
    pipeline.run(root, serial=True, progress=False)
    joined = pipeline.open_runs([root, other])
    assert not set(joined.table().columns) & SCORES
    assert not set(joined.encodings().data_vars) & SCORES
    with pytest.raises(ConfigError, match="no scores: the runs have different densities"):
        joined.table(columns=["l0", "log_prob"])


KILLED_AT_THE_THIRD = """
import os, signal, sys
from pipeline.cli.main import main
from pipeline.compute.stages import density

write, begun = density.write_shard, []

def deadly(*arguments):
    begun.append(arguments)
    if len(begun) == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return write(*arguments)

density.write_shard = deadly
main(["run", sys.argv[1], "--serial"])
"""


def test_scores_of_a_run_that_is_killed_and_resumed_are_the_same(root: Path, encoded: Path, tmp_path: Path) -> None:
    plan_density(root, encoded.parent / "flow.pt")
    undisturbed = Path(shutil.copytree(root, tmp_path / "undisturbed"))
    assert cli.main(["run", str(undisturbed), "--serial"]) == 0
    killed = subprocess.run([sys.executable, "-c", KILLED_AT_THE_THIRD, str(root)], check=False, timeout=120)
    assert killed.returncode == -9
    assert len(density_ledger(str(root), read_plan(str(root)), "random").done()) == 2
    assert cli.main(["run", str(root), "--serial"]) == 0
    assert file_hashes(root) == file_hashes(undisturbed)
    assert cli.main(["verify", str(root)]) == 0


@pytest.mark.long
def test_a_run_in_a_bucket_is_scored_as_one_on_a_disk(root: Path, encoded: Path, tmp_path: Path) -> None:
    flow = encoded.parent / "flow.pt"
    with s3.serve(tmp_path / "s3") as server, s3.as_default(server):
        s3.client(server).create_bucket(Bucket="survey")
        bucket = s3fs.S3FileSystem()
        bucket.put(str(root), "survey/run", recursive=True)
        for place in (str(root), "s3://survey/run"):
            assert cli.main(["plan", place, "--model", "random", "--density", str(flow)]) == 0
            assert cli.main(["run", place, "--serial"]) == 0
            assert cli.main(["verify", place]) == 0
        here, there = (pipeline.open_run(place).encodings("random").load() for place in (root, "s3://survey/run"))
        for name in SCORES:
            np.testing.assert_array_equal(here[name], there[name])
        listed = pipeline.open_run("s3://survey/run").outliers(3)
        assert listed["target"].tolist() == pipeline.open_run(root).outliers(3)["target"].tolist()


@pytest.mark.parametrize("ending", ["fits", "ecsv"])
def test_every_format_is_written_of_a_run_with_a_density(
    root: Path, encoded: Path, tmp_path: Path, ending: str
) -> None:
    plan_density(root, encoded.parent / "flow.pt")
    for _ in ("planned", "scored"):
        assert cli.main(["export", str(root), "--output", str(tmp_path / f"t.{ending}")]) == 0
        assert cli.main(["outliers", str(root), "-n", "3", "--output", str(tmp_path / f"o.{ending}")]) == 0
        assert cli.main(["run", str(root), "--serial"]) == 0
    if ending == "fits":
        assert fits.getheader(tmp_path / "t.fits", 1)["DENSITY"].startswith("flow.pt, SHA-256 ")
