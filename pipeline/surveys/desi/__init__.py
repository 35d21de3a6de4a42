"""DESI: coadds and redshifts by healpix pixel, as the releases EDR and DR1 have them."""
