"""For analysts: open a run, plot a spectrum, make a batch."""
