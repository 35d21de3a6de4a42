"""Mock spectra and releases of them."""
