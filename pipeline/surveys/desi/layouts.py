"""Layout: where a target's coadd is in the archive, and how it is read.

Source: the DESI data model's page of DESI_SPECTRO_REDUX/SPECPROD/healpix. Paths are relative to the release root, such
as https://data.desi.lbl.gov/public/dr1 or s3://desidata/dr1.
"""

from __future__ import annotations

from pipeline.spectra.raw import RawSpectrum, WrongSpectrum
from pipeline.surveys.desi.coadd import Coadd, read_coadd
from pipeline.surveys.desi.keys import Ids, ids_of
from pipeline.surveys.desi.parts import parts
from pipeline.surveys.desi.redrock import Redshifts as Found
from pipeline.surveys.desi.redrock import read_redrock
from pipeline.surveys.survey import Layout, Redshifts

PRODUCTION, EARLY = "iron", "fuji"
"""The reductions of DR1 and of EDR; no other release has coadds by pixel."""


def healpix_path(ids: Ids, kind: str) -> str:
    """Return the file of a pixel, relative to the release root. kind: "coadd" or "redrock"."""
    folder = f"spectro/redux/{PRODUCTION}/healpix/{ids.survey}/{ids.program}/{ids.healpix // 100}/{ids.healpix}"
    return f"{folder}/{kind}-{ids.survey}-{ids.program}-{ids.healpix}.fits"


def _of_early_release(path: str) -> str:
    """Name the place of a file in EDR, whose reduction has another name."""
    return path.replace(f"/redux/{PRODUCTION}/", f"/redux/{EARLY}/")


def _spectrum(coadd: Coadd, key: str) -> RawSpectrum:
    """Return a target's spectrum; refuse the file of another pixel. What the file does not say contradicts nothing."""
    ids = ids_of(key)
    said = {"survey": coadd.survey, "program": coadd.program, "healpix": coadd.ids.get("healpix")}
    if any(value not in (None, getattr(ids, name)) for name, value in said.items()):
        words = "-".join(str(value) for value in said.values())
        raise WrongSpectrum(f"the file holds {words}")
    return coadd.spectrum(ids.targetid)


def _redshift(found: Found, key: str) -> tuple[float, float]:
    targetid = ids_of(key).targetid
    if targetid not in found:
        raise WrongSpectrum(f"the redrock file has no TARGETID {targetid}")
    return found[targetid]


LAYOUTS: dict[str, Layout] = {
    # The beginning and three arms of 500 targets are 48 MB; of three such files at once, half a gigabyte.
    "desi-healpix": Layout(
        lambda key: healpix_path(ids_of(key), "coadd"),
        read_coadd,
        _spectrum,
        size=48_000_000,
        at_once=3,
        shared=True,
        places=(_of_early_release,),
        parts=parts,
        requests=5,
        redshifts=Redshifts(lambda key: healpix_path(ids_of(key), "redrock"), read_redrock, _redshift),
    ),
}
"""The layouts by the names that `--layout` takes; the first is the default."""
