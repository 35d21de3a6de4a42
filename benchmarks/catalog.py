"""Select the targets of a whole survey: seconds and memory, beside astropy's way.

    python benchmarks/catalog.py [--rows 5000000] [--work FOLDER]

A synthetic specObj of so many rows and 22 columns is written once into --work (a temporary folder by default). Each
selection runs in a process of its own, whose time and highest resident set are measured: `spender-pipeline targets`
over all rows, the same with a condition, the same from a web server (nginx, if it is installed), and a script that
loads the table with astropy, selects by a mask and writes the rows as Parquet. The last line is the script's time over
ours.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from astropy.io import fits
from webserver import available, serve

WHERE = "CLASS == 'GALAXY' and Z > 0 and Z_ERR < 1e-4 and ZWARNING == 0"
BLOCK = 100_000

FORMATS = {
    "SURVEY": "6A",
    "INSTRUMENT": "4A",
    "CHUNK": "16A",
    "PROGRAMNAME": "23A",
    "PLATEQUALITY": "8A",
    "SPECOBJID": "22A",
    "SPECPRIMARY": "B",
    "RUN2D": "7A",
    "PLATE": "J",
    "MJD": "J",
    "FIBERID": "J",
    "TARGETTYPE": "8A",
    "SOURCETYPE": "25A",
    "PLUG_RA": "D",
    "PLUG_DEC": "D",
    "CLASS": "6A",
    "SUBCLASS": "21A",
    "Z": "E",
    "Z_ERR": "E",
    "ZWARNING": "J",
    "VDISP": "E",
    "SN_MEDIAN_ALL": "E",
}
"""The synthetic catalog's columns, with their formats in specObj."""

SCRIPT = """
import sys
from astropy.table import Table
table = Table.read(sys.argv[1], hdu=1, memmap=False)
table.convert_bytestring_to_unicode()
rows = (table["CLASS"] == "GALAXY") & (table["Z"] > 0) & (table["Z_ERR"] < 1e-4) & (table["ZWARNING"] == 0)
names = ["SPECOBJID", "RUN2D", "PLATE", "MJD", "FIBERID", "PLUG_RA", "PLUG_DEC", "CLASS"]
table[rows][names + ["Z", "Z_ERR", "ZWARNING", "SN_MEDIAN_ALL"]].to_pandas().to_parquet(sys.argv[2])
"""


def write_catalog(path: Path, rows: int) -> None:
    """Write the synthetic catalog block by block: plates of 640 fibers, text padded with spaces as in specObj."""
    empty = fits.BinTableHDU.from_columns([fits.Column(name, form) for name, form in FORMATS.items()])
    empty.header["NAXIS2"] = rows
    dtype = empty.columns.dtype.newbyteorder(">")
    random = np.random.default_rng(0)
    with path.open("wb") as file:
        file.write(fits.PrimaryHDU().header.tostring().encode() + empty.header.tostring().encode())
        for start in range(0, rows, BLOCK):
            index = np.arange(start, min(start + BLOCK, rows))
            block = np.zeros(len(index), dtype)
            for name, text in {"SURVEY": "sdss", "INSTRUMENT": "SDSS", "PLATEQUALITY": "good", "RUN2D": "26"}.items():
                block[name] = text.ljust(dtype[name].itemsize)
            for name, text in {"TARGETTYPE": "SCIENCE", "SOURCETYPE": "GALAXY", "CHUNK": "chunk7"}.items():
                block[name] = text.ljust(dtype[name].itemsize)
            block["PROGRAMNAME"] = "legacy".ljust(23)
            block["SUBCLASS"] = " " * 21
            block["CLASS"] = random.choice(np.array([b"GALAXY", b"QSO   ", b"STAR  "]), len(index), p=[0.6, 0.2, 0.2])
            block["SPECPRIMARY"] = random.random(len(index)) < 0.9
            block["PLATE"], block["MJD"], block["FIBERID"] = 266 + index // 640, 51602, 1 + index % 640
            ids = (block["PLATE"].astype(np.uint64) << 50) | (block["FIBERID"].astype(np.uint64) << 38)
            block["SPECOBJID"] = np.char.rjust((ids | (1602 << 24) | (26 << 10)).astype("S20"), 22)
            block["PLUG_RA"], block["PLUG_DEC"] = (
                random.uniform(0, 360, len(index)),
                random.uniform(-90, 90, len(index)),
            )
            block["Z"], block["Z_ERR"] = random.gamma(2, 0.1, len(index)), 10 ** random.normal(-4.5, 0.5, len(index))
            block["ZWARNING"] = np.where(random.random(len(index)) < 0.05, 4, 0)
            block["VDISP"], block["SN_MEDIAN_ALL"] = 150, random.gamma(2, 5, len(index))
            file.write(block.tobytes())
        file.write(b"\0" * (-file.tell() % 2880))


def run(command: Sequence[str | Path]) -> tuple[float, int]:
    """Run a command; return its seconds and the most bytes that were resident in its process."""
    start = time.perf_counter()
    process = os.posix_spawn(command[0], [str(part) for part in command], dict(os.environ))
    _, status, usage = os.wait4(process, 0)
    if status:
        raise SystemExit(f"{' '.join(map(str, command))} failed")
    return time.perf_counter() - start, usage.ru_maxrss * 1024


def main() -> None:
    """Make the catalog, run the selections, print the table and the ratio."""
    parser = argparse.ArgumentParser(description="Select the targets of a whole survey.")
    parser.add_argument("--rows", type=int, default=5_000_000)
    parser.add_argument("--work", type=Path, help="folder to keep the catalog in, for another time")
    options = parser.parse_args()
    with ExitStack() as stack:
        temporary = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        catalog = (options.work or temporary) / f"specObj-{options.rows}.fits"
        if not catalog.exists():
            catalog.parent.mkdir(parents=True, exist_ok=True)
            write_catalog(catalog, options.rows)
        output = temporary / "targets.parquet"
        ours = [sys.executable, "-m", "pipeline", "targets"]
        rows: dict[str, list[str | Path]] = {
            "all rows": [*ours, catalog, "--output", output],
            "a condition": [*ours, catalog, "--where", WHERE, "--output", output],
        }
        if available():
            url = stack.enter_context(serve(catalog.parent, temporary / "nginx"))
            rows["a condition, over HTTP"] = [*ours, f"{url}/{catalog.name}", "--where", WHERE, "--output", output]
        rows["astropy, a condition"] = [sys.executable, "-c", SCRIPT, catalog, temporary / "script.parquet"]
        print(f"{options.rows} rows of {len(FORMATS)} columns, {catalog.stat().st_size / 1e9:.2f} GB")
        print(f"{'':24} {'seconds':>8} {'rows/s':>10} {'MiB':>8}")
        seconds = {}
        for name, command in rows.items():
            seconds[name], memory = run(command)
            print(
                f"{name:24} {seconds[name]:8.1f} {options.rows / seconds[name]:10.0f} {memory / 2**20:8.0f}", flush=True
            )
    print(f"ratio: {seconds['astropy, a condition'] / seconds['a condition']:.2f}")


if __name__ == "__main__":
    main()
