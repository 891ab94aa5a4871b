"""Forces on many displaced crystals, kept in a file as they come, so that a killed run goes on where it was."""

from __future__ import annotations

import fcntl
import hashlib
import os
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from ase import Atoms

from so3krates.checks import Potential
from so3krates.progress import Callback
from so3krates.shipped import located

from .packages import PhononsError

CHECK = 4  # bytes of a record's checksum


def digest_of(path: str | Path) -> str:
    """Of a bundle, or of the files of a model folder: forces of another potential are none of this one's."""
    path = located(path)
    files = (
        sorted(file for file in path.iterdir() if file.suffix in (".toml", ".safetensors")) if path.is_dir() else [path]
    )
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.name.encode("utf-8", "surrogateescape") if path.is_dir() else b"")
        digest.update(file.read_bytes())
    return digest.hexdigest()


def kept_forces(
    potential: Potential,
    of: str,
    cells: Sequence[Atoms],
    folder: Path,
    stage: str,
    report: Callback | None = None,
) -> np.ndarray:
    """Forces (cells, atoms, 3) in eV/A on structures of one set of atoms.

    of: `digest_of` the potential. They are appended to a file in `folder`, which belongs to this potential and to these
    structures, each with a checksum: what is there already, from a run that was killed at any time, is not computed
    again. Raises PhononsError where another command is at work on the file, and for forces that are not finite.
    """
    digest = hashlib.sha256(of.encode())
    for atoms in cells:
        for array in (atoms.numbers, atoms.cell.array, atoms.positions):
            digest.update(np.ascontiguousarray(array).tobytes())
    path = folder / f"{stage.replace(' ', '-')}-{digest.hexdigest()[:16]}.forces"
    size = cells[0].positions.nbytes
    found = []
    with open(os.open(path, os.O_RDWR | os.O_CREAT, 0o666), "r+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise PhononsError(
                f"{path}: another command is at work on it: wait for it, or give another folder"
            ) from None
        while record := _record(file.read(size + CHECK), size):
            found.append(np.frombuffer(record).reshape(-1, 3))
        file.seek(len(found) * (size + CHECK))
        file.truncate()
        for number in range(len(found), len(cells)):
            forces = np.ascontiguousarray(potential(cells[number]).forces, np.float64)
            if not np.isfinite(forces).all():
                raise PhononsError(f"{stage}: the forces on displaced crystal {number} are not finite")
            content = forces.tobytes()
            file.write(content + zlib.crc32(content).to_bytes(CHECK, "little"))
            file.flush()
            found.append(forces)
            if report is not None:
                report(stage, number + 1, len(cells))
        os.fsync(file.fileno())
    return np.array(found)


def _record(content: bytes, size: int) -> bytes | None:
    """The forces of a record that is whole."""
    whole = len(content) == size + CHECK and zlib.crc32(content[:size]).to_bytes(CHECK, "little") == content[size:]
    return content[:size] if whole else None
