"""What less precise arithmetic does to the latents, restframe spectra and chi2 of real spectra.

    python benchmarks/precision.py [--data ../shared/data] [--model sdss-demo]

Encodes the real spec-lite files under --data on this machine's device (a CUDA device if there is one) in float32, tf32
and bf16, and compares with float32 on the CPU: the largest and the median absolute difference of latents, relative to
the scatter of that latent among the spectra; of restframe spectra, relative to their root mean square; of chi2,
relative. A CPU has no TF32: there it is float32. The last line is the median latent difference of bf16 in percent.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from ingest import MODEL
from numpy.typing import NDArray

from pipeline.archive.reader import Archive
from pipeline.archive.source import Source
from pipeline.catalog import targets
from pipeline.compute.stages import infer, process
from pipeline.compute.stages.infer import Encoded
from pipeline.compute.stages.process import device_name, load
from pipeline.planning.model import ModelConfig
from pipeline.spectra import normalize
from pipeline.spectra.normalize import Grid
from pipeline.spectra.raw import NoSpectrum
from pipeline.store.checkpoint import inspect
from pipeline.surveys.registry import get_survey
from spender_core import SDSS, load_model
from spender_core.precision import PRECISIONS

BATCH = 64
OUTPUTS = ("latents", "restframe", "chi2")


def read(data: Path) -> tuple[dict[str, NDArray[np.float32]], NDArray[np.float32], NDArray[np.uint32]]:
    """Read and normalize the real spectra; give flux and ivar, redshifts and quality."""
    source = data / "sas" / "dr17"
    rows = targets.read_targets(str(source / "sdss" / "spectro" / "redux" / "specObj-dr17.fits"))
    grid = Grid.of(SDSS())
    archive = Archive(Source(str(source)), get_survey("sdss").layouts["spec-lite"])
    spectra = [
        normalize.empty(grid, raw.bit) if isinstance(raw, NoSpectrum) else normalize.normalize(raw, z, grid)
        for z, raw in zip(rows["z"].tolist(), archive.spectra(rows["target"].tolist()), strict=True)
    ]
    arrays = {name: np.stack([getattr(each, name) for each in spectra]) for name in ("flux", "ivar")}
    return arrays, rows["z"].to_numpy(), np.array([each.quality for each in spectra], np.uint32)


def differences(found: Encoded, expected: Encoded) -> dict[str, NDArray[np.floating]]:
    """Compare, spectrum by spectrum, those that have all numbers."""
    chi2 = expected.outputs["chi2"]
    whole = np.isfinite(expected.outputs["latents"]).all(axis=1) & np.isfinite(chi2) & (chi2 > 0)
    numbers = {name: expected.outputs[name][whole] for name in OUTPUTS}
    scale = {
        "latents": numbers["latents"].std(axis=0),
        "restframe": np.sqrt(np.mean(numbers["restframe"] ** 2, axis=1, keepdims=True)),
        "chi2": numbers["chi2"],
    }
    return {name: np.abs(found.outputs[name][whole] - numbers[name]) / scale[name] for name in OUTPUTS}


def main() -> None:
    """Print the table and the ratio."""
    parser = argparse.ArgumentParser(description="What less precise arithmetic does to real spectra.")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--model", default=MODEL)
    options = parser.parse_args()
    arrays, z, quality = read(options.data)
    facts = inspect(options.model, "sdss")
    config = ModelConfig(name="model", checkpoint=options.model, sha256=facts.sha256)
    device = process.device()
    reference, _ = load_model(options.model, SDSS())
    cpu = torch.device("cpu")
    expected = infer.encode_spectra(
        reference.eval(), arrays["flux"], arrays["ivar"], z, quality, outputs=OUTPUTS, micro_batch=BATCH, device=cpu
    )
    print(f"{len(z)} real spectra, {device_name(device)}")
    print(f"{'':8} {'':10} {'largest':>9} {'median':>9}")
    for precision in PRECISIONS:
        found = infer.encode_spectra(
            load(config, "sdss"),
            arrays["flux"],
            arrays["ivar"],
            z,
            quality,
            outputs=OUTPUTS,
            micro_batch=BATCH,
            device=device,
            precision=precision,
        )
        compared = differences(found, expected)
        for name, values in compared.items():
            print(f"{precision:8} {name:10} {values.max():9.1e} {np.median(values):9.1e}")
    print(f"ratio: {100 * np.median(compared['latents']):.2f}")


if __name__ == "__main__":
    main()
