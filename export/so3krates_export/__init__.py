"""From a trained model to one file that LAMMPS runs: lowering of the stages and the bundle that holds them."""

from .bundle import Bundle, BundleError, read_bundle, write_bundle

__all__ = ["Bundle", "BundleError", "read_bundle", "write_bundle"]
