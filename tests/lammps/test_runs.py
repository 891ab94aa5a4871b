"""All the ways in which a deck makes steps: run, rerun, minimize, restart, clear, several instances, changing atoms."""

from typing import Any

import numpy as np
import pytest
from ase import Atoms
from decks import Bench, Evaluation, any_body, by_tag, in_lammps_frame, lammps_instance, python_evaluation, results_of
from so3krates.lammps import run_deck
from so3krates.lammps.thermo import read_log
from structures import structure

SAME = 1e-9  # eV and eV/A
DRIFT = 1e-5  # eV/atom/ps
SIGNAL = 0.05  # eV/A
STRAINED = 5.0  # eV, dE/d(strain)
DUMP = "dump frames all custom 5 frames.dump id type x y z fx fy fz\ndump_modify frames sort id format float %.17g\n"


def frames_of(text: str) -> np.ndarray:
    """Rows of a dump as [frames, atoms, columns]."""
    blocks = text.split("ITEM: TIMESTEP")[1:]
    return np.array([[line.split() for line in block.splitlines()[9:]] for block in blocks], dtype=float)


def test_command_line_finds_the_style(bench64: Bench, gan_cell: Atoms) -> None:
    """The program `lmp`, in a process of its own and a folder with a space, has the forces that Python has."""
    atoms = structure("triclinic", gan_cell)
    folder = bench64.folder / "a folder"
    run_deck(bench64.deck(atoms) + DUMP + "run 0\n", folder)
    found = frames_of((folder / "frames.dump").read_text())[0, :, 5:]
    assert np.abs(found).max() > SIGNAL
    assert np.abs(found - python_evaluation(bench64.bundle, atoms).forces).max() < SAME


def test_forces_follow_the_atoms_through_rebuilds(bench64: Bench, gan_cell: Atoms) -> None:
    atoms = structure("crystal", gan_cell)
    with lammps_instance() as instance:
        instance.commands_string(
            bench64.deck(atoms)
            + "neighbor 0.3 bin\nneigh_modify every 1 delay 0\nvelocity all create 2000 7\nfix 1 all nve\nrun 40\n"
        )
        assert instance.get_thermo("step") == 40
        moved = by_tag(instance, "x")
        assert np.abs(moved - atoms.positions).max() > 0.3
        found = results_of(instance)
    atoms.positions = moved
    expected = python_evaluation(bench64.bundle, atoms)
    assert np.abs(found.forces - expected.forces).max() < SAME
    assert found.energy == pytest.approx(expected.energy, abs=SAME * len(atoms))


def test_several_runs_are_one_run(bench64: Bench, gan_cell: Atoms) -> None:
    atoms = structure("tiny", gan_cell)
    ends = []
    for runs in ("run 12\n", "run 5\nrun 0\nrun 7\n", "run 5\nrun 7 pre no\n"):
        with lammps_instance() as instance:
            instance.commands_string(bench64.deck(atoms) + "velocity all create 300 7\nfix 1 all nve\n" + runs)
            ends.append(by_tag(instance, "v"))
    assert np.abs(ends[0]).max() > 1.0
    assert np.abs(ends[1] - ends[0]).max() < SAME
    assert np.abs(ends[2] - ends[0]).max() < SAME


@any_body
@pytest.mark.parametrize("ranks", [1, 2])
def test_rerun_has_the_forces_of_the_run(bench64: Bench, gan_cell: Atoms, ranks: int) -> None:
    atoms = structure("triclinic", gan_cell)
    deck = bench64.deck(atoms)
    run_deck(deck + DUMP + "velocity all create 500 7\nfix 1 all nve\nrun 20\n", bench64.folder)
    expected = frames_of((bench64.folder / "frames.dump").read_text())
    again = deck + DUMP.replace("frames.dump", "again.dump") + "rerun frames.dump dump x y z\n"
    run_deck(again, bench64.folder, ranks=ranks)
    found = frames_of((bench64.folder / "again.dump").read_text())
    assert found.shape == expected.shape == (5, len(atoms), 8)
    assert np.abs(expected[1:, :, 5:] - expected[:-1, :, 5:]).max() > SIGNAL
    assert np.abs(found[:, :, 5:] - expected[:, :, 5:]).max() < SAME


