"""Runs of one model are joined, those of others refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import pipeline
from pipeline.catalog import targets
from pipeline.planning.plan import Generation, targets_sha256
from pipeline.store.root import read_plan
from tests.pipeline.conftest import MakeRun, model_config

pytestmark = pytest.mark.slow


def moved(root: Path) -> None:
    """Make the targets of a run others: one plate further."""
    plan = read_plan(str(root))
    frame = pipeline.open_run(root).targets()
    frame["plate"] += 1
    frame["target"] = [
        f"26/{plate}-51600-{fiber}" for plate, fiber in zip(frame["plate"], frame["fiberid"], strict=True)
    ]
    made = replace(plan, generations=(Generation(len(frame), targets_sha256(frame, plan.survey.coordinates)),))
    targets.write_targets(frame, str(root / "targets.parquet"), plan.shard)
    (root / "plan.json").write_bytes(made.to_json())
    import zarr

    for store in ("spectra.zarr", *(f"encodings/{model.name}.zarr" for model in plan.models)):
        group = zarr.open_group(root / store, mode="r+")
        group.attrs["targets_sha256"] = made.targets_sha256
        group["plate"][:] = frame["plate"].to_numpy()
        group["target"][:] = frame["target"].to_numpy().astype(np.dtypes.StringDType())
    for marker in (root / "ledger").glob("*/store.json"):
        text = marker.read_text().replace(plan.targets_sha256, made.targets_sha256)
        marker.write_text(text)


@pytest.fixture
def roots(tmp_path: Path, make_run: MakeRun) -> list[Path]:
    make_run(tmp_path / "a")
    make_run(tmp_path / "b", n=10, models=[model_config("other", checkpoint="toy.pt")])
    moved(tmp_path / "b")
    return [tmp_path / "a", tmp_path / "b"]


def test_runs_of_one_model_are_one_behind_the_other(roots: list[Path]) -> None:
    runs = pipeline.open_runs(roots)
    assert repr(runs) == "<Runs of toy: 2 runs, 28 spectra>"
    encodings = runs.encodings()
    assert encodings.sizes["spectrum"] == 28
    assert encodings["model"].item() == "toy"
    assert encodings["run"].values.tolist() == [0] * 18 + [1] * 10
    second = pipeline.open_run(roots[1]).encodings()
    np.testing.assert_array_equal(encodings["latents"][18:], second["latents"])
    np.testing.assert_array_equal(encodings["flux"][18:], second["flux"])
    assert encodings["target"].values[18:].tolist() == second["target"].values.tolist()
    assert "targets_sha256" not in encodings.attrs  # they have others
    assert runs.encodings(observed_only=True).sizes["spectrum"] == 28


def test_tables_and_names_count_through_all_runs(roots: list[Path]) -> None:
    runs = pipeline.open_runs(roots)
    table = runs.table()
    assert table.index.tolist() == list(range(28))
    assert table["run"].tolist() == [0] * 18 + [1] * 10
    assert table.attrs["model_sha256"] == "ab" * 32
    assert runs.find("301-51600-3") == 20
    assert runs.find(["301-51600-3", "300-51600-3"]).tolist() == [20, 2]
    assert table["target"][20] == "26/301-51600-3"
    assert runs.table(columns="target,l0", where="l0 > 0").index.tolist() == table.index[table["l0"] > 0].tolist()
    good = runs.good()
    assert runs.table(good=True).index.tolist() == np.flatnonzero(good).tolist()


def test_runs_of_other_models_are_refused(tmp_path: Path, make_run: MakeRun) -> None:
    make_run(tmp_path / "a")
    make_run(tmp_path / "b", models=[model_config(sha256="cd" * 32)])
    with pytest.raises(pipeline.ConfigError, match=r"b has no encodings by the checkpoint of toy \(SHA-256 abab"):
        pipeline.open_runs([tmp_path / "a", tmp_path / "b"])
    make_run(tmp_path / "c", models=[model_config(precision="bf16")])
    with pytest.raises(pipeline.ConfigError, match="has toy in bf16, .*a has it in float32"):
        pipeline.open_runs([tmp_path / "a", tmp_path / "c"])


def test_runs_that_share_targets_are_refused(tmp_path: Path, make_run: MakeRun) -> None:
    make_run(tmp_path / "a")
    with pytest.raises(pipeline.ConfigError, match="18 targets are in more than one run, such as 26/300-51600-1"):
        pipeline.open_runs([tmp_path / "a", tmp_path / "a"])


def test_versions_whose_numbers_differ_are_refused(roots: list[Path]) -> None:
    plan = read_plan(str(roots[1]))
    (roots[1] / "plan.json").write_bytes(plan.to_json())
    first, second = (pipeline.open_run(root) for root in roots)
    second.plan = replace(second.plan, encoding_version=2)
    with pytest.raises(pipeline.ConfigError, match="has encoding version 2, .* has 3"):
        pipeline.Runs([first, second])


@pytest.mark.parametrize("roots", [[], "run"])
def test_what_is_no_list_is_refused(roots: object) -> None:
    with pytest.raises(pipeline.ConfigError, match="a list of runs"):
        pipeline.open_runs(roots)  # type: ignore[arg-type]
