"""Groups of tests, by what they are about, and by how long they take."""

from pathlib import Path

TESTS = Path(__file__).resolve().parent
# Words in the path of a test file below this folder, of which one is enough: `make test ARGS="-m ranks"`.
CONCERNS = {
    "bundle": ("array_pickle", "bundle", "committee", "export", "kernel_version", "mlff", "so3lr", "storage"),
    "data": ("conversion", "data", "evaluate", "held_out", "label", "sampling", "selection", "splits", "total_charge"),
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

# Files whose tests are `long`: they run the commands of pages, whole trainings of several processes or by other
# packages, or the GPU's kernels and kit on the CPU. Single tests elsewhere are marked where they stand.
LONG = (
    "docs/test_blocks",
    "docs/test_notebooks",
    "gpu/test_compile",
    "gpu/test_driver",
    "gpu/test_host_kernels",
    "gpu/test_kit",
    "lammps/test_memory",
    "lammps/test_predicted_charges_in_lammps",
    "python/test_campaign",
    "python/test_comparison",
    "python/test_cuda_kernels",
    "python/test_families",
    "python/test_finetuning_so3lr",
    "python/test_gan_recipe",
    "python/test_so3lr_cuda",
    "python/test_training_processes",
)


def concerns(file: Path) -> list[str]:
    """The groups that the tests of a file belong to."""
    path = file.relative_to(TESTS).with_suffix("").as_posix()
    found = [concern for concern, words in CONCERNS.items() if any(word in path for word in words)]
    return [*found, "long"] if path in LONG else found
