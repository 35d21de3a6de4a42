"""Close a run: verify the ledger against the plan, say where everything comes from, consolidate metadata once.

What finalize writes depends on the plan and the markers only - no time, no mirror, no host - so that a resumed run ends
with the same bytes as an undisturbed one.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import zarr
from zarr.errors import ZarrUserWarning

import pipeline
from pipeline import dataset, runs, schema, storage, targets
from pipeline.config import ConfigError, ModelConfig
from pipeline.ledger import Ledger
from pipeline.plan import Chunk, Plan, targets_sha256

LICENSE = "SDSS public data releases are in the public domain; acknowledge SDSS (sdss.org/collaboration/citing-sdss)"
ACKNOWLEDGEMENT = (
    "Funding for the Sloan Digital Sky Survey has been provided by the Alfred P. Sloan Foundation, the U.S. "
    "Department of Energy Office of Science, and the Participating Institutions. SDSS acknowledges support and "
    "resources from the Center for High-Performance Computing at the University of Utah. www.sdss.org"
)
REFERENCES = (
    "doi:10.3847/1538-3881/ace0ff (Melchior et al. 2023), doi:10.3847/1538-3881/ace100 (Liang et al. 2023a), "
    "doi:10.3847/2041-8213/acfa03 (Liang et al. 2023b)"
)

# Chunks read at once by verify: each holds one variable of one shard, 64 MB and as much again while it is decoded.
_READERS = 4


class Unfinished(RuntimeError):  # noqa: N818 - a state of the run, not a fault of the program
    """Some chunks are not done. missing: chunk indices by stage ("ingest", "encode <model>")."""

    def __init__(self, missing: dict[str, list[int]]) -> None:
        super().__init__(missing)
        self.missing = missing

    def __str__(self) -> str:
        return "; ".join(f"{stage}: {_named(chunks)} not done" for stage, chunks in self.missing.items())


@dataclass(frozen=True)
class Stage:
    """One store of a run with its markers. model: None for the spectra."""

    label: str
    url: str
    ledger: Ledger
    model: ModelConfig | None = None


def stages_of(root: str, plan: Plan) -> list[Stage]:
    """Return the stores that a plan makes under a root, the spectra first."""
    found = [Stage("ingest", dataset.spectra_url(root), runs.ingest_ledger(root, plan))]
    for model in plan.models:
        ledger = runs.encode_ledger(root, plan, model.name)
        found.append(Stage(f"encode {model.name}", dataset.encodings_url(root, model.name), ledger, model))
    return found


def finalize(root: str, plan: Plan) -> list[str]:
    """Close every store whose chunks are all done; return their URLs. Repeating it changes nothing.

    Raises Unfinished, naming the chunks, when a stage has some that are not; complete stores are closed before.
    Raises ConfigError for a store whose coordinates are not what was written.
    """
    missing: dict[str, list[int]] = {}
    closed: list[str] = []
    for stage in stages_of(root, plan):
        done = stage.ledger.done()
        absent = [chunk.index for chunk in plan.chunks() if chunk.index not in done]
        if absent:
            missing[stage.label] = absent
            continue
        damaged = _coordinate_problems(stage)
        if damaged:
            remedy = f"two runs on one ROOT at once? remove {stage.url} and {stage.ledger.folder}, and run again"
            raise ConfigError("ROOT", root, f"whole stores ({'; '.join(damaged)})", remedy)
        storage.remove_partial(stage.url)
        storage.remove_partial(stage.ledger.folder)
        _close(stage.url, provenance(plan, stage))
        closed.append(stage.url)
    if missing:
        raise Unfinished(missing)
    return closed


def provenance(plan: Plan, stage: Stage) -> dict[str, Any]:
    """Return the global attributes of a finished store: conventions, origin, credits, versions, fingerprints."""
    config, model = plan.config, stage.model
    bins = f"the {config.instrument} grid of {plan.n_pixels} wavelengths"
    ingested = f"spectra of the {config.layout} files normalized onto {bins}"
    records = list(stage.ledger.records().values())
    attributes: dict[str, Any] = {
        "source": f"SDSS {config.release.upper() or 'spectra'}, {config.layout} files",
        "data_release": config.release or "unknown",
        "instrument": config.instrument,
        "history": f"spender-pipeline {pipeline.__version__}: {ingested}",
        "license": LICENSE,
        "acknowledgement": ACKNOWLEDGEMENT,
        "references": REFERENCES,
        "package_versions": _versions(records),
        "schema_version": plan.schema_version,
        "targets_sha256": plan.targets_sha256,
    }
    if model is not None:
        devices = {str(record["device"]) for record in records if "device" in record}
        halved = {int(record["micro_batch"]) for record in records if "micro_batch" in record}
        attributes["history"] += f"; encoded and decoded with the model {model.name}"
        attributes |= {
            "model": model.name,
            "model_sha256": model.sha256,
            "precision": model.precision,
            "micro_batch": model.micro_batch,
            **({"micro_batch_halved_to": min(halved)} if halved else {}),
            "device": ", ".join(sorted(devices)) or "unknown",
        }
    return attributes


def verify(
    root: str, plan: Plan, progress: Callable[[Iterator[list[str]]], Iterator[list[str]]] | None = None
) -> list[str]:
    """Read every chunk again and compare it with its marker's checksums; return what is wrong, one sentence each.

    progress: wraps the iterator over the chunks of all stages, for a progress bar. Also checks the targets
    against the plan and the stores' coordinates against what was written with them.
    """
    problems = _targets_problems(root, plan)
    spectra, *encodings = stages_of(root, plan)
    for stage in (spectra, *encodings):
        problems += _coordinate_problems(stage)
        with ThreadPoolExecutor(_READERS) as pool:
            found = pool.map(partial(_chunk_problems, stage, None if stage is spectra else spectra), plan.chunks())
            for some in progress(found) if progress else found:
                problems += some
    return problems


def repair(root: str, plan: Plan) -> int:
    """Remove the markers of chunks that are not as they should be, so that `run` does them again; return how many.

    The encodings of spectra that are to be ingested anew are done anew by `run` by itself.
    """
    spectra, *encodings = stages_of(root, plan)
    removed = 0
    for stage in (spectra, *encodings):
        done = stage.ledger.done()
        for chunk in plan.chunks():
            if chunk.index in done and _chunk_problems(stage, None if stage is spectra else spectra, chunk):
                stage.ledger.unmark(chunk.index)
                removed += 1
    return removed


def _targets_problems(root: str, plan: Plan) -> list[str]:
    url = storage.join(root, "targets.parquet")
    try:
        rows = targets.read_rows(url, 0, plan.n_spectra)
    except (OSError, ValueError, IndexError) as error:
        return [f"targets: {url} cannot be read ({error})"]
    return [] if targets_sha256(rows) == plan.targets_sha256 else [f"targets: {url} is not what the plan was made for"]


def _coordinate_problems(stage: Stage) -> list[str]:
    try:
        expected = stage.ledger.read_store().get("checksums", {})
    except (OSError, ValueError) as error:
        return [f"{stage.label}: the marker of its store cannot be read ({error})"]
    problems = []
    for name in sorted(expected):
        try:
            array = dataset.open_handle(stage.url).array(name)
            found = dataset.read_chunk(stage.url, [name], 0, array.shape[0])
        except Exception as error:  # Codecs and stores raise what they like for damaged bytes.
            problems.append(f"{stage.label}: coordinate {name} cannot be read ({_reason(error)})")
            continue
        if dataset.checksum(found)[name] != expected[name]:
            problems.append(f"{stage.label}: coordinate {name} is not what was written")
    return problems


def _stale_problems(spectra: Stage, chunk: Chunk, record: Mapping[str, Any], where: str) -> list[str]:
    """Compare what an encoding was made from with what the spectra's marker says now."""
    try:
        present = spectra.ledger.read(chunk.index)["checksums"]
    except (OSError, ValueError, KeyError):
        return []  # told of as the spectra's own problem
    made_from = record.get("spectra_checksums", {})
    stale = any(present.get(name) != value for name, value in made_from.items())
    return [f"{where}: its spectra have been ingested anew since"] if stale else []


