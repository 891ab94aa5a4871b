"""Which formats are known, how a file is recognised, and who reads it."""

from __future__ import annotations

import importlib.util
import json
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import ase.io
import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.stress import full_3x3_to_voigt_6_stress

from ..data.errors import DAMAGED, DataError, unreadable
from ..data.extxyz import extxyz_frames
from ..data.names import candidates
from ..data.tags import NAME_KEY, TAG_KEYS, TEMPERATURE_KEYS
from ..hints import command, pip_install
from ..wording import counted
from .convergence import unconverged
from .deepmd import deepmd_frames
from .ml_ab import ml_ab_frames
from .mlearn import mlearn_frames
from .mtp import mtp_frames
from .runner import require_blocks
from .texts import PACKED, last_lines, require_symbols, runs_of, text_of, unpacked, unpacked_name

VIRIAL = "virial"  # -dE/d(strain) in eV: GPUMD's name in train.xyz, as of other users of extended XYZ
SHOWN = 5  # numbers of frames in a message
LABELS = ("energy", "forces", "stress")
KINDS = (*TAG_KEYS, NAME_KEY, *TEMPERATURE_KEYS)  # entries of a frame that are kept


class Format(NamedTuple):
    """A reader and the names by which its files are found in a folder."""

    what: str
    names: tuple[str, ...]  # patterns of pathlib
    read: Callable[[Path, Sequence[str]], Iterator[Atoms]]
    is_folder: bool = False
    needs_elements: bool = False  # where the file numbers its types
    end: str = ""  # stands near the end of what a program wrote to its end


class Source(NamedTuple):
    """A file, or a folder that is one data set, and its format."""

    path: Path
    format: str


def _by_ase(name: str, head: bytes) -> Callable[[Path, Sequence[str]], Iterator[Atoms]]:
    """head: what the first line of a run begins with."""

    def read(path: Path, elements: Sequence[str]) -> Iterator[Atoms]:
        with unpacked(path) as plain, runs_of(plain, head) as runs:
            for run in runs:
                for atoms in ase.io.iread(str(run), index=":", format=name):
                    results = dict(getattr(atoms.calc, "results", {}))
                    # Forces are derivatives of the free energy, not of its extrapolation to zero smearing.
                    if "free_energy" in results:
                        results["energy"] = results["free_energy"]
                    yield labelled(atoms, results)

    return read


def _runner(path: Path, elements: Sequence[str]) -> Iterator[Atoms]:
    require_blocks(text_of(path).splitlines(), path)
    with unpacked(path) as plain:
        yield from ase.io.iread(str(plain), index=":", format="runnerdata")


def _extxyz(path: Path, elements: Sequence[str]) -> Iterator[Atoms]:
    """Extended XYZ with `energy`, `virial` and `force` in any case, as GPUMD reads and writes them."""
    for number, atoms in enumerate(extxyz_frames(path)):
        results = dict(getattr(atoms.calc, "results", {}))
        entries = {name.lower(): value for name, value in atoms.info.items()}
        columns = {name.lower(): value for name, value in atoms.arrays.items()}
        if "energy" in entries:
            results["energy"] = _number(entries["energy"], f"{path}, frame {number}: energy")
        for name in ("forces", "force"):
            if name in columns:
                results["forces"] = columns[name]
        if "stress" in entries and "stress" not in results:
            results["stress"] = _rows(entries["stress"], f"{path}, frame {number}: stress")
        if VIRIAL in entries:  # which GPUMD takes where both are there
            virial = _rows(entries[VIRIAL], f"{path}, frame {number}: {VIRIAL}")
            if atoms.cell.rank < 3:
                raise DataError(f"{path}, frame {number}: has a {VIRIAL} and no cell (Lattice)")
            results["stress"] = -virial / atoms.get_volume()
        for name in LABELS:
            others = [] if name in results else list(candidates(atoms, name))
            if others:
                raise DataError(
                    f"{path}, frame {number}: has no {name} as GPUMD writes it, but {', '.join(map(repr, others))}: "
                    f"rename it, or train on the file as it is, with the key by {command('so3krates', 'data', path)}"
                )
        yield labelled(atoms, results)


