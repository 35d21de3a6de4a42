"""SDSS, BOSS, eBOSS and SDSS-V spectra."""
