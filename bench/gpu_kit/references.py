"""What the kit compares a GPU with: structures, float64 results of the CPU, and each kernel's arguments and results.

Runs where the archive is made; needs the package, and a C++ compiler for the kernels.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ase import Atoms
from ase.build import bulk
from so3krates import _harness
from so3krates.outputs import STANDARD
from so3krates.runtime import Runtime
from so3krates.storage import Model
from so3krates_export.cuda import CALL
from so3krates_export.cuda_body import CudaBody, kernel_call
from so3krates_export.fused import fused_weights
from so3krates_export.lowering import lower
from so3krates_export.plan import Call, build_plan

import bench

from .kernels import in_precision
from .machine import build_stand_in
from .so3lr import COMPARED, OUTPUTS

SKIN = 0.5  # A
DISPLACEMENT = 0.1  # A, standard deviation of every component


def crystal(cells: tuple[int, int, int]) -> Atoms:
    """Disordered wurtzite GaN."""
    atoms = bulk("GaN", "wurtzite", a=3.19, c=5.19).repeat(cells)
    atoms.positions += np.random.default_rng(0).normal(0.0, DISPLACEMENT, atoms.positions.shape)
    return atoms


def cell_arrays(atoms: Atoms, reach: float) -> dict[str, np.ndarray]:
    """Positions and candidate lists as the evaluator takes them, with numbers and cell to make larger ones of them."""
    return bench.host_arrays(atoms, reach + SKIN) | {"numbers": atoms.numbers, "cell": atoms.cell.array}


def water_arrays(atoms: Atoms, model: Model, bundle: Path) -> dict[str, np.ndarray]:
    """A box for SO3LR: lists to the network's cutoff, images as far as long-range pairs, results of the CPU."""
    farthest = max(part.cutoff for part in model.interactions)
    arrays = bench.host_arrays(atoms, farthest + SKIN)
    positions, candidates = arrays["positions"], arrays["candidates"]
    near = np.linalg.norm(positions[candidates] - positions[: len(atoms), None], axis=-1) < model.reach + SKIN
    near &= np.arange(candidates.shape[1]) < arrays["candidate_count"][:, None]
    arrays["candidate_count"] = near.sum(axis=1).astype(np.int32)
    arrays |= {
        "flat_candidates": candidates[near],
        "species": np.array([model.elements.index(s) for s in atoms.symbols], np.int32),
    }
    del arrays["candidates"]
    found = Runtime(bundle, shifts=False).evaluate(atoms, ["energy", "forces", "virial", *OUTPUTS])
    found["strain_gradient"] = -found.pop("virial")
    return arrays | {f"expected_{name}": np.asarray(found[name]) for name in COMPARED}


def expected(atoms: Atoms, bundle: Path) -> dict[str, np.ndarray]:
    """Energy (without shifts), forces, strain gradient and per-atom virials by the CPU, under names of their own."""
    found = Runtime(bundle, shifts=False).evaluate(atoms, [*STANDARD, "atom_virials"])
    names = {"energy": "energy", "energies": "energies", "forces": "forces", "atom_virials": "atom_virials"}
    results = {f"expected_{name}": np.asarray(found[key]) for name, key in names.items()}
    return results | {"expected_virial": np.asarray(found["virial"])}


class _Recorded(NamedTuple):
    name: str
    inputs: tuple[Any, ...]
    outputs: tuple[Any, ...]
    run: Any  # of inputs


class KernelCase(NamedTuple):
    """A kernel alone: for each precision a program of `inputs`, with the types of its results, which float64 on the
    host gives as `outputs`. Inputs are those of float32; in float64 the same values."""

    name: str
    inputs: list[np.ndarray]
    outputs: list[np.ndarray]
    artifacts: dict[str, bytes]
    dtypes: dict[str, list[str]]


