"""From a potential and a crystal to all that `so3krates phonons` says."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
from ase import Atoms

from so3krates.checks import Potential
from so3krates.files import make_folder
from so3krates.progress import Callback

from .conductivity import Conductivity, conductivity_of, third_order
from .crystal import MOST_ATOMS, NARROW, WIDE, about_supercell, at_rest, repeats_for
from .expansion import expansion_of
from .forces import digest_of
from .harmonic import Harmonic, force_constants, harmonic_of, save_phonopy
from .packages import PhononsError, require_packages
from .report import Phonons

PARTS = "parts"  # folder of what is kept for a second call


@dataclasses.dataclass(frozen=True)
class ConductivitySettings:
    """How conductivities are found."""

    temperatures: tuple[float, ...] = (300.0,)  # K
    meshes: tuple[float | tuple[int, int, int], ...] = (30.0, 45.0, 60.0)  # lengths in A, or points
    direct: bool = False
    isotopes: bool = True
    repeats: tuple[int, int, int] | None = None  # for third derivatives; None: twice as wide as the cutoff
    pair_cutoff: float | None = None  # A; None: the potential's cutoff
    allow_imaginary: bool = False


def find_phonons(
    path: Path,
    potential: Potential,
    crystal: Atoms,
    folder: Path,
    repeats: tuple[int, int, int] | None = None,
    relax: bool = True,
    born: Path | None = None,
    kappa: ConductivitySettings | None = None,
    expansion: bool = False,
    report: Callback | None = None,
) -> Phonons:
    """Phonons of a crystal that is relaxed first, with what was asked for beside them.

    path: of the potential, whose forces are kept in `folder`. repeats: of the crystal's cell in the supercell; None:
    WIDE cutoffs, where so many atoms are no more than MOST_ATOMS. Raises PhononsError, PhysicsError and WriteError.
    """
    require_packages()
    parts = make_folder(folder / PARTS)
    of = digest_of(path)
    rest = at_rest(potential, crystal, relax)
    size = repeats or _wide(rest.crystal, potential)
    warnings = [*rest.warnings, *about_supercell(rest.crystal, size, potential.cutoff, "--supercell")]
    phonon, asymmetry = force_constants(potential, of, rest.crystal, size, parts, born, report)
    save_phonopy(phonon, folder)
    harmonic = harmonic_of(phonon, asymmetry)
    if harmonic.imaginary is not None:
        warnings.append(
            f"the crystal is not stable: {harmonic.imaginary}; displace its atoms along that mode and relax it anew, "
            "give a larger supercell, or train on such structures"
        )
    found, grown = None, None
    if kappa is not None:
        _require_real(harmonic, kappa.allow_imaginary)
        found = _conductivity(potential, of, rest.crystal, kappa, harmonic, parts, warnings, report)
    if expansion:
        grown = expansion_of(potential, of, rest.crystal, size, parts, born, report)
        warnings += grown.warnings
    return Phonons(rest, size, harmonic, found, grown, tuple(dict.fromkeys(warnings)))


def _wide(crystal: Atoms, potential: Potential) -> tuple[int, int, int]:
    found = repeats_for(crystal, WIDE * potential.cutoff, MOST_ATOMS[potential.precision])
    least = repeats_for(crystal, NARROW * potential.cutoff)
    return found if min(np.subtract(found, least)) >= 0 else least


def _require_real(harmonic: Harmonic, allowed: bool) -> None:
    if harmonic.imaginary is not None and not allowed:
        raise PhononsError(
            f"no conductivity of a crystal that is not stable: {harmonic.imaginary}; look at its bands without "
            "--kappa, give a larger --supercell, or, to leave these modes out, --allow-imaginary"
        )


def _conductivity(
    potential: Potential,
    of: str,
    crystal: Atoms,
    settings: ConductivitySettings,
    harmonic: Harmonic,
    parts: Path,
    warnings: list[str],
    report: Callback | None,
) -> Conductivity:
    repeats = settings.repeats or repeats_for(crystal, NARROW * potential.cutoff)
    cutoff = settings.pair_cutoff or potential.cutoff
    warnings += about_supercell(crystal, repeats, potential.cutoff, "--supercell-kappa")
    made, cells = third_order(potential, of, crystal, repeats, cutoff, harmonic.phonopy, parts, report)
    meshes = tuple(
        conductivity_of(made, mesh, settings.temperatures, settings.isotopes, settings.direct, parts, report)
        for mesh in settings.meshes
    )
    found = Conductivity(settings.temperatures, settings.isotopes, cells, len(made.supercell), cutoff, meshes)
    warnings += found.warnings()
    return found