def _number(value: Any, where: str) -> float:
    try:
        return float(value)
    except (TypeError, ValueError) as error:
        raise DataError(f"{where} is {str(value)[:60]!r}: a number is read") from error


def _rows(value: Any, where: str) -> np.ndarray:
    """Six components in ASE's order of nine numbers."""
    try:
        full = np.asarray(value, float).reshape(3, 3)
    except (TypeError, ValueError) as error:
        raise DataError(f"{where} is {str(value)[:60]!r}: nine numbers are read") from error
    return full_3x3_to_voigt_6_stress(0.5 * (full + full.T))


FORMATS: dict[str, Format] = {
    "vasprun.xml": Format("VASP", ("vasprun*.xml",), _by_ase("vasp-xml", b"<?xml"), end="</modeling>"),
    "OUTCAR": Format("VASP", ("OUTCAR*",), _by_ase("vasp-out", b"vasp."), end="General timing and accounting"),
    "ML_AB": Format("VASP's machine-learned force fields", ("ML_AB", "ML_ABN"), ml_ab_frames),
    "espresso": Format(
        "Quantum ESPRESSO, output of pw.x", ("*.pwo",), _by_ase("espresso-out", b"Program PWSCF"), end="JOB DONE"
    ),
    "mtp": Format("MLIP, *.cfg", ("*.cfg",), mtp_frames, needs_elements=True),
    "deepmd": Format("DeePMD-kit, a system of npy files", ("type.raw",), deepmd_frames, is_folder=True),
    "mlearn": Format("pymatgen and mlearn, JSON", ("*.json",), mlearn_frames),
    "runner": Format("RuNNer and n2p2, input.data", ("input.data*",), _runner),
    "nep": Format("GPUMD, train.xyz", ("train.xyz", "test.xyz"), _extxyz),
}
DPDATA = "dpdata:"  # any format of that package, as dpdata:cp2k/output


def find_sources(paths: Iterable[Path], format_name: str | None = None) -> list[Source]:
    """Files and data sets in `paths`; folders are searched through.

    format_name: of FORMATS, or "dpdata:" with one of that package's; None: found by the names of the files.
    Raises DataError for a path that is not there, a format that is not known, or a path in which nothing is found.
    """
    if format_name is not None and format_name not in FORMATS and not format_name.startswith(DPDATA):
        raise DataError(f"format {format_name!r} is not known: give {', '.join(FORMATS)}, or {DPDATA}NAME")
    sources: list[Source] = []
    for path in paths:
        if not path.exists():
            raise DataError(f"{path} is not there")
        if format_name is not None and (not path.is_dir() or format_name.startswith(DPDATA)):
            is_inside = format_name in FORMATS and FORMATS[format_name].is_folder and path.is_file()
            sources.append(Source(path.parent if is_inside else path, format_name))
            continue
        names = [format_name] if format_name is not None else list(FORMATS)
        found = _once(source for name in names for source in _found_in(path, name))
        if not found:
            raise DataError(
                f"{path}: nothing that looks like {', '.join(FORMATS)}. If it is one of these by another name, give "
                "--from FORMAT; what ASE reads is taken by a training as it is"
            )
        sources += sorted(found)
    return list(dict.fromkeys(sources))


def _once(sources: Iterable[Source]) -> list[Source]:
    """Without files that hold again what another in the same folder holds: a run's OUTCAR, an ML_AB that has been
    written anew as ML_ABN, packed copies."""

    def content(source: Source) -> tuple[Path, str]:
        name = unpacked_name(source.path)
        if source.format in ("vasprun.xml", "OUTCAR"):
            name = name.replace("vasprun", "", 1).replace("OUTCAR", "", 1).replace(".xml", "", 1)
        return source.path.parent, "ML_ABN" if name == "ML_AB" else name

    def rank(source: Source) -> tuple[bool, bool, bool]:
        return source.format == "OUTCAR", unpacked_name(source.path) == "ML_AB", source.path.suffix in PACKED

    chosen: dict[tuple[Path, str], Source] = {}
    for source in sorted(dict.fromkeys(sources), key=rank):
        chosen.setdefault(content(source), source)
    return list(chosen.values())