@any_body
def test_minimize(bench64: Bench, gan_cell: Atoms) -> None:
    with lammps_instance() as instance:
        instance.commands_string(bench64.deck(structure("crystal", gan_cell)) + "run 0\n")
        before, force = instance.get_thermo("pe"), np.abs(by_tag(instance, "f")).max()
        instance.command("minimize 0 1e-2 200 1000")
        assert instance.get_thermo("pe") < before - SIGNAL
        assert np.abs(by_tag(instance, "f")).max() < 0.1 * force


@any_body
def test_box_relaxes_to_zero_pressure(bench64: Bench, gan_cell: Atoms) -> None:
    """fix box/relax needs a virial that is the energy's derivative."""
    with lammps_instance() as instance:
        atoms = structure("orthorhombic", gan_cell)
        atoms.set_cell(atoms.cell * 0.98, scale_atoms=True)
        instance.commands_string(bench64.deck(atoms) + "run 0\n")
        before, energy = np.diag(results_of(instance).gradient), instance.get_thermo("pe")
        assert np.abs(before).max() > STRAINED
        instance.commands_string("fix box all box/relax aniso 0.0 vmax 0.01\nminimize 0 1e-4 300 3000\n")
        assert instance.get_thermo("pe") < energy
        assert np.abs(np.diag(results_of(instance).gradient)).max() < 0.01 * np.abs(before).max()


@any_body
def test_clear_and_two_instances(bench64: Bench, gan_cell: Atoms) -> None:
    """Unloading the plugin in one instance leaves the other one alone."""
    atoms = structure("tiny", gan_cell)
    deck = bench64.deck(atoms) + "run 0\n"
    with lammps_instance() as first, lammps_instance() as second:
        first.commands_string(deck)
        second.commands_string(deck)
        expected = results_of(first)
        assert np.abs(expected.forces).max() > SIGNAL
        first.command("clear")
        second.command("run 0")
        assert np.abs(results_of(second).forces - expected.forces).max() < SAME
        first.commands_string(deck)
        assert np.abs(results_of(first).forces - expected.forces).max() < SAME


@pytest.mark.parametrize("writing", ["run 10\nwrite_restart at.10\nrun 10\n", "restart 10 at.*\nrun 20\n"])
def test_restart_continues_to_the_bit(bench32: Bench, gan_cell: Atoms, writing: str) -> None:
    """With right angles and unsorted atoms; else LAMMPS itself rounds or sorts anew at the start of a run."""
    end = (
        "fix 1 all nve\natom_modify sort 0 0\nrestart 10 other.*\ndump 1 all custom 20 {} id x y z vx vy vz fx fy fz\n"
    )
    end += "dump_modify 1 sort id format float %.17g\n"
    deck = bench32.deck(structure("orthorhombic", gan_cell)) + "velocity all create 600 7\n"
    run_deck(deck + end.format("straight.dump") + writing, bench32.folder)
    again = f"read_restart at.10\n{bench32.pair()}neighbor 1.0 bin\ntimestep 0.001\n"
    run_deck(again + end.format("again.dump") + "run 10\n", bench32.folder)
    last = [(bench32.folder / name).read_text().split("ITEM: TIMESTEP")[-1] for name in ("straight.dump", "again.dump")]
    assert last[0].startswith("\n20\n")
    assert last[0] == last[1]


def frame_in_python(bench: Bench, instance: Any) -> Evaluation:
    """Results for the atoms and the box that LAMMPS has now."""
    low, high, xy, yz, xz, *_ = instance.extract_box()
    cell = [[high[0] - low[0], 0, 0], [xy, high[1] - low[1], 0], [xz, yz, high[2] - low[2]]]
    symbols = [("Ga", "N")[kind - 1] for kind in by_tag(instance, "type")]
    return python_evaluation(bench.bundle, Atoms(symbols, by_tag(instance, "x") - low, cell=cell, pbc=True))


