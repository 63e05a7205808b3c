"""A clamp that lets gradients back in, and maps on eigenvalues."""

from physmodjax.utils.clamp import magic_clamp
from physmodjax.utils.eigenvalues import ensure_positive_imaginary_parts, multiply_eigenvalues

__all__ = ["ensure_positive_imaginary_parts", "magic_clamp", "multiply_eigenvalues"]
