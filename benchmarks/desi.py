"""Run a mock DESI release from an S3 server: requests and bytes by file, CPU per coadd, spectra/s.

    python benchmarks/desi.py [--targets 5000] [--per-file 500] [--workers 2] [--packed] [--work FOLDER]

Coadds and redrock files are made once into --work (a temporary folder by default), with the byte layout of DR1, and
copied into a bucket of a SeaweedFS server on this machine. Between it and the pipeline a proxy counts. `targets` reads
the redrock files, `plan` and `run` the coadds, by worker processes; a model with random weights on the DESI grid
encodes. Read: how often all files were fetched, as a multiple of their number. CPU: of reading one coadd's bytes,
putting its arms together and normalizing its spectra, in this process, the best of three. The last line is the bytes
of the coadds over those that were fetched.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

import pipeline
from pipeline.mock.coadds import MockCoadd, write_coadds
from pipeline.spectra.normalize import Grid, normalize
from pipeline.surveys.desi.coadd import read_coadd
from pipeline.surveys.desi.parts import parts
from spender_core import DESI
from spender_core.autoencoder import SpectrumAutoencoder

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from tests import faults, s3

BUCKET = "release"
SEED = 20260401


def restframes(rng: np.random.Generator, n: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Draw smooth continua with emission lines of random strength, 2200 to 9900 Angstrom."""
    wavelength = np.arange(2200.0, 9900.0, dtype=np.float32)
    strength = rng.gamma(1.0, 2.0, (n, 1))
    lines = sum(np.exp(-0.5 * ((wavelength - line) / 4) ** 2) for line in (3728, 4863, 4960, 5008, 6565))
    flux = (wavelength / 5500) ** rng.normal(0, 0.7, (n, 1)) + strength * lines
    return wavelength, flux.astype(np.float32)


def random_model(file: Path) -> Path:
    """Write a checkpoint with random weights on the DESI grid."""
    torch.manual_seed(0)
    model = SpectrumAutoencoder(DESI(), torch.linspace(2000.0, 9824.0, 9780), n_latent=6)
    torch.save({"model": model.state_dict(), "losses": []}, file)
    return file


def seconds_of(file: Path) -> float:
    """Return the CPU seconds that a coadd takes from its bytes to normalized spectra."""
    data, grid = file.read_bytes(), Grid.of(DESI())
    taken = []
    for _ in range(3):
        start = time.process_time()
        ranges = parts()
        wanted = next(ranges)
        try:
            while True:
                wanted = ranges.send(data[slice(*wanted)])
        except StopIteration as end:
            coadd = read_coadd(end.value)
        for targetid in coadd.rows:
            normalize(coadd.spectrum(targetid), 0.1, grid)
        taken.append(time.process_time() - start)
    return min(taken)


def run(release: list[MockCoadd], work: Path, root: Path, workers: int) -> float:
    """Copy a release into a bucket, select, plan and run; print what it took; return the ratio."""
    with s3.serve(root / "s3") as server, faults.between(server.endpoint) as proxy:
        client = s3.client(server)
        client.create_bucket(Bucket=BUCKET)
        for file in [path for each in release for path in (each.coadd, each.redrock)]:
            with file.open("rb") as body:
                client.put_object(Bucket=BUCKET, Key=f"dr1/{file.relative_to(work).as_posix()}", Body=body)
        with s3.as_default(server, endpoint=proxy.endpoint):
            pattern = f"s3://{BUCKET}/dr1/spectro/redux/iron/healpix/*/*/*/*/redrock-*.fits"
            targets = pipeline.select_targets(pattern)
            source = f"s3://{BUCKET}/dr1"
            checkpoint = random_model(root / "model.pt")
            plan = pipeline.plan(root / "run", targets=targets, source=source, instrument="desi", models=[checkpoint])
            start = time.perf_counter()
            pipeline.run(root / "run", workers=workers, progress=False)
            seconds = time.perf_counter() - start
    got = Counter(path.split("?")[0] for method, path in proxy.requests if method == "GET" and "list-type=" not in path)
    usable = int((pipeline.open_run(root / "run").encodings()["quality"] == 0).sum())
    print(f"{len(targets.frame)} targets in {len(release)} coadds, {len(plan.shards())} chunks of {plan.shard}")
    print(f"{usable} spectra without remarks, {len(targets.frame) / seconds:.1f} spectra/s with {workers} workers")
    ratio = 0.0
    for kind in ("redrock", "coadd"):
        files = [getattr(each, kind) for each in release]
        asked = [sum(count for path, count in got.items() if path.endswith(f"/{file.name}")) for file in files]
        given = sum(size for path, size in proxy.given.items() if f"/{kind}-" in path)
        size = sum(file.stat().st_size for file in files)
        print(
            f"{kind:8} {statistics.mean(asked):.1f} GETs a file, at most {max(asked)}; {given / 1e6:,.0f} MB of "
            f"{size / 1e6:,.0f} MB fetched, {100 * given / size:.1f} %"
        )
        ratio = size / given
    return ratio


def main() -> None:
    """Make the release, run it, print the table and the ratio."""
    parser = argparse.ArgumentParser(description="Run a mock DESI release from an S3 server.")
    parser.add_argument("--targets", type=int, default=5000)
    parser.add_argument("--per-file", type=int, default=500)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--packed", action="store_true", help="masks packed by tiles")
    parser.add_argument("--work", type=Path, help="folder to keep the release in")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        work = options.work or Path(temporary) / "release"
        release = write_coadds(
            work, restframes, options.targets, SEED, per_file=options.per_file, packed=options.packed
        )
        seconds = seconds_of(release[0].coadd)
        print(f"{seconds:.2f} s of CPU for a coadd of {len(release[0].rows)} targets")
        ratio = run(release, work, Path(temporary), options.workers)
    print(f"ratio: {ratio:.2f}")


if __name__ == "__main__":
    main()
