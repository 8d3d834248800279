"""The spectrum of the Hessian from Hessian-vector products: its ends, and its density."""

from flow.spectrum.density import SpectralDensity, spectral_density
from flow.spectrum.eigenpairs import (
    Eigenpairs,
    EigenvaluesNotConverged,
    bottom_eigenvalues,
    eigenpairs,
    preconditioned_sharpness,
    sharpness,
    top_eigenvalues,
)

__all__ = [
    "Eigenpairs",
    "EigenvaluesNotConverged",
    "SpectralDensity",
    "bottom_eigenvalues",
    "eigenpairs",
    "preconditioned_sharpness",
    "sharpness",
    "spectral_density",
    "top_eigenvalues",
]