def test_box_flips_under_npt(bench64: Bench, gan_cell: Atoms) -> None:
    """Shear stress on a box at the limit of its tilt, which LAMMPS then describes by other vectors."""
    with lammps_instance() as instance:
        instance.commands_string(bench64.deck(structure("triclinic", gan_cell)))
        tilts = []
        instance.commands_string(
            "neighbor 0.5 bin\nneigh_modify every 1 delay 0\nvelocity all create 300 7\n"
            "fix 1 all npt temp 300 300 0.1 xy 3e6 3e6 0.1 x 0 0 0.1 flip yes\n"
        )
        for _ in range(6):
            instance.command("run 5")
            low, high, xy, *_ = instance.extract_box()
            tilts.append(xy / (high[0] - low[0]))
        assert np.abs(np.diff(tilts)).max() > 0.5
        found, expected = results_of(instance), frame_in_python(bench64, instance)
    assert np.abs(found.forces - expected.forces).max() < SAME * max(1.0, np.abs(expected.forces).max())
    assert np.abs(found.gradient - expected.gradient).max() < 100 * SAME


@any_body
def test_atoms_come_and_go_and_change(bench64: Bench, gan_cell: Atoms) -> None:
    """Without a word to the pair style: deleted, created and renamed atoms, and a box that shrinks."""
    atoms = structure("crystal", gan_cell)
    with lammps_instance() as instance:
        instance.commands_string(bench64.deck(atoms) + "run 0\n")
        instance.commands_string("group gone id 1 5 7\ndelete_atoms group gone compress no\nrun 0\n")
        instance.commands_string("set atom 2 type 1\nset atom 3 type 2\nrun 0\n")
        instance.commands_string("create_atoms 2 single 1.2 0.4 0.9\nchange_box all z scale 0.99 remap\nrun 0\n")
        found, expected = results_of(instance), frame_in_python(bench64, instance)
    assert len(expected.forces) == len(atoms) - 2
    assert np.abs(found.forces - expected.forces).max() < SAME * max(1.0, np.abs(expected.forces).max())


@any_body
def test_swapped_types_are_noticed_between_rebuilds(bench64: Bench, gan_cell: Atoms) -> None:
    """fix atom/swap exchanges types without a new list."""
    atoms = structure("crystal", gan_cell)
    deck = bench64.deck(atoms) + "fix swap all atom/swap 1 4 77 1e9 ke no types 1 2\nneigh_modify delay 1000\nrun 3\n"
    with lammps_instance() as instance:
        instance.commands_string(deck)
        types = by_tag(instance, "type")
        found = results_of(instance)
    symbols = [("Ga", "N")[kind - 1] for kind in types]
    assert symbols != list(atoms.symbols)
    expected = python_evaluation(bench64.bundle, Atoms(symbols, atoms.positions, cell=atoms.cell, pbc=True))
    assert found.energy == pytest.approx(expected.energy, abs=SAME * len(atoms))


def test_energy_is_conserved_in_float32(bench32: Bench, gan_cell: Atoms) -> None:
    atoms = in_lammps_frame(gan_cell.repeat((8, 4, 4)))
    assert len(atoms) == 512
    deck = bench32.deck(atoms).replace("threads 1", "threads 2")
    deck += "thermo 5\nthermo_style custom step time temp etotal\nthermo_modify format float %.12g\n"
    deck += "velocity all create 200 7 mom yes\nfix 1 all nve\nrun 150\nrun 350\n"
    run_deck(deck, bench32.folder)
    table = read_log(bench32.folder / "log.lammps")[1]
    assert table["Temp"].mean() > 50
    assert np.ptp(table["TotEng"]) > 0
    slope = np.polyfit(table["Time"], table["TotEng"] / len(atoms), 1)[0]
    assert abs(slope) < DRIFT
