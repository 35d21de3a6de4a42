"""Throughput over time: the lines of runs' logs -> spectra per second of each stage, over the time that runs worked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.monitor.run_log import Line, Log

BINS = 60

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Throughput:
    """Rates over working time: the time between runs is left out.

    edges: shape (BINS + 1,), seconds. rates: by (stage, model), shape (BINS,), spectra per second; times the bins'
    widths they add up to the spectra done. stretches: where each stretch of work begins, in seconds, and when that was.
    """

    edges: Floats
    rates: dict[tuple[str, str | None], Floats]
    stretches: list[tuple[float, datetime]]


def throughput(logs: Sequence[Log]) -> Throughput | None:
    """Add up what the logs' chunks took part in; None when the logs have no chunk.

    A chunk's spectra are spread evenly over the seconds that it took before its end came to the client: its worker's
    clock, which may be wrong, is not used.
    """
    lines = [line for log in logs for line in log.done]
    if not lines:
        return None
    spans = _union([(log.asked["at"], log.last["at"]) for log in logs])
    lengths = [max((end - begin).total_seconds(), 1e-3) for begin, end in spans]
    offsets = np.concatenate([[0.0], np.cumsum(lengths)])
    edges = np.linspace(0.0, offsets[-1], BINS + 1)
    kinds = sorted({(line["stage"], line["model"]) for line in lines}, key=lambda kind: (kind[0] != "ingest", kind))
    rates = {}
    for stage, model in kinds:
        own = [line for line in lines if (line["stage"], line["model"]) == (stage, model)]
        begins, ends = np.array([_interval(line, spans, offsets) for line in own]).T
        share = np.clip((edges[:, None] - begins) / (ends - begins), 0.0, 1.0)
        rates[stage, model] = np.diff(share @ np.array([line["spectra"] for line in own], float)) / np.diff(edges)
    return Throughput(edges, rates, [(float(offsets[i]), begin) for i, (begin, _) in enumerate(spans)])


def _union(spans: list[tuple[datetime, datetime]]) -> list[tuple[datetime, datetime]]:
    """Join the spans that overlap: two runs may have worked at a time."""
    joined: list[tuple[datetime, datetime]] = []
    for begin, end in sorted(spans):
        if joined and begin <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(joined[-1][1], end))
        else:
            joined.append((begin, end))
    return joined


def _interval(line: Line, spans: list[tuple[datetime, datetime]], offsets: Floats) -> tuple[float, float]:
    """Give the working time, in seconds, that a chunk began and ended at."""
    number = max(i for i, (begin, _) in enumerate(spans) if begin <= line["at"] or i == 0)
    first, last = offsets[number], offsets[number + 1]
    end = min(max(first + (line["at"] - spans[number][0]).total_seconds(), first + 1e-3), last)
    return max(first, min(end - seconds_of(line), end - 1e-3)), end


def seconds_of(line: dict[str, Any]) -> float:
    """Give the seconds that a chunk took, all its phases together; 0 when the line has none."""
    return float(sum(line.get("seconds", {}).values()))
