"""Numbers for people: times, sizes, counts, and names of stages."""

from __future__ import annotations


def label(stage: str, model: str | None) -> str:
    """Name a stage and its model."""
    return f"{stage} {model}" if model else stage


def number(value: float) -> str:
    """Write a number with thousands set apart, and few digits when it is small."""
    return f"{value:,.0f}" if value >= 100 or value == int(value) else f"{value:.3g}"


def duration(seconds: float) -> str:
    """Write a time in the units that fit it."""
    if 0 < seconds < 0.1:
        return f"{1000 * seconds:.0f} ms"
    if round(seconds, 1) < 60:
        return f"{seconds:.0f} s" if seconds == int(seconds) else f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min" if minutes else f"{hours} h"
    return f"{minutes} min {rest:02d} s" if rest else f"{minutes} min"


def size(n_bytes: float) -> str:
    """Write a number of bytes in the unit that fits it, powers of 1000, with three digits."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if n_bytes < 999.5:  # more would be rounded to 1000
            return f"{n_bytes:.3g} {unit}"
        n_bytes /= 1000
    return f"{n_bytes:.3g} PB"
