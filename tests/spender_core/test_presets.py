from __future__ import annotations

from spender_core.presets import PRESETS


def test_the_presets_are_the_published_trainings():
    """Figures of upstream's scripts train_sdss.py and train_sdss_paperII.py."""
    first, second = PRESETS["paper1"], PRESETS["paper2"]
    assert (first.settings.epochs, first.settings.batch_size) == (200, 1024)
    assert (second.settings.epochs, second.settings.batch_size) == (1000, 512)
    assert first.losses.similarity == first.losses.consistency == 0
    assert second.losses.similarity == second.losses.consistency == 1
    assert second.losses.form == "paper2"
    slopes = [second.losses.slope.at(epoch, 1000) for epoch in range(1000)]
    assert slopes[:3] == [0.0, 0.1, 0.2]
    assert max(slopes) == 9.9
    assert slopes[99:102] == [9.9, 0.0, 0.1]
    assert slopes[-10:] == [0.0] * 10
    assert slopes[-11] > 0
