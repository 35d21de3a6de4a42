from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipeline.catalog import targets
from pipeline.compute import executor, job
from pipeline.errors import ConfigError
from pipeline.monitor.status import read_status
from pipeline.spectra.quality import Quality
from pipeline.store import root as runs
from pipeline.training.train import EXCLUDED_FROM_TRAINING, _ids, _new_models, read_sample, train
from spender_core.instrument import SDSS
from spender_core.training import Settings
from spender_core.weights import load_model
from tests.running import Recorder, make_root, random_checkpoint

pytestmark = pytest.mark.slow


def ingest(tmp_path: Path, mirror: Path, **options: int) -> str:
    root, plan = make_root(tmp_path, mirror, **options)  # type: ignore[arg-type]
    executor.run(job.pending(root, plan, ("ingest",), []), None, Recorder())
    return root


def test_only_spectra_on_the_common_scale_are_learnt_from(tmp_path: Path, mirror: Path) -> None:
    root = ingest(tmp_path, mirror, n=117, shard=20)
    sample = read_sample(root)
    spectra = read_status(root, runs.read_plan(root))[0]
    assert sample.usable.sum() <= 117 - spectra.quality["NO_NORM"]
    assert not EXCLUDED_FROM_TRAINING & Quality.FIBER_MASKED
    assert sample.data.steps("train", 10) > sample.data.steps("valid", 10) > 0


def test_a_run_that_is_not_ingested_is_refused(tmp_path: Path, mirror: Path) -> None:
    root, _ = make_root(tmp_path, mirror)
    with pytest.raises(ConfigError, match="3 chunks are not: run ingest"):
        read_sample(root)


def test_new_models_cover_what_the_sample_sees(tmp_path: Path, mirror: Path) -> None:
    sample = read_sample(ingest(tmp_path, mirror, n=20, shard=20))
    (model,) = _new_models([sample], n_latent=5, seed=0)
    z = sample.z[sample.usable]
    assert model.n_latent == 5
    np.testing.assert_allclose(model.wave_rest[0], SDSS().wave_obs[0] / (1 + z.max()), rtol=1e-5)
    np.testing.assert_allclose(model.wave_rest[-1], SDSS().wave_obs[-1] / (1 + z.min()), rtol=1e-5)


def test_the_trained_checkpoint_loads_and_the_run_is_repeatable(tmp_path: Path, mirror: Path) -> None:
    root = ingest(tmp_path, mirror, n=12, shard=12)
    settings = Settings(epochs=1, batch_size=6)
    histories = [train([root], str(tmp_path / f"{i}" / "m.pt"), settings, n_latent=3)[1] for i in range(2)]
    assert histories[0]["train"][0]["sdss"] == pytest.approx(histories[1]["train"][0]["sdss"], rel=1e-4)
    model, losses = load_model(tmp_path / "0" / "m.pt", SDSS())
    assert model.n_latent == 3
    assert losses == histories[0]


def test_training_starts_from_a_checkpoint(tmp_path: Path, mirror: Path) -> None:
    root = ingest(tmp_path, mirror, n=6, shard=6)
    start = str(random_checkpoint(tmp_path))
    count, _ = train([root], str(tmp_path / "m.pt"), Settings(epochs=0), start=start)
    rows = targets.read_rows(runs.targets_url(root), 0, 6)
    assert count <= len(rows)


def test_other_settings_than_the_checkpoints_are_refused(tmp_path: Path, mirror: Path) -> None:
    root = ingest(tmp_path, mirror, n=6, shard=6)
    output = str(tmp_path / "m.pt")
    train([root], output, Settings(epochs=1), n_latent=3)
    with pytest.raises(ConfigError, match="epochs is 2 here"):
        train([root], output, Settings(epochs=2), n_latent=3)


def test_a_spectrum_without_an_id_gets_one_of_its_key() -> None:
    ids = _ids([2**64 - 1, 0, 0], ["a", "b", "c"])
    assert ids[0] == np.uint64(2**64 - 1)
    assert len(set(ids.tolist())) == 3
    assert (_ids([0], ["b"]) == ids[1]).all()


@pytest.mark.parametrize("output", ["s3://bucket/model.pt", "https://host/model.pt"])
def test_a_checkpoint_elsewhere_is_refused_before_anything_is_read(output: str) -> None:
    with pytest.raises(ConfigError, match="--output is '.*', expected a file on this machine"):
        train(["nowhere"], output, Settings(1, 8))


def test_a_checkpoint_that_cannot_be_written_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="--output is '.*', expected a place that can be written"):
        train(["nowhere"], str(tmp_path / "file" / "model.pt"), Settings(1, 8))
    with pytest.raises(ConfigError, match="--output is '.*', expected a file, not a folder"):
        train(["nowhere"], str(tmp_path), Settings(1, 8))


def test_latents_beside_a_checkpoint_to_start_from_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--latents is 4, expected no --latents with --start"):
        train(["nowhere"], str(tmp_path / "model.pt"), Settings(1, 8), n_latent=4, start="sdss-demo")
