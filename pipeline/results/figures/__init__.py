"""Figures of several spectra on a page, and what they share with that of one: colors, texts that fit, smoothing."""