def _found_in(path: Path, name: str) -> Iterator[Source]:
    kind = FORMATS[name]
    patterns = [name + packing for name in kind.names for packing in (("",) if kind.is_folder else ("", *PACKED))]
    files = [path] if path.is_file() else (f for pattern in patterns for f in path.rglob(pattern) if f.is_file())
    for file in files:
        if any(file.match(pattern) for pattern in patterns) and (name != "mlearn" or is_mlearn(file)):
            yield Source(file.parent if kind.is_folder else file, name)


def convert(source: Source, elements: Sequence[str] = ()) -> Iterator[Atoms]:
    """Frames with energy (eV), forces (eV/A) and stress (eV/A^3, ASE's sign) as results, as far as the file has them.

    elements: chemical symbols of the types 0, 1, ... where a file only numbers them.
    Raises DataError, naming file and frame, for what cannot be read.
    """
    if source.format.startswith(DPDATA):
        frames = _by_dpdata(source.path, source.format.removeprefix(DPDATA))
    else:
        kind = FORMATS[source.format]
        require_symbols(elements, "--elements")
        if kind.needs_elements and not elements:
            example = command("so3krates", "convert", source.path, "--elements", "Ga,N", "-o", "frames.extxyz")
            raise DataError(f"{source.path}: numbers its elements: say which they are, as in {example}")
        frames = kind.read(source.path, elements)
    count = 0
    try:
        wrong = unconverged(source.path, source.format)
        for atoms in frames:
            if not len(atoms):
                raise DataError(f"{source.path}, frame {count}: has no atoms")
            results = getattr(atoms.calc, "results", {})
            if not any(name in results for name in LABELS):
                raise DataError(f"{source.path}, frame {count}: has neither energy nor forces: is the run complete?")
            if count not in wrong:
                yield labelled(atoms, results)
            count += 1
    except DataError:
        raise
    except UnicodeDecodeError as error:
        raise unreadable(f"{source.path}, frame {count}", error) from error
    except Exception as error:  # readers of other packages raise what they like
        cut = not isinstance(error, DAMAGED) and is_cut(source)
        if not (cut and count):  # else what comes before the cut is whole
            raise DataError(
                f"{source.path}, frame {count}: cannot be read as {source.format} ({type(error).__name__}: {error})"
                f"{': is the run complete?' if cut else ''}"
            ) from error
    wrong &= set(range(count))
    if count == len(wrong):
        raise DataError(
            f"{source.path}: holds no frame that {source.format} has"
            f"{f' and whose electrons converged ({count} did not)' if wrong else ''}: is the run complete?"
        )
    if wrong:
        first = ", ".join(map(str, sorted(wrong)[:SHOWN])) + ", ..." * (len(wrong) > SHOWN)
        warnings.warn(
            f"{source.path}: the electrons of {len(wrong)} of {counted(count, 'frame')} did not converge ({first}): "
            "left out",
            stacklevel=2,
        )


def is_cut(source: Source) -> bool:
    """Whether a program had not come to its end when it wrote the file: its last frames may be missing."""
    end = FORMATS[source.format].end if source.format in FORMATS else ""
    return bool(end) and not any(end in line for line in last_lines(source.path, 300))


def labelled(atoms: Atoms, results: dict[str, Any]) -> Atoms:
    """The structure alone with these results, and what says of what kind it is."""
    info = {key: atoms.info[key] for key in KINDS if isinstance(atoms.info.get(key), str | float | int)}
    plain = Atoms(atoms.symbols, positions=atoms.positions, cell=atoms.cell, pbc=atoms.pbc, info=info)
    plain.calc = SinglePointCalculator(plain, **{name: results[name] for name in LABELS if name in results})
    return plain


def _by_dpdata(path: Path, name: str) -> Iterator[Atoms]:
    if importlib.util.find_spec("dpdata") is None:
        raise DataError(f"{path}: format dpdata:{name} needs the package dpdata: {pip_install('dpdata')}")
    import dpdata

    system = dpdata.LabeledSystem(str(path), fmt=name)
    yield from system.to("ase/structure")


def is_mlearn(path: Path) -> bool:
    """Whether a JSON file is a list of entries with a structure and its outputs."""
    try:
        content = json.loads(text_of(path))
    except (ValueError, *DAMAGED):
        return False
    if not isinstance(content, list) or not content or not isinstance(content[0], dict):
        return False
    return {"structure", "outputs"} <= content[0].keys()
