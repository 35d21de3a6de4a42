"""Fixtures for the stores: targets of any number, and whole small runs with made-up numbers."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from pipeline import storage
from pipeline.catalog import targets
from pipeline.compute.stages import record as stages
from pipeline.config import SurveyConfig
from pipeline.planning import schema
from pipeline.planning.model import ModelConfig
from pipeline.planning.partition import Shard
from pipeline.planning.plan import Plan
from pipeline.store import arrays as dataset
from pipeline.store import stores
from pipeline.store.root import read_plan
from pipeline.store.stores import Store, stores_of
from pipeline.store.template import encodings_template, spectra_template
from pipeline.surveys.registry import get_survey

MakeTargets = Callable[[int], pd.DataFrame]
MakeRun = Callable[..., Plan]

WAVELENGTH = np.float32(10) ** np.linspace(3.578, 3.97, get_survey("sdss").instruments["sdss"], dtype=np.float32)
WAVE_REST = np.linspace(2400, 9300, 50, dtype=np.float32)


def model_config(name: str = "toy", **changes: object) -> ModelConfig:
    settings: dict[str, object] = {"sha256": "ab" * 32, "n_latent": 3, "n_rest": len(WAVE_REST), "micro_batch": 4}
    return ModelConfig.from_dict({"name": name, "checkpoint": f"{name}.pt", **settings, **changes})


@pytest.fixture
def make_targets() -> MakeTargets:
    """Give a maker of n targets, sorted, with ids that only a uint64 holds."""

    def make(n: int) -> pd.DataFrame:
        row = np.arange(n)
        plate, fiberid = 300 + row // 640, 1 + row % 640
        keys = [f"26/{p}-51600-{f}" for p, f in zip(plate, fiberid, strict=True)]
        columns = {
            "target": keys,
            "specobjid": np.uint64(2**64 - 1) - row[::-1].astype(np.uint64),
            "plate": plate.astype(np.int32),
            "mjd": np.full(n, 51600, np.int32),
            "fiberid": fiberid.astype(np.int32),
            "run2d": ["26"] * n,
            "ra": np.linspace(0, 359, n),
            "dec": np.linspace(-10, 60, n),
            "z": np.linspace(0, 0.4, n, dtype=np.float32),
            "z_err": np.full(n, 1e-5, np.float32),
            "zwarning": np.zeros(n, np.int32),
            "class": [("GALAXY", "QSO", "STAR")[i % 3] for i in range(n)],
            "sn_median": np.full(n, np.nan, np.float32),
        }
        return pd.DataFrame(columns).astype(dict.fromkeys(("target", "run2d", "class"), "str"))

    return make


def shard_arrays(store: Store, plan: Plan, shard: Shard) -> dict[str, np.ndarray]:
    """Make up a chunk's arrays, the same for the same rows; some of them all fill."""
    variables = schema.SPECTRA_VARIABLES if store.model is None else store.model.stored
    lengths = {"wavelength": plan.n_pixels, "latent": 3, "latent_pair": 6, "wavelength_rest": len(WAVE_REST)}
    random = np.random.default_rng(shard.start)
    arrays = {}
    for name, variable in variables.items():
        shape = (len(shard), *({**lengths, **variable.sizes}[dim] for dim in variable.dims[1:]))
        values = random.normal(size=shape).astype(variable.dtype)
        arrays[name] = np.full(shape, variable.fill, variable.dtype) if shard.index == 1 else values
    arrays["quality"][:] = 0
    return arrays


def write_shard(store: Store, plan: Plan, shard: Shard) -> None:
    arrays = shard_arrays(store, plan, shard)
    dataset.write_region(store.url, shard, arrays)
    record: dict[str, object] = {"start": shard.start, "stop": shard.stop, "checksums": dataset.checksum(arrays)}
    record |= {"spectra": len(shard), "good": len(shard), "usable": len(shard), "quality": {}}
    record["packages"] = stages.packages(["numpy", "torch"])
    store.ledger.mark(shard.index, record | ({"device": "cpu"} if store.model else {}))


def create_store(store: Store, plan: Plan, frame: pd.DataFrame) -> None:
    if store.model is None:
        template, encoding = spectra_template(plan, frame, WAVELENGTH)
    else:
        template, encoding = encodings_template(plan, store.model, frame, WAVE_REST, WAVELENGTH)
    made = dataset.create(store.url, template, encoding)
    store.ledger.mark_store({**made, "generations": stores._generations(plan)})


@pytest.fixture(scope="session")
def made_runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("made-runs")


@pytest.fixture
def make_run(make_targets: MakeTargets, made_runs: Path) -> MakeRun:
    """Give a maker of whole runs: plan, targets, stores, markers, all but the finalization.

    A test process makes each of them once, and copies it from then on.
    """

    def made(root: Path | str, **asked: Any) -> Plan:  # noqa: ANN401
        if storage.local_path(str(root)) is None:
            return make(root, **asked)
        name = "-".join(repr(asked[key]) for key in sorted(asked))
        template = made_runs / hashlib.sha256(name.encode()).hexdigest()[:16]
        if not template.exists():
            make(template, **asked)
        shutil.copytree(template, root, dirs_exist_ok=True)
        return read_plan(str(root))

    def make(
        root: Path | str,
        n: int = 18,
        models: Iterable[ModelConfig] = (model_config(),),
        without: Iterable[tuple[str, int]] = (),
        reverse: bool = False,
        source: str = "https://data.sdss.org/sas/dr17",
    ) -> Plan:
        root = str(root)
        frame = make_targets(n)
        config = SurveyConfig(source=source, targets="memory://nowhere/targets.parquet", shard=4, chunk=2)
        plan = Plan.create(config, frame)
        for model in models:
            plan = plan.with_model(model)
        targets.write_targets(frame, storage.join(root, "targets.parquet"), plan.shard)
        storage.write_bytes(storage.join(root, "plan.json"), plan.to_json())
        for store in stores_of(root, plan):
            create_store(store, plan, frame)
            for shard in sorted(plan.shards(), key=lambda each: each.index, reverse=reverse):
                if (store.label, shard.index) not in set(without):
                    write_shard(store, plan, shard)
        return plan

    return made
