"""For analysts: open a run, plot a spectrum, list outliers and neighbors, make a batch."""
