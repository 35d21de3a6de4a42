"""Sums of an objective's terms over the batches of an epoch, by instrument."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from .parallel import World


class Totals:
    """Sums so far, in float64 where the terms are computed, so that a GPU need not be waited for at each step."""

    def __init__(self) -> None:
        self._names: dict[str, list[str]] = {}
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}

    def add(self, instrument: str, terms: dict[str, Tensor], count: int) -> None:
        """Add the terms of a batch, each a scalar; count: its spectra, on all processes."""
        values = torch.stack([term.detach().double() for term in terms.values()])
        before = self._sums.get(instrument)
        self._names.setdefault(instrument, list(terms))
        self._sums[instrument] = values if before is None else before + values
        self._counts[instrument] = self._counts.get(instrument, 0) + count

    def broken(self) -> tuple[str, float] | None:
        """Return an instrument whose sum is not finite, and the sum; None if all are. Waits for the device."""
        for instrument, sums in self._sums.items():
            total = float(sums.sum())
            if not math.isfinite(total):
                return instrument, total
        return None

    def over(self, world: World) -> dict[str, dict[str, Any]]:
        """Add up over processes, which must all call: plain values, what `of` takes."""
        return {
            name: {
                "count": self._counts[name],
                "terms": dict(zip(self._names[name], world.sum_(sums.clone()).tolist(), strict=True)),
            }
            for name, sums in self._sums.items()
        }

    @staticmethod
    def of(state: dict[str, dict[str, Any]], world: World, device: torch.device) -> Totals:
        """Go on from such sums: the first process has all of them, the others zeros."""
        totals = Totals()
        for name, entry in state.items():
            values = {term: value if world.is_first else 0.0 for term, value in entry["terms"].items()}
            terms = {term: torch.tensor(value, dtype=torch.float64, device=device) for term, value in values.items()}
            totals.add(name, terms, entry["count"])
        return totals


def mean_losses(state: dict[str, dict[str, Any]]) -> dict[str, float]:
    """Mean loss per spectrum of each instrument."""
    return {name: math.fsum(entry["terms"].values()) / entry["count"] for name, entry in state.items()}


def mean_terms(state: dict[str, dict[str, Any]]) -> dict[str, float]:
    """Mean of each term per spectrum of each instrument; the keys are "instrument term"."""
    return {
        f"{name} {term}": value / entry["count"]
        for name, entry in state.items()
        for term, value in entry["terms"].items()
    }
