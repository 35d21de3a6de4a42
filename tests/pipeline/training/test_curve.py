from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from matplotlib import image
from matplotlib.colors import to_rgb

from pipeline.training.curve import _COLORS, draw


def record(epoch: int, loss: float, *names: str, terms: bool = False) -> dict[str, Any]:
    made: dict[str, Any] = {"epoch": epoch, "train": dict.fromkeys(names, loss), "valid": {}}
    if terms:
        made["train_terms"] = {f"{name} {term}": loss for name in names for term in ("fidelity", "similarity")}
    return made


def pixels(png: bytes) -> np.ndarray:
    assert png.startswith(b"\x89PNG")
    found: np.ndarray = image.imread(io.BytesIO(png), format="png")[..., :3]
    return found


def shown(picture: np.ndarray, color: str) -> np.ndarray:
    """Where a color is, shape (height, width), bool."""
    found: np.ndarray = (np.abs(picture - to_rgb(color)) < 0.01).all(axis=2)
    return found


def test_a_loss_that_falls_falls_in_the_figure() -> None:
    where = shown(pixels(draw([record(epoch, 10.0 - epoch, "sdss") for epoch in range(1, 9)])), _COLORS[0])
    line = where[:, :500]  # without the legend
    rows, columns = np.nonzero(line)
    left, right = rows[columns < columns.mean()], rows[columns > columns.mean()]
    assert left.mean() < right.mean()  # rows count from the top


@pytest.mark.parametrize("count", [1, 2, 3])
def test_every_instrument_has_its_color(count: int) -> None:
    names = ("sdss", "boss", "desi")[:count]
    picture = pixels(draw([record(epoch, 2.0 + epoch, *names) | {"valid": {}} for epoch in (1, 2)]))
    assert shown(picture, _COLORS[count - 1]).any()
    assert not shown(picture, _COLORS[count]).any()


def test_terms_have_a_panel_where_there_are_several() -> None:
    one, two = (pixels(draw([record(1, 2.0, "sdss", terms=terms)])) for terms in (False, True))
    assert two.shape[1] > 1.5 * one.shape[1]
    assert shown(two, _COLORS[1]).any()


@pytest.mark.parametrize("losses", [(-1.0, 2000.0), (1e-3, 2000.0), (0.0, 0.0)])
def test_any_finite_losses_can_be_drawn(losses: tuple[float, float]) -> None:
    picture = pixels(draw([record(i + 1, loss, "sdss") for i, loss in enumerate(losses)]))
    assert shown(picture, _COLORS[0]).any()
