"""Groups of tests, by what they are about."""

from pathlib import Path

TESTS = Path(__file__).resolve().parent
# Words in the path of a test file below this folder, of which one is enough: `make test ARGS="-m ranks"`.
CONCERNS = {
    "bundle": ("array_pickle", "bundle", "committee", "export", "kernel_version", "mlff", "so3lr", "storage"),
    "data": ("conversion", "data", "evaluate", "label", "sampling", "selection", "splits", "total_charge"),
    "docs": ("docs", "hints", "messages"),
    "flux": ("campaign", "flux", "kappa", "recipe"),
    "gpu": ("gpu/", "cuda"),
    "install": ("cli", "debian", "doctor", "environment", "launchers", "packaging", "planning"),
    "kernels": ("fused", "kernels", "matrix", "pair_potential"),
    "lammps": ("lammps/",),
    "model": (
        "terms",
        "baselines",
        "checks",
        "phonons",
        "physics",
        "shipped",
        "derivatives",
        "model",
        "stages",
        "tables",
    ),
    "ranks": ("launchers", "ranks", "rows"),
    "runtime": ("runtime/", "calculator", "compiled"),
    "training": (
        "predicted_charges",
        "comparison",
        "families",
        "files",
        "finetuning",
        "learning",
        "uncertainty",
        "pair_potential",
        "run_folder",
        "training",
    ),
}


def concerns(file: Path) -> list[str]:
    """The groups that the tests of a file belong to."""
    path = file.relative_to(TESTS).with_suffix("").as_posix()
    return [concern for concern, words in CONCERNS.items() if any(word in path for word in words)]
