"""A raw spectrum -> flux, ivar, norm and quality on one wavelength grid."""
