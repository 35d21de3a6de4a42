from __future__ import annotations

import numpy as np
import pytest
import torch

from spender_core.dataset import Batch, Pooled, SpectrumDataset, validation

N, L = 47, 5


class Counting:
    """An array that remembers which rows were asked for."""

    def __init__(self, values):
        self.values = values
        self.shape = values.shape
        self.slices = []

    def __getitem__(self, rows):
        self.slices.append((rows.start, rows.stop))
        return self.values[rows]


def numbered(n=N, block=7, usable=None, seed=0):
    """Spectra whose every pixel is their row."""
    flux = np.repeat(np.arange(n, dtype=np.float32)[:, None], L, axis=1)
    return SpectrumDataset(Counting(flux), Counting(2 * flux), 0.01 * np.arange(n), np.arange(n), usable, block, seed)


def rows_of(batches):
    return [row for batch in batches for row in batch.rows.tolist()]


def test_split_depends_on_the_id_alone():
    ids = np.random.default_rng(0).integers(1, 2**64, 20_000, dtype=np.uint64)
    marked = validation(ids)
    assert abs(marked.mean() - 0.15) < 0.01
    assert np.array_equal(validation(ids[::-1]), marked[::-1])
    assert np.array_equal(validation(ids[:100]), marked[:100])
    # pinned: the side of a spectrum may never change between releases
    assert validation(np.arange(1, 41, dtype=np.uint64)).nonzero()[0].tolist() == [8, 13, 36]


def test_every_usable_training_spectrum_is_visited_once_an_epoch():
    usable = np.arange(N) % 5 != 0
    arrays = numbered(usable=usable)
    seen = {}
    for split in ("train", "valid"):
        batches = list(arrays.batches(split, 0, 4))
        assert len(batches) == arrays.steps(split, 4)
        assert all(len(batch) == 4 for batch in batches[:-1])
        seen[split] = rows_of(batches)
    assert sorted(seen["train"] + seen["valid"]) == np.flatnonzero(usable).tolist()
    assert seen["train"] != sorted(seen["train"])
    assert seen["valid"] == np.flatnonzero(usable & validation(np.arange(N))).tolist()
    assert rows_of(arrays.batches("train", 0, 4)) == seen["train"]
    assert rows_of(arrays.batches("train", 1, 4)) != seen["train"]
    assert rows_of(numbered(usable=usable, seed=1).batches("train", 0, 4)) != seen["train"]


def test_a_batch_holds_the_spectra_of_its_rows():
    for batch in numbered().batches("train", 3, 6):
        assert batch.rows.dtype == torch.int64
        assert batch.spec.dtype == batch.w.dtype == batch.z.dtype == torch.float32
        assert torch.equal(batch.spec, batch.rows[:, None].expand(-1, L).float())
        assert torch.equal(batch.w, 2 * batch.spec)
        torch.testing.assert_close(batch.z, 0.01 * batch.rows.float())


def test_an_epoch_can_begin_at_any_batch_without_reading_what_is_before():
    arrays = numbered()
    whole = [batch.rows.tolist() for batch in arrays.batches("train", 0, 4)]
    everything = len(arrays._flux.slices)
    for begin in range(len(whole) + 1):
        arrays._flux.slices.clear()
        assert [batch.rows.tolist() for batch in arrays.batches("train", 0, 4, begin)] == whole[begin:]
    assert not arrays._flux.slices
    assert rows_of(arrays.batches("valid", 0, 2, 1)) == rows_of(arrays.batches("valid", 0, 2))[2:]
    arrays._flux.slices.clear()
    list(arrays.batches("train", 0, 4, len(whole) - 1))
    assert len(arrays._flux.slices) < everything


def test_a_block_is_read_once_an_epoch_and_no_more_than_one_ahead():
    arrays = numbered(n=70)
    batches = arrays.batches("train", 0, 3)
    next(batches)
    assert len(arrays._flux.slices) <= 2
    list(batches)
    blocks = [start // 7 for start, _ in arrays._flux.slices]
    assert sorted(blocks) == list(range(10))
    assert all(stop - start <= 7 for start, stop in arrays._flux.slices)


def test_blocks_are_visited_one_after_the_other():
    visited = [row // 7 for row in rows_of(numbered().batches("train", 0, 4))]
    assert len([k for k, block in enumerate(visited) if k == 0 or visited[k - 1] != block]) == len(set(visited))


def test_arrays_of_unequal_length_are_refused():
    with pytest.raises(ValueError, match="10, 10, 9 and 10 rows"):
        SpectrumDataset(np.ones((10, 5)), np.ones((10, 5)), np.ones(9), np.ones(10, np.uint64))


def test_what_decides_the_batches_decides_the_identity():
    usable = np.arange(N) != 3
    variants = [numbered(), numbered(usable=usable), numbered(block=8), numbered(seed=1), numbered(n=N + 1)]
    assert len({arrays.identity for arrays in variants}) == len(variants)
    assert numbered().identity == numbered().identity


def test_parts_of_a_batch_keep_what_belongs_together():
    batch = Batch(torch.arange(12.0).reshape(4, 3), torch.ones(4, 3), torch.arange(4.0), s=torch.arange(4.0)[:, None])
    part = batch[1:3].to("cpu")
    assert len(batch) == 4
    assert len(part) == 2
    assert part.rows is part.truth is None
    assert torch.equal(part.z, torch.tensor([1.0, 2.0]))
    assert torch.equal(part.spec[:, 0], torch.tensor([3.0, 6.0]))
    assert torch.equal(part.s, torch.tensor([[1.0], [2.0]]))


def test_pooled_samples_are_one_with_distinct_rows():
    parts = [numbered(), numbered(n=20, seed=2)]
    pooled = Pooled(parts)
    for split in ("train", "valid"):
        whole = [batch.rows.tolist() for batch in pooled.batches(split, 0, 4)]
        assert len(whole) == pooled.steps(split, 4) == sum(part.steps(split, 4) for part in parts)
        rows = [row for batch in whole for row in batch]
        assert len(set(rows)) == len(rows)
        assert len(rows) == sum(len(rows_of(part.batches(split, 0, 4))) for part in parts)
        for begin in (1, len(whole) // 2):
            assert [batch.rows.tolist() for batch in pooled.batches(split, 0, 4, begin)] == whole[begin:]
    first = [row for row in rows_of(pooled.batches("train", 5, 4)) if row < N]
    assert first == rows_of(parts[0].batches("train", 5, 4))


def test_pooled_samples_are_mixed_for_training_and_in_turn_for_validation():
    pooled = Pooled([numbered(n=80), numbered(n=80, seed=2)])
    part = {split: [int(batch.rows[0]) < 80 for batch in pooled.batches(split, 0, 4)] for split in ("train", "valid")}
    assert part["valid"] == sorted(part["valid"], reverse=True)
    assert part["train"] != sorted(part["train"], reverse=True)
    again = [int(batch.rows[0]) < 80 for batch in pooled.batches("train", 1, 4)]
    assert sorted(again) == sorted(part["train"])
    assert again != part["train"]
