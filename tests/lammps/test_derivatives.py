"""Forces and virial are the derivatives of the energy that LAMMPS prints."""

import numpy as np
import pytest
from ase import Atoms
from decks import Bench, lammps_instance, results_of
from structures import structure

STEP = 5e-5  # A
STRAIN = 1e-5
ERROR = 1e-6  # of a central difference, of the largest force or strain derivative
SIGNAL = 0.1  # eV/A and eV


def with_bodies(*kinds: str) -> pytest.MarkDecorator:
    """All kinds with the fused kernels, the last with the portable programs too."""
    cases = [("fused", kind) for kind in kinds] + [("xla", kinds[-1])]
    return pytest.mark.parametrize(("gan_bundle64", "kind"), cases, indirect=["gan_bundle64"])


@with_bodies("triclinic", "tiny", "cluster")
def test_forces(bench64: Bench, gan_cell: Atoms, kind: str) -> None:
    atoms = structure(kind, gan_cell)
    with lammps_instance() as instance:
        instance.commands_string(bench64.deck(atoms) + "run 0\n")
        expected = results_of(instance).forces
        assert np.abs(expected).max() > SIGNAL
        for atom in (0, len(atoms) - 1):
            for axis in range(3):
                energies = []
                for shift in (STEP, -2 * STEP, STEP):
                    move = " ".join(str(shift) if k == axis else "0" for k in range(3))
                    instance.commands_string(
                        f"group one id {1 + atom}\ndisplace_atoms one move {move}\ngroup one delete\nrun 0\n"
                    )
                    energies.append(instance.get_thermo("pe"))
                found = (energies[1] - energies[0]) / (2 * STEP)
                assert found == pytest.approx(expected[atom, axis], abs=ERROR * np.abs(expected).max())


@with_bodies("triclinic", "tiny", "crystal")
def test_virial(bench64: Bench, gan_cell: Atoms, kind: str) -> None:
    """Along the six lower triangular strains: they keep a cell lower triangular."""
    atoms = structure(kind, gan_cell)
    expected = bench64.evaluate(atoms).gradient
    assert np.abs(expected).max() > SIGNAL
    for row, column in ((0, 0), (1, 1), (2, 2), (1, 0), (2, 0), (2, 1)):
        energies = []
        for sign in (1, -1):
            strained, strain = atoms.copy(), np.eye(3)
            strain[row, column] += sign * STRAIN
            strained.set_cell(atoms.cell.array @ strain, scale_atoms=True)
            energies.append(bench64.evaluate(strained).energy)
        found = (energies[0] - energies[1]) / (2 * STRAIN)
        assert found == pytest.approx(expected[row, column], abs=ERROR * np.abs(expected).max())


def test_change_box_agrees_with_the_printed_pressure(bench64: Bench, gan_cell: Atoms) -> None:
    atoms = structure("orthorhombic", gan_cell)
    with lammps_instance() as instance:
        instance.commands_string(bench64.deck(atoms) + "run 0\n")
        expected = np.trace(results_of(instance).gradient)
        assert abs(expected) > SIGNAL
        energies = []
        for factor in (1 + STRAIN, (1 - STRAIN) / (1 + STRAIN)):
            instance.commands_string(
                f"change_box all x scale {factor} y scale {factor} z scale {factor} remap\nrun 0\n"
            )
            energies.append(instance.get_thermo("pe"))
        assert (energies[0] - energies[1]) / (2 * STRAIN) == pytest.approx(expected, rel=ERROR)
