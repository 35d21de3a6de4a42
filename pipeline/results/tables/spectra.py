"""Spectra of a run as FITS that other tools read: one file each, or one for all."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from astropy.io import fits

from pipeline import storage
from pipeline.errors import ConfigError, RefusedError
from pipeline.results.spectrum import FLUX_UNITS, Floats, Spectrum, read_spectra
from pipeline.results.tables.export import Exported
from pipeline.results.tables.files import require_output, whole
from pipeline.results.tables.fits import add_facts, ascii_text, fits_units
from pipeline.results.tables.header import header, header_of_spectra
from pipeline.storage import Place, place
from pipeline.store.root import encode_ledger, ingest_ledger

if TYPE_CHECKING:
    from pipeline.results.run import Run
    from pipeline.results.tables.table import Where
    from pipeline.surveys.survey import Entry

AT_ONCE = 64
"""Spectra that are read at once."""

MOST_IN_ONE = 20_000
"""Spectra that one file holds, which is in memory as a whole."""


def export_spectra(
    root: Place,
    output: Place,
    *,
    model: str | None = None,
    ids: Iterable[Entry] | None = None,
    where: Where | None = None,
    good: bool = False,
) -> Exported:
    """Write spectra with their reconstructions and restframes as FITS.

    root: folder of the run. output: a path or any fsspec URL: a name that ends in .fits gets all of them, another one
    is a folder that gets a file for each. model: its name, needed where a run has several. ids: as `Run.find` takes
    them; else where and good as in `export`. Extension OBSERVED holds wavelength, flux, uncertainty, mask, ivar and
    reconstruction, RESTFRAME wavelength, flux and mask, both in Angstrom and 1e-17 erg s-1 cm-2 Angstrom-1; specutils
    reads each as "tabular-fits". A file of all has a spectrum in each column of these, and the extension TARGETS.
    Spectra that are not done are left out, and counted. Raises ConfigError where no spectrum is chosen, and for more
    than 20,000 in one file.

    >>> export_spectra("s3://bucket/dr17", "galaxies.fits", where="z < 0.01")
    """
    from pipeline.results.run import open_run

    run, url = open_run(root), place(output, "--output")
    rows, left_out = _chosen(run, model, ids, where, good)
    name = url.rstrip("/").rpartition("/")[2]
    if name.lower().endswith(".fits"):
        if len(rows) > MOST_IN_ONE:
            remedy = "name a folder, which gets a file for each spectrum"
            raise ConfigError("--output", len(rows), f"at most {MOST_IN_ONE} spectra in one file", remedy)
        require_output(url)
        with whole(url) as path:
            _write(path, list(_read(run, rows, model)), _facts(run, model))
        return Exported(url, len(rows), left_out)
    if re.search(r"\.[A-Za-z]{1,8}\Z", name):
        raise ConfigError("--output", url, "a name that ends in .fits, or a folder", "spectra are written as FITS")
    facts = _facts(run, model)
    for spectrum in _read(run, rows, model):
        with whole(storage.join(url, file_name(spectrum.target))) as path:
            _write(path, [spectrum], facts)
    return Exported(url, len(rows), left_out)


def file_name(target: str) -> str:
    """Return the name of the file of one spectrum: that of its key, such as 26-266-51602-1.fits."""
    return f"{re.sub(r'[^A-Za-z0-9._-]+', '-', target)}.fits"


def _chosen(
    run: Run, model: str | None, ids: Iterable[Entry] | None, where: Where | None, good: bool
) -> tuple[list[int], int]:
    """Return the rows that are asked for and done, and how many are not done."""
    if ids is None:
        table = run.results(model, where=where, good=good)
        rows = [row for start, stop in table.bounds for row in table.block(start, stop, table.columns[:1])[1].tolist()]
        left_out = table.n_left_out
    else:
        if where is not None or good:
            raise RefusedError("ids", "spectra are chosen by their ids and by a condition", "give one of them")
        named = np.atleast_1d(np.asarray(run.find(ids))).tolist()
        ledger = encode_ledger(run.root, run.plan, run.model(model).name) if run.models else None
        done = (ledger or ingest_ledger(run.root, run.plan)).done()
        rows = [row for row in named if row // run.plan.shard in done]
        left_out = len(named) - len(rows)
    if not rows:
        raise RefusedError("--where", "no spectrum that is done is chosen", "choose others, or run the run first")
    return rows, left_out


def _facts(run: Run, model: str | None) -> dict[str, str]:
    if not run.models:
        return header_of_spectra(run.root, run.plan)
    config = run.model(model)
    done = encode_ledger(run.root, run.plan, config.name).done()
    return header(run.root, run.plan, config, done, {})


def _read(run: Run, rows: Sequence[int], model: str | None) -> Iterator[Spectrum]:
    for start in range(0, len(rows), AT_ONCE):
        yield from read_spectra(run, rows[start : start + AT_ONCE], model)


def _write(path: Path, spectra: Sequence[Spectrum], facts: dict[str, str]) -> None:
    """Write spectra, which share their wavelengths, as the tables of one file."""
    first = spectra[0]
    sigma = [np.where(np.isfinite(each.sigma), each.sigma, np.nan) for each in spectra]
    observed = {
        "wavelength": (first.wavelength, "Angstrom"),
        "flux": (_side_by_side([each.flux for each in spectra]), FLUX_UNITS),
        "uncertainty": (_side_by_side(sigma), FLUX_UNITS),
        "mask": (_side_by_side([each.masked for each in spectra]), ""),
        "ivar": (_side_by_side([each.ivar for each in spectra]), "1e34 erg-2 s2 cm4 Angstrom2"),
        "reconstruction": (_side_by_side([each.reconstruction for each in spectra]), FLUX_UNITS),
    }
    primary = fits.PrimaryHDU()
    add_facts(primary.header, facts)
    tables = [_table("OBSERVED", observed)]
    longest = max(spectra, key=lambda each: len(each.restframe))
    if len(longest.restframe):
        none, nothing = np.full(len(longest.restframe), np.nan), np.ones(len(longest.restframe), np.bool_)
        has = [len(each.restframe) > 0 for each in spectra]
        flux = [each.restframe * each.norm if some else none for each, some in zip(spectra, has, strict=True)]
        mask = [~each.covered if some else nothing for each, some in zip(spectra, has, strict=True)]
        restframe = {
            "wavelength": (longest.wave_rest, "Angstrom"),
            "flux": (_side_by_side(flux), FLUX_UNITS),
            "mask": (_side_by_side(mask), ""),
        }
        tables.append(_table("RESTFRAME", restframe))
    tables.append(_targets(spectra))
    fits.HDUList([primary, *tables]).writeto(path, checksum=True)


def _side_by_side(values: Sequence[Floats] | Sequence[Any]) -> Any:  # noqa: ANN401 - numbers or truth
    """Return the values of one spectrum, shape (L,), or of several, shape (L, N)."""
    return values[0] if len(values) == 1 else np.stack(values, axis=1)


def _table(name: str, columns: dict[str, tuple[Any, str]]) -> fits.BinTableHDU:
    made = []
    for column, (values, unit) in columns.items():
        size = values.shape[1] if values.ndim > 1 else ""
        form = f"{size}{'L' if values.dtype == np.bool_ else 'D'}"
        made.append(fits.Column(name=column, format=form, unit=fits_units(unit) or None, array=values))
    return fits.BinTableHDU.from_columns(made, name=name)


def _targets(spectra: Sequence[Spectrum]) -> fits.BinTableHDU:
    keys = [ascii_text(each.target) for each in spectra]
    classes = [ascii_text(each.object_class) for each in spectra]
    made = fits.BinTableHDU.from_columns(
        [
            fits.Column(name="target", format=f"{max(map(len, keys))}A", array=keys),
            fits.Column(name="class", format=f"{max(1, *map(len, classes))}A", array=classes),
            fits.Column(name="z", format="D", array=[each.z for each in spectra]),
            fits.Column(name="sn_median", format="D", array=[each.sn_median for each in spectra]),
            fits.Column(name="norm", format="D", unit=fits_units(FLUX_UNITS), array=[each.norm for each in spectra]),
            fits.Column(name="quality", format="K", array=[each.quality for each in spectra]),
        ],
        name="TARGETS",
    )
    source = "z_fit of the model" if spectra[0].z_is_fitted else "of the catalog"
    made.header.set("TCOMM3", f"redshift of the restframe, {source}", after="TTYPE3")
    return made
