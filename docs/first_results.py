"""From a finished run to a table, a crossmatch, a stack and a figure: python first_results.py ROOT CATALOG [MODEL]."""

import sys

from astropy.coordinates import SkyCoord
from astropy.table import Table

import pipeline

root, catalog, *names = sys.argv[1:]
run = pipeline.open_run(root)
model = names[0] if names else run.models[0]
good = run.good(model)

pipeline.export(root, "results.fits", model=model, where=good)  # one row per spectrum, with units

other = Table.read(catalog)  # a second catalog, with ra and dec in degrees
other["row"] = run.find(position=SkyCoord(other["ra"], other["dec"], unit="deg"), radius=2)
near = other[other["row"] >= 0].to_pandas()
matched = run.table(model).reset_index().merge(near, on="row", suffixes=("", "_other"))
matched.to_csv("matched.csv", index=False)

stacked = run.stack(model, by="z", bins=[0, 0.1, 0.2, 0.5], weights="sn_median")
stacked.to_netcdf("stacked.nc", engine="h5netcdf")

brightest = run.table(model, columns="target,sn_median", where=good).nlargest(6, "sn_median")
run.plot(brightest["target"], "galaxies.png", model=model, observed_only=True)
print(f"{good.sum()} good spectra, {len(matched)} matched, {stacked['spectra'].values} stacked")
