"""The same numbers on a CUDA device as on the CPU: only where there is one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.compute import cluster, executor, job
from pipeline.compute.stages import infer
from pipeline.compute.stages import process as worker
from pipeline.compute.stages.infer import Encoded
from pipeline.monitor.progress import make_progress
from pipeline.planning.schema import OUTPUTS
from pipeline.spectra.quality import Quality
from pipeline.store import arrays as dataset
from spender_core import SDSS, SpectrumAutoencoder, load_model
from spender_core.latent_fit import LatentFit, Prior, fit_latents
from spender_core.precision import arithmetic
from spender_core.redshift import C, RedshiftEstimator, Redshifts
from tests.running import make_root
from tests.spender_core.density_samples import density, modes
from tests.spender_core.redshift_samples import embedded, galaxies

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

# Sums of 1e5 products of either device round apart by a few 1e-6 of the largest; TF32 would be at 1e-3.
TOLERANCE = 1e-4


def encoded(device: str, precision: str = "float32", micro_batch: int = 16) -> Encoded:
    model, _ = load_model("sdss-demo", SDSS())
    generator = torch.Generator().manual_seed(1)
    z = 0.3 * torch.rand(40, generator=generator)
    with torch.no_grad():
        flux = model.decoder(torch.randn(40, model.n_latent, generator=generator), instrument=SDSS(), z=z)
    flux += 0.1 * torch.randn(flux.shape, generator=generator)
    return infer.encode_spectra(
        model.eval().to(device),
        flux.numpy(),
        np.full(flux.shape, 100.0, np.float32),
        z.numpy(),
        np.zeros(40, np.uint32),
        outputs=OUTPUTS,
        fit=infer.Fit(Prior.of(torch.randn(40, model.n_latent)).to(torch.device(device))),
        micro_batch=micro_batch,
        device=torch.device(device),
        precision=precision,
    )


def difference(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.nanmax(np.abs(found - expected)) / np.nanmax(np.abs(expected)))


@pytest.mark.parametrize("name", ["latents", "restframe", "reconstruction", "chi2", "amplitude"])
def test_a_gpu_gives_the_cpus_numbers(name: str) -> None:
    found, expected = encoded("cuda").outputs[name], encoded("cpu").outputs[name]
    np.testing.assert_array_equal(np.isnan(found), np.isnan(expected))
    assert difference(found, expected) < TOLERANCE


def test_a_gpu_repeats_itself_to_the_last_bit() -> None:
    np.testing.assert_array_equal(encoded("cuda").outputs["latents"], encoded("cuda").outputs["latents"])


def test_less_precision_is_asked_for_and_then_less_precise() -> None:
    expected = encoded("cpu").outputs["latents"]
    full, tf32, bf16 = (
        difference(encoded("cuda", precision).outputs["latents"], expected) for precision in ("float32", "tf32", "bf16")
    )
    assert full < tf32 < 0.05
    assert full < bf16 < 0.2


def test_a_micro_batch_beyond_the_memory_is_halved(monkeypatch: pytest.MonkeyPatch) -> None:
    forward = SpectrumAutoencoder.reconstruct

    def small(self: SpectrumAutoencoder, spec: torch.Tensor, *args: object, **kwargs: object) -> object:
        if len(spec) > 8:
            raise torch.OutOfMemoryError
        return forward(self, spec, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(SpectrumAutoencoder, "reconstruct", small)
    found = encoded("cuda", micro_batch=32)
    assert found.micro_batch == 8
    monkeypatch.undo()
    assert difference(found.outputs["latents"], encoded("cpu").outputs["latents"]) < TOLERANCE


def test_a_run_on_gpu_workers_lands_what_the_cpu_lands(tmp_path: Path, mirror: Path) -> None:
    found = {}
    for name in ("gpu", "cpu"):
        root, plan = make_root(tmp_path, mirror, name=name)
        pending = job.pending(root, plan, ("ingest", "encode"), ("random",))
        if name == "gpu":
            with cluster.connect(workers=1) as client:
                summary = executor.run(pending, client, make_progress())
        else:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(worker, "device", lambda: torch.device("cpu"))
                summary = executor.run(pending, None, make_progress())
        assert summary.failed == ()
        found[name] = dataset.read_region(dataset.encodings_url(root, "random"), ("latents", "quality"), 0, 6)
    assert difference(found["gpu"]["latents"], found["cpu"]["latents"]) < TOLERANCE
    for name in found:
        assert (found[name]["quality"] & np.uint32(Quality.NOT_PROCESSED) == 0).all()


CUDA, CPU = torch.device("cuda"), torch.device("cpu")


def blind(device: torch.device) -> Redshifts:
    sample = galaxies(40, noise=0.3)
    estimator = RedshiftEstimator(SDSS(), embedded()[2].templates, (-0.002, 0.503)).to(device)
    with torch.inference_mode(), arithmetic("float32", device):
        found = estimator(sample.flux.to(device), sample.ivar.to(device))
    return Redshifts(**{name: value.cpu() for name, value in vars(found).items()})


def test_blind_redshifts_are_the_cpus() -> None:
    found, expected = blind(CUDA), blind(CPU)
    velocity = C * (found.z - expected.z).abs() / (1 + expected.z)
    assert velocity.max() < 0.01  # km/s: the sums are in float64 on both
    torch.testing.assert_close(found.chi2, expected.chi2, rtol=1e-6, atol=0)
    torch.testing.assert_close(found.error, expected.error, rtol=1e-4, atol=0)
    for name in ("warning", "kind"):
        assert torch.equal(getattr(found, name), getattr(expected, name))


@torch.no_grad()
def refined(device: torch.device, *, free_z: bool) -> LatentFit:
    model, _ = load_model("sdss-galaxies", SDSS())
    sample = galaxies(40, noise=0.3)
    begin = sample.latents + 0.05 * torch.randn(sample.latents.shape, generator=torch.Generator().manual_seed(2))
    values = (value.to(device) for value in (sample.flux, sample.ivar, begin, sample.z.double()))
    with arithmetic("float32", device):
        found = fit_latents(model.eval().to(device), *values, embedded()[2].prior.to(device), free_z=free_z)
    return LatentFit(**{name: value.cpu() for name, value in vars(found).items()})


@pytest.mark.parametrize("free_z", [False, True])
def test_refined_latents_are_the_cpus(free_z: bool) -> None:
    found, expected = refined(CUDA, free_z=free_z), refined(CPU, free_z=free_z)
    # derivatives are differences of float32 spectra: what they say of the way to the minimum is good to some 1e-3
    torch.testing.assert_close(found.chi2, expected.chi2, rtol=1e-3, atol=0)
    sigma = expected.covariance.diagonal(dim1=1, dim2=2).sqrt()
    assert ((found.latents - expected.latents).abs() / sigma).max() < 0.1
    assert (C * (found.z - expected.z).abs()).max() < 2  # km/s


def test_densities_are_the_cpus() -> None:
    latents, one, other = torch.from_numpy(modes(500)), density(), density().to(CUDA)
    with torch.no_grad(), arithmetic("float32", CUDA):
        expected, found = one.log_prob(latents), other.log_prob(latents.to(CUDA)).cpu()
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-3)
