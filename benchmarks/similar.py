"""Neighbors and outliers of a whole survey: seconds and memory of the index, of a query, and of a list of outliers.

    python benchmarks/similar.py ROOT [--queries 5] [--outliers 50] [--write]

ROOT: a run, such as one that survey_store.py makes. Neighbors are compared with those that float64 finds by looking at
every row. Seconds are those of the clock, and beside them those of the processor, which others may use as well. The
last line is the smallest of the limits over what was taken: 60 s for the index, 0.3 s for a query, 5 s for the outliers
and 450 MB above the idle process, for five million rows of 10 latents.
"""

from __future__ import annotations

import argparse
import os
import resource
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from science_training import write_section

import pipeline
from pipeline.results.latents import outliers, similar  # noqa: F401 - imported before the process is idle
from pipeline.results.latents.neighbors import nearest

NEIGHBORS = 20
RESULTS = Path(__file__).resolve().parent / "RESULTS.md"
LIMITS = {"index": 60.0, "query": 0.3, "outliers": 5.0}  # seconds
MEMORY = 450e6  # bytes
NAMES = {
    "index": "the index is made",
    "query": f"{NEIGHBORS} neighbors, in the index",
    "similar": "`Run.similar(latents=...)`, with the table of the neighbors",
    "outliers": "`Run.outliers`, with 5 neighbors of each",
}
BLOCK = 2**17

T = TypeVar("T")


def timed(what: Callable[[], T], name: str, found: dict[str, float]) -> T:
    """Do something, print how long it took, and keep the most seconds of several, of clock and processor, by name."""
    start, start_cpu = time.perf_counter(), time.process_time()
    made = what()
    seconds, cpu = time.perf_counter() - start, time.process_time() - start_cpu
    print(f"{name}: {seconds:.3f} s, {cpu:.3f} s of the processor")
    found[name] = max(seconds, found.get(name, 0.0))
    found[f"{name} cpu"] = max(cpu, found.get(f"{name} cpu", 0.0))
    return made


def memory() -> float:
    """Return the most bytes that were resident so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024.0


def brute_force(values: NDArray[np.float32], row: int) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """Return the nearest rows and their distances by float64 for every row."""
    query = values[row].astype(np.float64)
    distance = np.empty(len(values))
    for start in range(0, len(values), BLOCK):
        difference = values[start : start + BLOCK].astype(np.float64) - query
        distance[start : start + BLOCK] = np.sqrt(np.einsum("ij,ij->i", difference, difference))
    distance[row] = np.nan
    distance[np.isnan(distance)] = np.inf
    near = np.flatnonzero(distance <= np.partition(distance, NEIGHBORS - 1)[NEIGHBORS - 1])
    order = near[np.lexsort((near, distance[near]))][:NEIGHBORS]
    return order, distance[order]


def measure(root: str, queries: int, n_outliers: int) -> dict[str, float]:
    """Measure, and return the seconds of each, the share of neighbors that float64 finds, too, and the memory."""
    run = pipeline.open_run(root)
    run.results()
    idle = memory()
    found: dict[str, float] = {}
    timed(partial(run.index, remake=True), "index", found)
    index = run.index()
    latents = run.encodings()["latents"]
    step = max(len(index.values) // (2 * queries), 1)
    rows = [row for row in range(0, len(index.values), step) if np.isfinite(index.values[row]).all()][:queries]
    searched = []
    for row in rows:
        search = partial(nearest, index.values, index.values[[row]], NEIGHBORS, leave_out=np.array([row]))
        searched.append(timed(search, "query", found))
        timed(partial(run.similar, latents=latents[row].to_numpy(), n=NEIGHBORS), "similar", found)
    timed(partial(run.outliers, n_outliers), "outliers", found)
    used = max(memory() - idle, 1.0)
    same = []
    for row, (near, distance) in zip(rows, searched, strict=True):
        expected, distances = brute_force(index.values, row)
        same.append(np.array_equal(near[0], expected) and np.array_equal(distance[0], distances))
    return {**found, "rows": len(index.values), "same": float(np.mean(same)), "memory": used}


def report(found: dict[str, float]) -> str:
    """Write what was measured in Markdown."""
    rows = [
        f"| {found['rows']:,} rows, load {os.getloadavg()[0]:.1f} | limit | seconds | of the processor |",
        "|---|---|---|---|",
    ]
    rows += [
        f"| {said} | {f'{LIMITS[name]:g}' if name in LIMITS else ''} | {found[name]:.2f} | {found[f'{name} cpu']:.2f} |"
        for name, said in NAMES.items()
    ]
    memory = f"{found['memory'] / 1e6:.0f} MB above the idle process (limit {MEMORY / 1e6:.0f})"
    equal = f"{found['same']:.0%} of the queries give the rows and distances that float64 gives for every row"
    return "\n".join([*rows, "", f"Memory: {memory}. {equal}."])


def main() -> None:
    """Measure a run, and print a line for each figure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("root")
    parser.add_argument("--queries", type=int, default=5)
    parser.add_argument("--outliers", type=int, default=50)
    parser.add_argument("--write", action="store_true", help="put the table into RESULTS.md")
    args = parser.parse_args()
    found = measure(args.root, args.queries, args.outliers)
    text = report(found)
    print(text)
    if args.write:
        write_section(RESULTS, "similar", text, "similar.py")
    ratios = [limit / found[name] for name, limit in LIMITS.items()]
    print(f"ratio: {min(*ratios, MEMORY / found['memory']) * (found['same'] == 1):.2f}")


if __name__ == "__main__":
    main()
