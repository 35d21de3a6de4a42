"""What the latents of a run tell: which spectra are odd, and why, and which are alike."""
