"""The report of a run: one HTML file, made from its plan, its ledger and its logs, and of what is encoded so far."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib import resources
from statistics import median
from typing import Any

import jinja2

from pipeline import storage
from pipeline.errors import redacted
from pipeline.monitor.run_log import Line, Log, read_logs
from pipeline.monitor.science import Science, read_science
from pipeline.monitor.status import StageStatus, read_status
from pipeline.monitor.throughput import Throughput, seconds_of, throughput
from pipeline.monitor.units import duration, label, number, size
from pipeline.planning.plan import Plan
from pipeline.planning.redshift import WARNINGS
from pipeline.spectra.quality import MEANINGS, Quality
from pipeline.store.root import read_plan
from pipeline.version import __version__

SLOWEST = 10

# The picture's size and the room for its axes, in its own units.
_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 860, 250, 52, 12, 26, 26
_TIMES = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200, 14400, 28800, 86400)

# In the order of a task; phases of one colour never meet in one stage.
_COLOURS = {"fetch": 1, "read": 1, "parse": 2, "normalize": 3, "encode": 4, "write": 5, "checksum": 6, "wait": 7}
_OTHER_COLOUR = 8


def write_page(root: str, output: str) -> None:
    """Write the report of a run, as it is now. output: any fsspec URL.

    Raises ConfigError when there is no plan at ROOT, OSError when the page cannot be written.
    """
    plan = read_plan(root)
    text = page(root, plan, read_status(root, plan), read_logs(root), read_science(root, plan))
    storage.write_bytes(output, text.encode())


def page(
    root: str, plan: Plan, stages: Sequence[StageStatus], logs: Sequence[Log], science: Sequence[Science] = ()
) -> str:
    """Return the report as HTML that needs nothing beside it: no script, no picture, no font from elsewhere."""
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    environment.filters |= {"duration": duration, "size": size, "number": number, "moment": _moment}
    template = environment.from_string(
        resources.files("pipeline.monitor").joinpath("report.html").read_text(encoding="utf-8")
    )
    lines = _latest(logs)
    rates = throughput(logs)
    return template.render(
        root=redacted(root),
        name=redacted(root).rstrip("/").rsplit("/", 1)[-1] or root,
        plan=plan,
        version=__version__,
        now=datetime.now(UTC),
        chunks=len(plan.shards()),
        stages=stages,
        label=label,
        begun=bool(logs) or any(each.done or each.failed for each in stages),
        finished=all(each.done == each.chunks for each in stages),
        science=science,
        runs=[_run(log) for log in logs],
        unread=sum(log.unread for log in logs),
        chart=None if rates is None else _chart(rates),
        phases=_phases(lines),
        bits=_bits(stages, plan.unusable),
        warnings=_warnings(stages),
        slowest=_slowest(lines),
        recovered=_recovered(stages, logs),
    )


def _moment(value: datetime) -> str:
    return f"{value:%Y-%m-%d %H:%M:%S}"


def _latest(logs: Sequence[Log]) -> list[Line]:
    """Give the last line of every chunk of every stage that has timings: a chunk may have been done again."""
    lines = {(line["stage"], line["model"], line["chunk"]): line for log in logs for line in log.done}
    return [line for line in lines.values() if line.get("seconds")]


def _run(log: Log) -> dict[str, Any]:
    """One row of the table of runs."""
    seconds = (log.last["at"] - log.asked["at"]).total_seconds()
    spectra: Counter[str] = Counter()
    for line in log.done:
        spectra[label(line["stage"], line["model"])] += line["spectra"]
    ended = len(log.done) + len(log.failed)
    complete = ended == log.asked.get("total", 0) - log.asked.get("already", 0)
    return {
        "log": log,
        "seconds": seconds,
        "rates": {name: count / seconds for name, count in spectra.items()} if seconds > 0 else {},
        "end": ("finished" if complete else "interrupted") if log.ended else "running, or killed",
        **{key: sum(line.get(key, 0) for line in log.done) for key in ("fetched", "requests", "retries")},
    }


def _phases(lines: Sequence[Line]) -> list[dict[str, Any]]:
    """Seconds by phase of every stage, phases in the order in which tasks go through them."""
    found: dict[str, Counter[str]] = {}
    for line in sorted(lines, key=lambda line: (line["stage"] != "ingest", line["model"] or "")):
        found.setdefault(label(line["stage"], line["model"]), Counter()).update(line["seconds"])
    return [{"name": name, "total": sum(each.values()), "parts": _parts(each)} for name, each in found.items()]


def _parts(seconds: Mapping[str, float]) -> list[dict[str, Any]]:
    total = sum(seconds.values())
    parts, begin = [], 0.0
    for phase, value in seconds.items():
        share = value / total if total else 0.0
        colour = _COLOURS.get(phase, _OTHER_COLOUR)
        parts.append({"phase": phase, "seconds": value, "begin": begin, "share": share, "colour": colour})
        begin += share
    return parts


def _slowest(lines: Sequence[Line]) -> list[dict[str, Any]]:
    """Rows of the table of the slowest chunks, each beside the median of its stage."""
    usual: dict[tuple[str, str | None], float] = {
        kind: median(seconds_of(line) for line in lines if (line["stage"], line["model"]) == kind)
        for kind in {(line["stage"], line["model"]) for line in lines}
    }
    slowest = sorted(lines, key=seconds_of, reverse=True)[:SLOWEST]
    longest = max(map(seconds_of, slowest), default=0.0)
    return [
        {
            "line": line,
            "seconds": seconds_of(line),
            "share": seconds_of(line) / longest if longest else 0.0,
            "times": seconds_of(line) / (usual[line["stage"], line["model"]] or 1.0),
            "parts": _parts(line["seconds"]),
        }
        for line in slowest
    ]


def _bits(stages: Sequence[StageStatus], unusable: Quality) -> list[dict[str, Any]]:
    """Rows of the table of quality bits: those that some spectrum has; unusable: those that mean "no latents"."""
    return [
        {
            "name": (bit.name or "").lower(),
            "meaning": meaning,
            "unusable": bool(bit & unusable),
            "counts": [each.quality.get(bit.name or "", 0) for each in stages],
        }
        for bit, meaning in MEANINGS.items()
        if any(each.quality.get(bit.name or "") for each in stages)
    ]


def _warnings(stages: Sequence[StageStatus]) -> list[dict[str, Any]]:
    """Rows of the table of warnings of redshifts: those that some spectrum has."""
    return [
        {"name": name.lower(), "meaning": meaning, "counts": [each.warnings.get(name, 0) for each in stages]}
        for name, meaning in WARNINGS.values()
        if any(each.warnings.get(name) for each in stages)
    ]


def _recovered(stages: Sequence[StageStatus], logs: Sequence[Log]) -> int:
    """Count the chunks that failed in some run and are not failed now."""
    failed = {(line["stage"], line["model"], line["chunk"]) for log in logs for line in log.failed}
    return len(failed - {(each.stage, each.model, index) for each in stages for index in each.failed})


def _chart(rates: Throughput) -> dict[str, Any]:
    """Draw the throughput: a picture's paths and ticks, in its own units."""
    longest = float(rates.edges[-1])
    highest = max(float(values.max()) for values in rates.rates.values())
    step = _step(highest / 4)
    ceiling = step * math.ceil(highest / step)

    def x(seconds: float) -> float:
        return round(_LEFT + (_WIDTH - _LEFT - _RIGHT) * seconds / longest, 1)

    def y(rate: float) -> float:
        return round(_HEIGHT - _BOTTOM - (_HEIGHT - _TOP - _BOTTOM) * rate / ceiling, 1)

    every = next((each for each in _TIMES if longest / each <= 8), 86400 * math.ceil(longest / 86400 / 8))
    series = []
    for number_of, ((stage, model), values) in enumerate(rates.rates.items()):
        corners = [f"{x(float(edge))},{y(0)}" for edge in rates.edges[:1]]
        for begin, end, value in zip(rates.edges[:-1], rates.edges[1:], values, strict=True):
            corners += [f"{x(float(begin))},{y(float(value))}", f"{x(float(end))},{y(float(value))}"]
        corners.append(f"{x(longest)},{y(0)}")
        series.append({"name": label(stage, model), "colour": number_of % _OTHER_COLOUR + 1, "points": corners})
    return {
        "width": _WIDTH,
        "height": _HEIGHT,
        "left": _LEFT,
        "right": _WIDTH - _RIGHT,
        "top": _TOP,
        "floor": y(0),
        "series": series,
        "levels": [(y(i * step), number(i * step)) for i in range(round(ceiling / step) + 1)],
        "times": [(x(i * every), duration(i * every)) for i in range(int(longest / every) + 1)],
        "stretches": [(x(begin), when) for begin, when in rates.stretches],
    }


def _step(least: float) -> float:
    """Return the round number, of 1, 2 or 5 and zeros, that is not below a positive one."""
    power = 10.0 ** math.floor(math.log10(least))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= least * (1 - 1e-9))
