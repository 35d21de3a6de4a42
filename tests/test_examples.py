"""The examples of docstrings are executed, in the order of a run, on real spectra where they name files."""

from __future__ import annotations

import doctest
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from distributed import Client

import pipeline
import spender_core

ORDER = ("select_targets", "plan", "run", "status", "open_run", "Run", "open_runs", "export", "export_spectra")
MODEL = "sdss-galaxies"


def examples(owner: object, name: str) -> Iterator[tuple[str, doctest.Example]]:
    """Yield the examples of a public name, and of its methods if it is a class."""
    members = [(name, owner)]
    if inspect.isclass(owner):
        members += [(f"{name}.{each}", getattr(owner, each)) for each in dir(owner) if not each.startswith("_")]
    for label, member in members:
        if (getattr(member, "__module__", None) or "").partition(".")[0] not in ("pipeline", "spender_core"):
            continue  # inherited from torch
        for example in doctest.DocTestParser().get_examples(inspect.getdoc(member) or ""):
            yield label, example


@pytest.fixture
def client() -> Iterator[Client]:
    with Client(processes=False, n_workers=1, threads_per_worker=1, dashboard_address=None) as made:
        yield made


def test_every_example_works(
    tmp_path: Path, mirror: Path, catalog: Path, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    here = {
        "s3://bucket/dr16": "dr16",
        "s3://bucket/dr17": "dr17",
        "specObj-dr17.fits": str(catalog),
        "https://data.sdss.org/sas/dr17": str(mirror),
        "sdss_II": MODEL,
        "main-galaxies": "all-galaxies",  # of which the shared spectra have some
    }
    public = {**vars(spender_core), **{name: getattr(pipeline, name) for name in pipeline.__all__}}
    names: dict[str, Any] = {**public, "client": client}
    others = pipeline.select_targets(catalog, where="CLASS == 'STAR'")
    pipeline.plan("dr16", targets=others, source=mirror, models=[MODEL])
    pipeline.run("dr16", serial=True)
    done = []
    rest = sorted(name for name in (*pipeline.__all__, *spender_core.__all__) if name not in ORDER)
    for name in (*ORDER, *rest):
        for label, example in examples(public[name], name):
            source = example.source
            for written, instead in here.items():
                source = source.replace(written, instead)
            shown = doctest_value(source, names, label)
            if example.want:
                assert f"{shown}\n" == example.want, f"{label}: {source}"
            done.append(label)
    assert {"select_targets", "plan", "run", "Run.similar", "Run.outliers", "export", "load_model"} <= set(done)


def doctest_value(source: str, names: dict[str, Any], label: str) -> str:
    """Do what an example says; returns what it gives, as Python shows it."""
    try:
        return repr(eval(source, names))  # noqa: S307 - our own docstrings
    except SyntaxError:
        exec(source, names)  # noqa: S102
        return ""
    except Exception as error:
        raise AssertionError(f"the example of {label} fails: {source}") from error
