"""Spectra whose latents are most like those of one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import pipeline
from tests.pipeline.conftest import MakeRun, model_config
from tests.pipeline.results.latents.conftest import EARLIER, stored, with_latents


def test_the_nearest_come_first_without_the_spectrum_itself(earlier: pipeline.Run) -> None:
    found, values = earlier.similar("300-51600-5", n=6), earlier.index().values.astype(np.float64)
    distance = np.linalg.norm(values - values[4], axis=1)
    assert found.index.tolist() == np.argsort(distance, kind="stable")[1:7].tolist()
    np.testing.assert_allclose(found["distance"], np.sort(distance)[1:7], rtol=1e-6)
    assert found["target"].tolist() == earlier.targets()["target"][found.index].tolist()
    assert found.attrs["distance_in"] == "whitened latents"
    assert (found.attrs["rows_not_done"], found.attrs["rows_not_finite"]) == ("0", "1")
    assert list(found)[:2] == ["target", "distance"]


def test_latents_need_not_be_in_the_run(earlier: pipeline.Run) -> None:
    latents = earlier.encodings()["latents"].to_numpy()[4]
    found = earlier.similar(latents=latents, n=7)
    assert found.index[0] == 4
    assert found["distance"].iloc[0] == 0
    assert found.index[1:].tolist() == earlier.similar("300-51600-5", n=6).index.tolist()


def test_distances_are_in_the_errors_of_the_spectrum_where_it_has_some(tmp_path: Path, make_run: MakeRun) -> None:
    known = {"basis": "0" * 64, "redshift_range": [0.0, 0.5]}
    make_run(tmp_path / "run", models=(model_config(variables=(*EARLIER, "latents_cov"), **known),))
    run = with_latents(tmp_path / "run")
    covariance = np.array([[0.5, 0.1, 0], [0.1, 2, 0.01], [0, 0.01, 0.01]])
    packed = np.full((18, 6), np.nan, np.float32)
    packed[4] = covariance[np.tril_indices(3)]
    stored(run.root)["latents_cov"][:] = packed
    latents = run.encodings()["latents"].to_numpy().astype(np.float64)
    difference = latents - latents[4]
    own = np.sqrt(np.einsum("ij,jk,ik->i", difference, np.linalg.inv(packed_to(packed[4])), difference))
    found = run.similar("300-51600-5", n=5)
    assert found.index.tolist() == np.argsort(own, kind="stable")[1:6].tolist()
    np.testing.assert_allclose(found["distance"], np.sort(own)[1:6], rtol=1e-5)
    assert found.attrs["distance_in"] == "errors of the latents of the query (latents_cov)"
    assert run.similar("300-51600-6", n=5).attrs["distance_in"] == "whitened latents"


def packed_to(packed: np.ndarray) -> np.ndarray:
    whole = np.zeros((3, 3))
    whole[np.tril_indices(3)] = packed
    return whole + np.tril(whole, -1).T


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({}, "similar takes a spectrum, or latents; give one of them"),
        ({"spectrum": "300-51600-5", "latents": [1, 2, 3]}, "similar takes a spectrum, or latents"),
        ({"latents": [1, 2]}, r"latents is \[1, 2\], expected 3 finite numbers"),
        ({"latents": "many"}, "latents is 'many', expected 3 finite numbers"),
        ({"spectrum": "300-51600-5", "n": 0}, "n is 0, expected 1 to 10000 spectra"),
        ({"spectrum": "300-51600-3"}, "26/300-51600-3 has no finite latents of toy; see its quality"),
        ({"spectrum": "1-2-3"}, "no target of this run has the id '1-2-3'"),
    ],
)
def test_what_has_no_neighbors_is_refused(earlier: pipeline.Run, asked: dict[str, object], message: str) -> None:
    with pytest.raises(pipeline.ConfigError, match=message):
        earlier.similar(**asked)  # type: ignore[arg-type]
