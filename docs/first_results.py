"""From a finished run to a table, a crossmatch, a stack and a figure: python first_results.py ROOT CATALOG."""

import sys

from astropy.coordinates import SkyCoord
from astropy.table import Table

import pipeline

root, catalog = sys.argv[1:]
run = pipeline.open_run(root)
good = run.good()

pipeline.export(root, "results.fits", where=good)  # one row per spectrum, with units

other = Table.read(catalog)  # a second catalog, with ra and dec in degrees
other["row"] = run.find(position=SkyCoord(other["ra"], other["dec"], unit="deg"), radius=2)
near = other[other["row"] >= 0].to_pandas()
matched = run.table().reset_index().merge(near, on="row", suffixes=("", "_other"))
matched.to_csv("matched.csv", index=False)

stacked = run.stack(by="z", bins=[0, 0.1, 0.2, 0.5], weights="sn_median")
stacked.to_netcdf("stacked.nc", engine="h5netcdf")

brightest = run.table(columns="target,sn_median", where=good).nlargest(6, "sn_median")
run.plot(brightest["target"], "galaxies.png", observed_only=True)
print(f"{good.sum()} good spectra, {len(matched)} matched, {stacked['spectra'].values} stacked")
