"""The potential beside others under pair_style hybrid."""

import re

import numpy as np
import pytest
from ase import Atoms
from decks import Bench, any_body
from structures import structure

SAME = 1e-9  # eV and eV/A
SIGNAL = 0.05  # eV/A
PART = "so3krates threads 1"


def hybrid(bench: Bench, style: str, others: str, elements: str) -> str:
    """Lines of a deck: `style` with the potential for `elements`, then the other styles' lines."""
    first, *rest = others.split("\n")
    return (
        f'pair_style {style} {PART} cache "{bench.cache}" {first}\n'
        f'pair_coeff * * so3krates "{bench.bundle}" {elements}\n' + "\n".join(rest) + "\n"
    )


@pytest.mark.parametrize("newton", ["on", "off"])
def test_overlay_adds_up(bench64: Bench, gan_cell: Atoms, newton: str) -> None:
    atoms = structure("triclinic", gan_cell)
    zbl = "zbl 2.0 3.0\npair_coeff 1 1 zbl 31 31\npair_coeff 1 2 zbl 31 7\npair_coeff 2 2 zbl 7 7"
    alone = bench64.evaluate(atoms)
    other = bench64.evaluate(atoms, pair="pair_style " + re.sub(r"(\d \d) zbl", r"\1", zbl) + "\n")
    both = bench64.evaluate(atoms, pair=hybrid(bench64, "hybrid/overlay", zbl, "Ga N"), newton=newton)
    assert np.abs(alone.forces).max() > SIGNAL and np.abs(other.forces).max() > SIGNAL
    assert np.abs(both.forces - alone.forces - other.forces).max() < SAME
    assert np.abs(both.gradient - alone.gradient - other.gradient).max() < 10 * SAME
    assert np.abs(both.atom_energies - alone.atom_energies - other.atom_energies).max() < SAME
    assert both.energy == pytest.approx(alone.energy + other.energy, abs=SAME * len(atoms))


def test_overlay_of_charges_adds_up(bench64: Bench, gan_cell: Atoms) -> None:
    """With short-range repulsion and point charges, which LAMMPS sums in reciprocal space too.

    By pppm: ewald's energy in a tilted box depends on memory that LAMMPS never set.
    """
    atoms = structure("crystal", gan_cell)
    lines = "zbl 2.0 3.0 coul/long 6.0\npair_coeff 1 1 zbl 31 31\npair_coeff 1 2 zbl 31 7\npair_coeff 2 2 zbl 7 7\n"
    lines += "pair_coeff * * coul/long\nfix charges all property/atom q ghost yes\nset type 1 charge 0.6\n"
    lines += "set type 2 charge -0.6\nkspace_style pppm 1e-4"
    alone = bench64.evaluate(atoms)
    other = bench64.evaluate(atoms, pair=f"pair_style hybrid/overlay {lines}\n")
    both = bench64.evaluate(atoms, pair=hybrid(bench64, "hybrid/overlay", lines, "Ga N"))
    assert np.abs(alone.forces).max() > SIGNAL and np.abs(other.forces).max() > SIGNAL
    assert np.abs(both.forces - alone.forces - other.forces).max() < SAME
    assert np.abs(both.gradient - alone.gradient - other.gradient).max() < 10 * SAME
    assert both.energy == pytest.approx(alone.energy + other.energy, abs=SAME * len(atoms))


@any_body
@pytest.mark.parametrize("style", ["hybrid", "hybrid/overlay"])
@pytest.mark.parametrize("newton", ["on", "off"])
def test_null_leaves_atoms_to_another_style(bench64: Bench, gan_cell: Atoms, style: str, newton: str) -> None:
    """Argon on GaN: the potential sees GaN only, Lennard-Jones has all pairs with argon."""
    gan = structure("cluster", gan_cell)
    argon = Atoms("Ar4", np.array([[0, 0, 0], [3.2, 0, 0], [0, 3.2, 0], [3.2, 3.2, 0.3]]) + gan.positions.mean(axis=0))
    argon.positions[:, 2] += gan.positions[:, 2].max() + 2.2 - argon.positions[:, 2].min()
    atoms = gan[:30] + argon + gan[30:]
    types, argon_only = ("Ga", "Ar", "N"), "\npair_coeff * 2 {0} 0.01 3.0\npair_coeff 2 3 {0} 0.01 3.0\n"

    alone = bench64.evaluate(gan)
    lj = bench64.evaluate(
        atoms,
        types,
        pair="pair_style hybrid lj/cut 6.0\npair_coeff * * none" + argon_only.format("lj/cut"),
    )
    both = bench64.evaluate(
        atoms,
        types,
        newton=newton,
        pair=hybrid(bench64, style, "lj/cut 6.0" + argon_only.format("lj/cut"), "Ga NULL N"),
    )
    expected = lj.forces.copy()
    is_gan = np.array([symbol != "Ar" for symbol in atoms.symbols])
    expected[is_gan] += alone.forces
    assert np.abs(alone.forces).max() > SIGNAL and np.abs(lj.forces[~is_gan]).max() > SIGNAL / 10
    assert np.abs(both.forces - expected).max() < SAME
    assert both.energy == pytest.approx(alone.energy + lj.energy, abs=SAME * len(atoms))
    assert np.abs(both.gradient - alone.gradient - lj.gradient).max() < 10 * SAME


def test_no_atom_of_the_potential(bench64: Bench, gan_cell: Atoms) -> None:
    """A deck may leave the potential without a single atom."""
    atoms = Atoms("Ar2", [[5, 5, 5], [5, 5, 8]], cell=[12, 12, 12], pbc=True)
    pair = hybrid(bench64, "hybrid", "lj/cut 6.0\npair_coeff * 3 lj/cut 0.01 3.0", "Ga N NULL")
    assert bench64.evaluate(atoms, ("Ga", "N", "Ar"), pair=pair).energy < 0
