"""Small SDSS catalogs for tests: the real one read independently, and made ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from astropy.io import fits as astropy_fits
from astropy.table import MaskedColumn, Table

COLUMNS = ["target", "specobjid", "plate", "mjd", "fiberid", "run2d", "ra", "dec"]
COLUMNS += ["z", "z_err", "zwarning", "class", "sn_median"]
"""Of a targets table of SDSS."""


def real_rows(catalog: Path) -> dict[str, np.ndarray]:
    """The catalog's own columns, read independently: text stripped."""
    with astropy_fits.open(catalog) as hdus:
        data = hdus[1].data
        rows = {name: np.array(data[name]) for name in data.names if name != "THETA"}
    return {
        name: np.char.strip(v) if v.dtype.kind == "U" else v.astype(v.dtype.newbyteorder("="))
        for name, v in rows.items()
    }


def table(**replaced: Any) -> dict[str, Any]:
    rows: dict[str, Any] = {
        "PLATE": [266, 266, 10467],
        "MJD": [51602, 51602, 58138],
        "FIBERID": [9, 1, 636],
        "RUN2D": ["26", "26", "v5_13_2"],
        "Z": [0.1, 0.2, 0.4],
    }
    return {name: values for name, values in (rows | replaced).items() if values is not None}


def csv(folder: Path, name: str = "catalog.csv", **replaced: Any) -> str:
    path = folder / name
    pd.DataFrame(table(**replaced)).to_csv(path, index=False)
    return str(path)


def sdss_v(**replaced: Any) -> dict[str, Any]:
    rows: dict[str, Any] = {
        "FIELD": [101077, 15000, 15000],
        "MJD": [60000, 59146, 59146],
        "CATALOGID": np.array([63050394784953920, 27021597780, 4375924486]),
        "RUN2D": ["v6_1_3"] * 3,
        "FIBERID_LIST": ["17 18", "2", "3"],
        "RACAT": [1.0, 2.0, 3.0],
        "DECCAT": [-1.0, -2.0, -3.0],
        "Z": [0.1, 0.2, 0.3],
        "ZWARNING": [0, 0, 4],
        "SPECOBJID": ["200000000000000000000000000", "7", ""],
    }
    return {name: values for name, values in (rows | replaced).items() if values is not None}


def unsettled(frame: pd.DataFrame, suggested: np.ndarray, has_z: bool) -> tuple[pd.DataFrame, list[str]]:
    """Leave targets as a catalog says them."""
    return frame, []


FORMS = ("csv", "tsv", "semicolons", "spaces", "fits", "parquet", "vot", "ecsv")
"""What `write_as` writes."""


def write_as(form: str, path: Path, rows: dict[str, list[Any]], units: dict[str, str] | None = None) -> str:
    """Write the same rows in some format; None is a missing value, in each format's own way."""
    if form in ("csv", "tsv", "semicolons", "spaces"):
        delimiter = {"csv": ",", "tsv": "\t", "semicolons": ";", "spaces": " "}[form]
        frame = pd.DataFrame({name: pd.Series(values, dtype=object) for name, values in rows.items()})
        frame.to_csv(path, sep=delimiter, index=False, na_rep="null" if form == "spaces" else "")
        return str(path)
    if form == "parquet":
        pq.write_table(pa.table({name: pa.array(values) for name, values in rows.items()}), path)
        return str(path)
    table = Table({name: _masked(values) for name, values in rows.items()})
    for name, unit in (units or {}).items():
        table[name].unit = unit
    table.write(path, format={"fits": "fits", "vot": "votable", "ecsv": "ascii.ecsv"}[form], overwrite=True)
    return str(path)


def _masked(values: list[Any]) -> MaskedColumn:
    present = [value for value in values if value is not None]
    fill: Any = "" if not present or isinstance(present[0], str) else type(present[0])(0)
    return MaskedColumn(
        [fill if value is None else value for value in values], mask=[value is None for value in values]
    )