def _chunk_problems(stage: Stage, spectra: Stage | None, chunk: Chunk) -> list[str]:
    where = f"{stage.label} chunk {chunk.index}"
    try:
        record = stage.ledger.read(chunk.index)
        expected: dict[str, str] = record["checksums"]
    except FileNotFoundError:
        return [f"{where}: not done"]
    except (OSError, ValueError, KeyError) as error:
        return [f"{where}: its marker cannot be read ({_reason(error)})"]
    names = schema.SPECTRA_VARIABLES if stage.model is None else schema.variables_of(stage.model)
    problems = [f"{where}: its marker has no checksum of {name}" for name in names if name not in expected]
    if spectra is not None:
        problems += _stale_problems(spectra, chunk, record, where)
    for name in sorted(expected):
        try:
            found = dataset.checksum(dataset.read_chunk(stage.url, [name], chunk.start, chunk.stop))[name]
        except Exception as error:  # Codecs and stores raise what they like for damaged bytes.
            problems.append(f"{where}: {name} cannot be read ({_reason(error)})")
            continue
        if found != expected[name]:
            problems.append(f"{where}: {name} is not what was written")
    return problems


def _close(url: str, attributes: dict[str, Any]) -> None:
    """Add attributes to a store's group and consolidate its metadata, unless both are as they should be already."""
    before = storage.read_json(storage.join(url, "zarr.json"))
    wanted = {**before["attributes"], **attributes}
    if before["attributes"] == wanted and before.get("consolidated_metadata") is not None:
        return
    store = storage.zarr_store(url)
    group = zarr.open_group(store, mode="r+", zarr_format=3, use_consolidated=False)
    group.attrs.put(wanted)
    with warnings.catch_warnings():
        # Consolidated metadata is an extension that xarray and zarr both read; we want it, and know.
        warnings.filterwarnings("ignore", "Consolidated metadata is currently not part", ZarrUserWarning)
        zarr.consolidate_metadata(store, zarr_format=3)


def _versions(records: Sequence[Mapping[str, Any]]) -> str:
    """Return the versions that made the numbers, as the chunks' markers have them, as JSON text; several if several."""
    found: dict[str, set[str]] = {}
    for record in records:
        for name, version in record.get("packages", {}).items():
            found.setdefault(name, set()).add(version)
    return json.dumps({name: ", ".join(sorted(versions)) for name, versions in found.items()}, sort_keys=True)


def _named(chunks: Sequence[int], most: int = 8) -> str:
    """Name chunks in a message, the first few of many."""
    text = ", ".join(str(index) for index in chunks[:most])
    more = f" and {len(chunks) - most} more" if len(chunks) > most else ""
    return f"chunk{'s' if len(chunks) > 1 else ''} {text}{more}"


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
