"""The calls of the description that the project started from run as they are, on models with aux and without.

Only the lines that import and that name files differ; `make_batch` is a function of `pipeline`, which owns FITS.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

import pipeline
import spender_core as spender
from spender_core import SDSS
from tests.running import random_checkpoint

IDS = ((266, 51630, 486), (266, 51602, 1))


@pytest.fixture(params=["sdss-galaxies", "sdss-demo", "without aux"])
def model_file(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(random_checkpoint(tmp_path)) if request.param == "without aux" else request.param


def test_the_example_of_the_description_runs(model_file: str, mirror: Path) -> None:
    # create the instrument
    sdss = SDSS()

    # load the model
    model, loss = spender.load_model(model_file, sdss)

    # get some SDSS spectra from the ids
    data_path = str(mirror)
    ids = IDS
    spec, w, z, ids, norm, zerr = pipeline.make_batch(data_path, ids)

    # run spender end-to-end
    with torch.no_grad():
        spec_reco = model(spec, instrument=sdss, z=z)

    # which return the latents s, the model for the restframe and the observed spectrum
    with torch.no_grad():
        s, spec_rest, spec_reco_too = model._forward(spec, instrument=sdss, z=z)

    # to only encode into latents, using redshift as extra input
    with warnings.catch_warnings(record=True) as caught, torch.no_grad():
        warnings.simplefilter("always")
        s_too = model.encode(spec, aux=z.unsqueeze(1))
        again = model.encode(spec, aux=z.unsqueeze(1))

    assert torch.equal(spec_reco, spec_reco_too)
    assert torch.equal(s, s_too)
    assert torch.equal(s, again)
    for values, shape in ((s, (2, model.n_latent)), (spec_rest, (2, len(model.wave_rest))), (spec_reco, spec.shape)):
        assert values.shape == shape
        assert torch.isfinite(values).all()
    expected = [] if model.encoder.n_aux else ["this model takes no aux: what was given is ignored"]
    assert [str(each.message) for each in caught] == expected


def test_a_missing_aux_is_an_error(mirror: Path) -> None:
    model, _ = spender.load_model("sdss-demo", SDSS())
    spec = pipeline.make_batch(mirror, IDS[:1])[0]
    with pytest.raises(ValueError, match=r"pass aux=z.unsqueeze\(1\)"):
        model.encode(spec)


def test_a_spectrum_without_a_redshift_has_latents_and_no_reconstruction(tmp_path: Path, mirror: Path) -> None:
    model, _ = spender.load_model(random_checkpoint(tmp_path), SDSS())
    spec, w, z, *_ = pipeline.make_batch(mirror, IDS)
    unknown = torch.tensor([float(z[0]), np.nan])
    with torch.no_grad():
        s, restframe, reconstruction, covered = model.reconstruct(spec, z=unknown)
        expected = model.reconstruct(spec, z=z)
    assert torch.equal(s, expected[0])
    assert torch.equal(reconstruction[0], expected[2][0])
    assert torch.equal(covered[0], expected[3][0])
    assert torch.isnan(reconstruction[1]).all()
    assert not covered[1].any()
