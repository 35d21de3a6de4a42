from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import ConfigError
from pipeline.results.run import open_run
from pipeline.results.tables.split import EXCLUDED_FROM_TRAINING, split_ids
from pipeline.spectra.quality import Quality
from pipeline.training.sample import domain, fingerprint, read_samples
from spender_core.dataset import Batches
from tests.running import make_root

pytestmark = pytest.mark.slow


def redshifts(data: Batches) -> list[float]:
    """The redshifts of all batches of an epoch, sorted."""
    batches = [batch for split in ("train", "valid") for batch in data.batches(split, 0, 5)]
    return sorted(float(z) for batch in batches for z in batch.z)


def test_only_spectra_on_the_common_scale_and_with_a_redshift_are_learnt_from(ingested: dict[str, str]) -> None:
    (sample,) = read_samples([ingested["sdss"]])
    spectra = open_run(ingested["sdss"]).spectra()
    excluded = ("NO_NORM", "NEGATIVE_NORM", "FEW_PIXELS", "NO_REDSHIFT", "NO_FILE", "NO_PIXELS")
    bits = sum(Quality[name] for name in excluded)
    kept = (spectra["quality"].values & bits) == 0
    assert 0 < kept.sum() < len(kept)
    assert redshifts(sample.data) == sorted(spectra["z"].values[kept].tolist())
    assert sample.n_usable == kept.sum()
    assert not EXCLUDED_FROM_TRAINING & Quality.FIBER_MASKED


def test_batches_are_the_spectra_of_the_run(ingested: dict[str, str]) -> None:
    (sample,) = read_samples([ingested["sdss"]])
    flux = open_run(ingested["sdss"]).spectra()["flux"].values
    for batch in sample.data.batches("train", 3, 7):
        assert batch.rows is not None
        np.testing.assert_array_equal(batch.spec.numpy(), flux[batch.rows.numpy()])


def test_a_run_that_is_not_ingested_is_refused(tmp_path: Path, mirror: Path) -> None:
    root, _ = make_root(tmp_path, mirror)
    with pytest.raises(ConfigError, match="3 chunks are not: run ingest"):
        read_samples([root])


def test_runs_of_one_instrument_are_pooled_and_others_are_apart(ingested: dict[str, str]) -> None:
    one, other = (read_samples([ingested[name]])[0] for name in ("sdss", "more"))
    pooled, boss = read_samples([ingested["sdss"], ingested["boss"], ingested["more"]])
    assert (pooled.instrument, boss.instrument) == ("sdss", "boss")
    assert redshifts(pooled.data) == sorted(redshifts(one.data) + redshifts(other.data))
    rows = [int(row) for split in ("train", "valid") for b in pooled.data.batches(split, 0, 5) for row in b.rows]
    assert len(set(rows)) == len(rows) == pooled.n_usable == one.n_usable + other.n_usable
    assert next(boss.data.batches("train", 0, 2)).spec.shape == (2, 4686)


def test_a_run_that_is_named_twice_is_refused(ingested: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match="expected each run once"):
        read_samples([ingested["sdss"], ingested["sdss"] + "/"])


@pytest.mark.parametrize("where", ["CLASS == 'GALAXY' and Z < 0.2", "mine >= 12"])
def test_a_condition_selects_by_the_columns_of_the_targets(ingested: dict[str, str], where: str) -> None:
    (sample,) = read_samples([ingested["sdss"]], where)
    (whole,) = read_samples([ingested["sdss"]])
    rows = open_run(ingested["sdss"]).targets()
    wanted = (rows["class"] == "GALAXY") & (rows["z"] < 0.2) if "CLASS" in where else rows["mine"] >= 12
    assert redshifts(sample.data) == sorted(rows["z"][wanted.to_numpy() & whole.parts[0].usable].tolist())
    assert 0 < sample.n_usable < whole.n_usable


def test_a_condition_that_no_spectrum_fulfils_is_refused(ingested: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match="no usable spectrum of .* fulfils --where 'z > 9'; it has target, .*mine"):
        read_samples([ingested["sdss"]], "z > 9")
    with pytest.raises(ConfigError, match="NOSUCH"):
        read_samples([ingested["sdss"]], "NOSUCH > 9")


def test_a_run_without_matches_is_left_out_where_another_one_has_some(ingested: dict[str, str]) -> None:
    roots = [ingested["sdss"], ingested["more"]]
    (sample,) = read_samples(roots, "mine % 5 == 1")
    assert [part.root for part in sample.parts] == [ingested["more"]]


def test_the_domain_is_that_of_the_spectra_that_are_trained_on(ingested: dict[str, str]) -> None:
    (sample,) = read_samples([ingested["sdss"]])
    rows = open_run(ingested["sdss"]).targets()
    trained = np.concatenate([batch.rows.numpy() for batch in sample.data.batches("train", 0, 5)])
    found, rows = domain([sample]), rows.iloc[trained]
    assert found["z"] == [pytest.approx(rows["z"].min()), pytest.approx(rows["z"].max())]
    assert found["classes"] == sorted(set(rows["class"]))
    assert found["sn"][0] == pytest.approx(np.percentile(rows["sn_median"], 1))
    assert found["sn"][1] == pytest.approx(rows["sn_median"].max())


def test_the_fingerprint_changes_with_the_runs_and_the_condition(ingested: dict[str, str]) -> None:
    def of(*names: str, where: str | None = None) -> str:
        return str(fingerprint(read_samples([ingested[name] for name in names], where), where)["sha256"])

    assert of("sdss") == of("sdss")
    assert len({of("sdss"), of("sdss", where="z < 0.2"), of("more"), of("sdss", "more"), of("boss")}) == 5


def test_a_spectrum_without_an_id_gets_one_of_its_key(ingested: dict[str, str]) -> None:
    rows = open_run(ingested["sdss"]).targets().iloc[:3].assign(specobjid=[2**64 - 1, 0, 0])
    ids = split_ids(rows, "specobjid")
    assert ids[0] == np.uint64(2**64 - 1)
    assert len(set(ids.tolist())) == 3
    assert split_ids(rows, None)[1:].tolist() == ids[1:].tolist()