def kernel_cases(
    model: Model, cells: tuple[int, int, int], channels: int, precisions: tuple[str, ...]
) -> Iterator[KernelCase]:
    """Every kernel of a tabulated model's schedule, with the arguments that it has there."""
    atoms = crystal(cells)
    single, double = (_recorded(model, atoms, precision, channels) for precision in ("float32", "float64"))
    with jax.enable_x64(True):
        for of_single, of_double in zip(single, double, strict=True):
            given = [np.asarray(a) for a in of_single.inputs]
            outputs = [np.asarray(a) for a in of_double.run(*[in_precision(a, "float64") for a in given])]
            artifacts, dtypes = {}, {}
            for precision in precisions:
                recorded = of_double if precision == "float64" else of_single
                artifacts[precision] = _artifact(recorded.run, [in_precision(a, precision) for a in given])
                dtypes[precision] = [str(output.dtype) for output in recorded.outputs]
            inputs = [a for a in given if a.dtype != np.int64]
            yield KernelCase(of_single.name, inputs, outputs, artifacts, dtypes)


def _artifact(run: Any, given: list[np.ndarray]) -> bytes:
    """The call as a program of its arguments; numbers of 64 bits are constants in it."""
    is_constant = [a.dtype == np.int64 for a in given]

    def function(*arguments: Any) -> Any:
        left = iter(arguments)
        return tuple(run(*[a if fixed else next(left) for a, fixed in zip(given, is_constant, strict=True)]))

    specs = [jax.ShapeDtypeStruct(a.shape, a.dtype) for a, c in zip(given, is_constant, strict=True) if not c]
    return lower(function, specs)


def _recorded(model: Model, atoms: Atoms, precision: str, channels: int) -> list[_Recorded]:
    """The first call of each kernel while a schedule is run operation by operation."""
    config = model.config
    found: dict[str, _Recorded] = {}

    def recording(sizes: str, kernel: str, inputs: tuple[Any, ...], results: list[Any], **launch: int) -> list[Any]:
        outputs = kernel_call(sizes, kernel, inputs, results, **launch)
        run = lambda *given: kernel_call(sizes, kernel, given, results, **launch)  # noqa: E731
        found.setdefault(kernel, _Recorded(kernel, inputs, tuple(outputs), run))
        return outputs

    with jax.enable_x64(True), jax.disable_jit():
        numbers = [jnp.asarray([{"Ga": 31, "N": 7}[e] for e in model.elements])]
        weights = fused_weights(config, model.params, [int(n) for n in numbers[0]])
        body = CudaBody(config, precision, len(model.elements), channels, len(atoms), run=recording)
        plan = build_plan(body, config.layers)
        inputs = bench.host_arrays(atoms, config.cutoff + SKIN)
        sizes = {"rows": len(atoms), "atoms": len(inputs["positions"]), "candidates": inputs["candidates"].shape[1]}
        sizes["neighbours"] = 64
        inputs["species"] = species_of(atoms.numbers, model.elements)
        arrays = {n: jnp.zeros([sizes.get(d, d) for d in a.shape], a.dtype) for n, a in plan.arrays.items()}
        arrays |= {n: jnp.asarray(np.asarray(v, precision)) for n, v in weights.items()}
        arrays |= {n: jnp.asarray(v) for n, v in inputs.items()}
        for step in plan.steps:
            if isinstance(step, Call):
                results = plan.programs[step.program](*[arrays[n] for n in step.inputs])
                arrays.update(zip(step.outputs, results, strict=True))
    return list(found.values())


def species_of(numbers: np.ndarray, elements: tuple[str, ...]) -> np.ndarray:
    """Indices into `elements` of gallium and nitrogen."""
    index = {{"Ga": 31, "N": 7}[element]: k for k, element in enumerate(elements)}
    return np.array([index[int(n)] for n in numbers], np.int32)


@contextmanager
def host_kernels(sources: Path, folder: Path) -> Iterator[None]:
    """The GPU kernels in JAX on the CPU, by the driver in `sources` that runs them on the host."""
    library = build_stand_in(sources, folder)
    names = {"SO3KRATES_CUDA_DRIVER": library, "SO3KRATES_NVRTC": library, "SO3KRATES_CACHE": folder / "cache"}
    before = {name: os.environ.get(name) for name in names}
    os.environ.update({name: str(value) for name, value in names.items()})
    capsule = ctypes.pythonapi.PyCapsule_New
    capsule.restype, capsule.argtypes = ctypes.py_object, (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)
    handler = capsule(_harness.pjrt.cuda_kernel_handler(has_streams=False), None, None)
    jax.ffi.register_ffi_target(CALL, handler, platform="cpu")
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None) if value is None else os.environ.update({name: value})
