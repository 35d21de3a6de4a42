"""Close a run: compare the ledger with the plan, say where everything comes from, consolidate metadata once.

What finalize writes depends on the plan and the markers only - no time, no mirror, no host - so that a resumed run ends
with the same bytes as an undisturbed one.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import zarr
from zarr.errors import ZarrUserWarning

from pipeline import storage
from pipeline.errors import RefusedError, Unfinished
from pipeline.planning.plan import Plan
from pipeline.store.arrays import METADATA
from pipeline.store.stores import Store, made_for, restore, stores_of
from pipeline.store.verify import store_problems
from pipeline.version import __version__

REFERENCES = (
    "doi:10.3847/1538-3881/ace0ff (Melchior et al. 2023), doi:10.3847/1538-3881/ace100 (Liang et al. 2023a), "
    "doi:10.3847/2041-8213/acfa03 (Liang et al. 2023b)"
)


def finalize(root: str, plan: Plan) -> list[str]:
    """Close every store whose chunks are all done; return their URLs. Repeating it changes nothing.

    Raises Unfinished, naming the chunks, when a stage has some that are not; complete stores are closed before.
    Raises ConfigError for a store whose coordinates or descriptions are not what was written.
    """
    missing: dict[str, list[int]] = {}
    closed: list[str] = []
    for store in stores_of(root, plan):
        done = store.ledger.done()
        absent = [shard.index for shard in plan.shards() if shard.index not in done]
        if absent:
            missing[store.label] = absent
            continue
        if not made_for(plan, store):  # an extension was interrupted
            restore(root, plan, store)
        damaged = store_problems(store)
        if damaged:
            remedy = f"spender-pipeline verify {root} --repair, then run"
            raise RefusedError("ROOT", f"{root} is damaged: {'; '.join(damaged)}", remedy)
        storage.remove_partial(store.url)
        storage.remove_partial(store.ledger.folder)
        _close(store.url, provenance(plan, store, done))
        closed.append(store.url)
    if missing:
        raise Unfinished(missing)
    return closed


def provenance(plan: Plan, store: Store, done: Iterable[int]) -> dict[str, Any]:
    """Return the global attributes of a finished store: conventions, origin, credits, versions, fingerprints.

    done: the chunks, all of which have markers.
    """
    config, model, about = plan.config, store.model, plan.survey.provenance
    bins = f"the {config.instrument} grid of {plan.n_pixels} wavelengths"
    ingested = f"spectra of the {config.layout} files normalized onto {bins}"
    records = list(store.ledger.records(done).values())
    attributes: dict[str, Any] = {
        "source": f"{about.title} {config.release.upper() or 'spectra'}, {config.layout} files",
        "data_release": config.release or "unknown",
        "instrument": config.instrument,
        "history": f"spender-pipeline {__version__}: {ingested}",
        "license": about.license,
        "acknowledgement": about.acknowledgement,
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
    if model is not None and store.ledger.stage == "density":
        said = {str(record["density_model_sha256"]) for record in records}
        attributes["history"] += f"; their latents scored with the density {model.density_label}"
        attributes |= {
            "density": model.density_label,
            "density_sha256": model.density_sha256,
            "density_model_sha256": ", ".join(sorted(said)),
        }
    return attributes


def _close(url: str, attributes: dict[str, Any]) -> None:
    """Add attributes to a store's group and consolidate its metadata, unless both are as they should be already."""
    before = storage.read_json(storage.join(url, METADATA))
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
    """Return the versions that made the numbers by the chunks' markers, as JSON text; all of them if they differ."""
    found: dict[str, set[str]] = {}
    for record in records:
        for name, version in record.get("packages", {}).items():
            found.setdefault(name, set()).add(version)
    return json.dumps({name: ", ".join(sorted(versions)) for name, versions in found.items()}, sort_keys=True)
