"""The browser view of a run: a map of its spectra, the spectra themselves, selections."""
