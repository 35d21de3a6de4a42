"""Export the results table of a run: seconds and memory of each format.

    python benchmarks/export.py ROOT [--formats parquet,fits,csv] [--output FOLDER]

ROOT: a run, such as one that survey_store.py makes. Each format is written by a process of its own; its memory is the
most that was resident. The last line is the smallest of the limits over what was taken: 3 minutes (CSV: 6) and 2 GB for
five million rows.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SECONDS = {"parquet": 180.0, "fits": 180.0, "csv": 360.0}
MEMORY = 2e9  # bytes
ROWS = 5_000_000


def export_one(root: str, output: str) -> None:
    """Export in this process, and print rows, seconds and the largest memory in bytes."""
    import pipeline

    start = time.perf_counter()
    rows = pipeline.export(root, output).rows
    seconds = time.perf_counter() - start
    print(rows, seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)


def measured(root: str, output: Path) -> tuple[int, float, float]:
    """Export in another process; return rows, seconds and bytes of memory."""
    command = [sys.executable, __file__, root, "--one", str(output)]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    return int(printed[-3]), float(printed[-2]), float(printed[-1])


def main() -> None:
    """Measure the formats, and print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("root")
    parser.add_argument("--formats", default="parquet,fits,csv")
    parser.add_argument("--output", type=Path, help="folder to write to (default: a temporary one)")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        return export_one(args.root, args.one)
    ratios = []
    with tempfile.TemporaryDirectory(dir=args.output) as folder:
        for name in args.formats.split(","):
            output = Path(folder) / f"results.{name}"
            rows, seconds, memory = measured(args.root, output)
            size = output.stat().st_size / 1e6
            print(f"{name}: {rows} rows in {seconds:.1f} s, {memory / 1e9:.2f} GB of memory, {size:.0f} MB")
            ratios += [SECONDS[name] * rows / ROWS / seconds, MEMORY / memory]
    print(f"ratio: {min(ratios):.2f}")


if __name__ == "__main__":
    main()
