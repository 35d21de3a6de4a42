"""The domain of a model: the classes, redshifts and signal-to-noise ratios of the spectra that it was trained on."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import pandas as pd

Range = tuple[float, float]

_FORM = "{'classes': [names] or None, 'z': [low, high], 'sn': [low, high] or None}"


@dataclass(frozen=True, kw_only=True)
class Domain:
    """What a model was trained on, as its checkpoint says.

    z: lowest and highest redshift. classes: of the catalog, such as "GALAXY", None for any. sn: lowest and highest
    median signal-to-noise ratio per pixel, None for any. ValueError for values that say nothing.
    """

    z: Range
    classes: tuple[str, ...] | None = None
    sn: Range | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "z", _range(self.z))
        if self.sn is not None:
            object.__setattr__(self, "sn", _range(self.sn))
        if self.classes is not None:
            object.__setattr__(self, "classes", _names(self.classes))

    @classmethod
    def from_dict(cls, values: object) -> Self:
        """Read the entry `domain` of a checkpoint or of a plan. ValueError for one of another form."""
        if not isinstance(values, Mapping) or "z" not in values or not set(values) <= {"classes", "z", "sn"}:
            raise ValueError(f"domain is {values!r}, expected {_FORM}")
        try:
            return cls(**values)
        except (TypeError, ValueError) as error:
            raise ValueError(f"domain is {dict(values)!r}, expected {_FORM}: {error}") from error

    def __str__(self) -> str:
        parts = [f"class {' or '.join(self.classes)}"] if self.classes is not None else []
        parts.append(f"z {self.z[0]:.4g} to {self.z[1]:.4g}")
        if self.sn is not None:
            parts.append(f"S/N {self.sn[0]:.3g} to {self.sn[1]:.3g}")
        return ", ".join(parts)

    def outside(self, targets: pd.DataFrame) -> NDArray[np.bool_]:
        """Return which targets lie outside, shape (N,).

        By their columns class, z and sn_median, as far as they exist and have a value: what is not known of a target
        puts it nowhere outside.
        """
        found = np.zeros(len(targets), np.bool_)
        for name, bounds in (("z", self.z), ("sn_median", self.sn)):
            if name in targets and bounds is not None:
                values = targets[name].to_numpy(np.float32)
                known = np.isfinite(values) & ((values > -1) if name == "z" else True)
                # as float32, like the columns: the ends of a range belong to it
                low, high = np.float32(bounds[0]), np.float32(bounds[1])
                found |= known & ((values < low) | (values > high))
        if "class" in targets and self.classes is not None:
            classes = targets["class"].str.strip()
            found |= ((classes != "") & ~classes.isin(self.classes)).to_numpy(np.bool_)
        return found


def _names(values: Any) -> tuple[str, ...]:  # noqa: ANN401 - read from a file
    if isinstance(values, str) or not all(isinstance(each, str) for each in values):
        raise ValueError(f"{values!r} are no names of classes")
    return tuple(values)


def _range(values: Any) -> Range:  # noqa: ANN401 - read from a file
    low, high = (float(value) for value in values)
    if not (math.isfinite(low) and math.isfinite(high) and low <= high):
        raise ValueError(f"{[low, high]} is no range of numbers, the lower one first")
    return low, high
