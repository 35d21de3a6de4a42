"""All real targets over a real HTTP server."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from pipeline.cli import main as cli
from pipeline.spectra.quality import Quality
from tests.running import file_hashes, plan_by_command, random_checkpoint


@pytest.fixture
def served(shared_data: Path) -> Iterator[str]:
    """Serve the shared data; give the release root's URL."""
    command = [sys.executable, "-u", "-m", "http.server", "0", "--bind", "127.0.0.1", "--directory", str(shared_data)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
        try:
            assert server.stdout is not None
            port = re.search(r"port (\d+)", server.stdout.readline())
            assert port is not None
            yield f"http://127.0.0.1:{port[1]}/sas/dr17"
        finally:
            server.terminate()


def test_every_target_of_a_mirror_gets_latents_or_a_reason(served: str, tmp_path: Path, mirror: Path) -> None:
    table, root = tmp_path / "targets.parquet", tmp_path / "run"
    catalog = f"{served}/sdss/spectro/redux/specObj-dr17.fits"
    assert cli.main(["targets", catalog, "--where", "Z > -1", "--output", str(table)]) == 0
    # The server collapses under many requests at once: two workers with eight files each are fine.
    what = ["--targets", str(table), "--source", served, "--model", f"random={random_checkpoint(tmp_path)}"]
    assert cli.main(["plan", str(root), *what, "--concurrency", "8"]) == 0
    assert cli.main(["run", str(root), "--workers", "2"]) == 0
    with xr.open_zarr(root / "encodings" / "random.zarr") as encodings:
        finite = np.isfinite(encodings["latents"].values).all(axis=1)
        quality = encodings["quality"].values
        assert encodings.sizes == {"spectrum": 117, "latent": 4, "wavelength_rest": 700, "region": 8}
        assert encodings["target"].values[0] == "103/2795-54563-30" or len(set(encodings["target"].values)) == 117
    unusable = (quality & np.uint32(Quality.UNUSABLE)) != 0
    np.testing.assert_array_equal(finite, ~unusable)
    assert finite.sum() >= 110
    with xr.open_zarr(root / "spectra.zarr") as spectra:
        assert spectra.sizes == {"spectrum": 117, "wavelength": 3921}
        assert not (spectra["quality"].values & np.uint32(Quality.NO_FILE | Quality.BAD_FILE)).any()


def test_a_mirror_over_http_gives_the_bytes_of_the_folder(served: str, tmp_path: Path, mirror: Path) -> None:
    for name, source in (("folder", None), ("http", served)):
        plan_by_command(tmp_path / name, mirror, source=source)
        assert cli.main(["run", str(tmp_path / name), "--serial"]) == 0
    assert file_hashes(tmp_path / "http") == file_hashes(tmp_path / "folder")
