"""What a log says of its runs: units, normalisation, thermostats, minimisations, steps counted anew."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from so3krates import cli
from so3krates.analysis.flux import KCAL_PER_MOL, Columns, FluxError, Reading, read_flux
from so3krates.analysis.log_runs import BATHS, read_runs
from so3krates.lammps import run_deck
from typer.testing import CliRunner

FRAMES, SPACING, TIMESTEP = 40, 10, 0.0005
ATOMS, VOLUME = 108, 5000.0
HEADER = "   Step          Time           Temp          Volume       c_flux[1]      c_flux[2]      c_flux[3]"
METAL = ("units metal", "atom_style atomic", f"Created {ATOMS} atoms", "timestep 0.0005")
NVE = ("fix 1 all nve", "run 400")


@pytest.fixture
def series() -> np.ndarray:
    return np.random.default_rng(3).normal(size=(FRAMES, 3))


def table(flux: np.ndarray, first: int = 0, time: float = TIMESTEP, temperature: float = 300.0) -> list[str]:
    rows = [
        f"{step} {step * time:.10g} {temperature:g} {VOLUME:g} " + " ".join(f"{x:.8g}" for x in frame)
        for step, frame in zip(range(first, 10**9, SPACING), flux, strict=False)
    ]
    return [HEADER, *rows, f"Loop time of 1.0 on 1 procs for {SPACING * (len(flux) - 1)} steps with {ATOMS} atoms"]


def read(folder: Path, *lines: str, runs: tuple[int, ...] = (), columns: Columns | None = None) -> Reading:
    path = folder / "log.lammps"
    path.write_text("\n".join(("LAMMPS (22 Jul 2025)", *lines)) + "\n")
    return read_flux([path], columns, runs)


def assert_flux(found: Reading, flux: np.ndarray, runs: tuple[int, ...]) -> None:
    (trajectory,) = found.trajectories
    assert trajectory.runs == runs
    np.testing.assert_allclose(trajectory.flux, flux, rtol=1e-6)
    assert trajectory.interval == pytest.approx(SPACING * TIMESTEP)
    np.testing.assert_allclose(trajectory.volume, VOLUME)


@pytest.mark.parametrize("norm", ["", "thermo_modify norm no", "thermo_modify flush yes norm yes format float %g"])
@pytest.mark.parametrize("units", ["metal", "real", "si"])
def test_units_and_normalisation(tmp_path: Path, series: np.ndarray, units: str, norm: str) -> None:
    flux = {"metal": 1.0, "real": KCAL_PER_MOL * 1000, "si": 1e-2 / 1.602176634e-19}[units]
    time = {"metal": 1.0, "real": 1e-3, "si": 1e12}[units]
    volume = {"si": 1e-30}.get(units, 1.0)
    printed = series / flux / (ATOMS if "norm yes" in norm else 1)
    lines = [line.replace(f" {VOLUME:g} ", f" {VOLUME * volume:g} ") for line in table(printed, time=TIMESTEP / time)]
    found = read(tmp_path, f"units {units}", "thermo_style custom step", norm, *NVE, *lines)
    assert_flux(found, series, (1,))
    assert len(found.notes) == ("norm yes" in norm)
    assert all(f"taken times {ATOMS} atoms" in note for note in found.notes)


def test_a_kilocalorie_per_mole() -> None:
    assert pytest.approx(0.0433641, rel=1e-5) == KCAL_PER_MOL


@pytest.mark.parametrize(
    ("before", "columns", "message"),
    [
        (("units lj",), None, "units lj, which give no W/mK here"),
        (("units ${u}", "units electron"), None, "units electron"),
        (("create_box 1 box",), None, "units lj"),
        (("units metal", "clear", "units lj"), None, "units lj"),
        (("units real",), Columns(units="metal"), "has units real, as the log says, and not metal"),
    ],
)
def test_units_that_cannot_be_used(
    tmp_path: Path, series: np.ndarray, before: tuple[str, ...], columns: Columns | None, message: str
) -> None:
    with pytest.raises(FluxError, match=message):
        read(tmp_path, *before, *NVE, *table(series), columns=columns)


def test_units_that_nobody_says(tmp_path: Path, series: np.ndarray) -> None:
    found = read(tmp_path, "read_restart a.restart", *NVE, *table(series))
    assert_flux(found, series, (1,))
    assert "does not say its units: read as metal" in found.notes[0]
    found = read(tmp_path, *table(series, time=1000 * TIMESTEP), columns=Columns(units="real"))
    assert_flux(found, series * KCAL_PER_MOL * 1000, (1,))
    assert not found.notes
    with pytest.raises(FluxError, match="--units imperial: give metal, real, si"):
        Columns(units="imperial")


@pytest.mark.parametrize("inputs", ["c_flux[1] c_flux[2] c_flux[3]", "v_jx v_jy v_jz", "c_flux[1] v_jy v_jz", "f_j[*]"])
def test_norm_does_not_divide_what_a_fix_makes_of_variables(tmp_path: Path, series: np.ndarray, inputs: str) -> None:
    """As LAMMPS does it: a variable is not extensive."""
    lines = ("units metal", "thermo_modify norm yes", f"fix j all ave/time 1 1 10 {inputs}", *NVE)
    printed = table(series / (ATOMS if inputs.startswith("c_") else 1))
    columns = Columns(("f_j[1]", "f_j[2]", "f_j[3]"))
    renamed = [line.replace("c_flux", "f_j") for line in printed]
    if inputs in ("c_flux[1] v_jy v_jz", "f_j[*]"):
        with pytest.raises(FluxError, match=r"run 1 prints f_j\[1\] with thermo_modify norm yes.*norm no"):
            read(tmp_path, *lines, *renamed, columns=columns)
    else:
        assert_flux(read(tmp_path, *lines, *renamed, columns=columns), series, (1,))


def test_a_new_thermo_style_takes_norm_back(tmp_path: Path, series: np.ndarray) -> None:
    lines = ("thermo_modify norm yes", "thermo_style custom step time", *NVE)
    assert_flux(read(tmp_path, *METAL, *lines, *table(series)), series, (1,))
    with pytest.raises(FluxError, match=r"per atom \(thermo_modify norm yes\), and the log does not say of how many"):
        read(tmp_path, "units metal", "thermo_modify norm yes", *NVE, *table(series)[:-1])


@pytest.mark.parametrize(
    ("formula", "factor"),
    [
        ("c_flux[1]/vol", VOLUME),
        ('"(c_flux[1]+c_flux[4])/vol"', VOLUME),
        ("c_flux[1] / v_V", VOLUME),
        ("c_flux[1]", 1.0),
    ],
)
def test_flux_by_volume(tmp_path: Path, series: np.ndarray, formula: str, factor: float) -> None:
    lines = [line.replace("c_flux[1]", "v_Jx") for line in table(series / [factor, 1, 1])]
    deck = ("variable V equal vol", f"variable Jx equal {formula}", *NVE)
    columns = Columns(flux=("v_Jx", "c_flux[2]", "c_flux[3]"))
    found = read(tmp_path, *METAL, *deck, *lines, columns=columns)
    assert_flux(found, series, (1,))
    assert len(found.notes) == (factor != 1)
    deck = ("variable Jx equal c_flux[1]/vol*3/temp", *NVE)
    with pytest.raises(FluxError, match="print the flux itself"):
        read(tmp_path, *METAL, *deck, *lines, columns=columns)


@pytest.mark.parametrize(
    "style",
    [
        *("nvt", "npt", "nph", "nvt/omp", "npt/kk", "nvt/sllod", "langevin", "langevin/kk", "temp/berendsen"),
        *("temp/csvr", "temp/rescale", "press/berendsen", "rigid/nvt/small", "nve/limit", "gle", "dt/reset", "deform"),
        *("gjf", "ffl", "bocs", "add/heat", "sgcmc", "mol/swap", "viscosity", "wall/reflect/stochastic"),
    ],
)
def test_runs_in_a_bath_are_left_out(tmp_path: Path, series: np.ndarray, style: str) -> None:
    hot = table(series + 5, temperature=600.0)
    deck = (*METAL, "fix 2 all nve", f"fix bath all {style} 300 300 0.1", "run 400", *hot, "unfix bath", "run 400")
    found = read(tmp_path, *deck, *table(series, first=400))
    assert_flux(found, series, (2,))
    (note,) = found.notes
    assert f"left out run 1 (steps 0 to 390): fix bath all {style} 300 300 0.1 acts on the atoms" in note
    chosen = read(tmp_path, *deck, *table(series, first=400), runs=(1,))
    assert_flux(chosen, series + 5, (1,))
    assert "is used because --runs asks for it" in chosen.notes[0]
    with pytest.raises(FluxError, match="no run at constant energy that prints the flux: run 1"):
        read(tmp_path, *deck[:-2])


@pytest.mark.parametrize(
    "style",
    ["nve", "nve/omp", "momentum", "momentum/chunk", "ave/time", "nve/sphere", "print", "recenter", "wall/reflect"],
)
def test_other_fixes_are_no_baths(style: str) -> None:
    assert not BATHS.match(style)


def test_a_fix_over_several_lines_and_by_variables(tmp_path: Path, series: np.ndarray) -> None:
    bath = ("fix ${id} all nvt & # comment", "  temp 300 300 &", "  0.1", "fix b all nvt   temp 300 300   0.1")
    found = read(tmp_path, *METAL, *bath, "run 400", *table(series + 1), "unfix ${id}", "unfix b", *NVE, *table(series))
    assert_flux(found, series, (2,))
    found = read(tmp_path, *METAL, *bath, "clear", *METAL, *NVE, *table(series))
    assert_flux(found, series, (1,))


@pytest.mark.parametrize("minimise", [("minimize 0 1e-6 100 1000",), ("min_style fire", "minimize 0 1e-6 100 1000")])
def test_minimisations_are_left_out(tmp_path: Path, series: np.ndarray, minimise: tuple[str, ...]) -> None:
    cold = table(0 * series, temperature=0.0)
    found = read(tmp_path, *METAL, *minimise, *cold, "Minimization stats:", *NVE, *table(series))
    assert_flux(found, series, (2,))
    assert "left out run 1 (steps 0 to 390): a minimisation" in found.notes[0]
    with pytest.raises(FluxError, match=r"run 1 .*a minimisation"):
        read(tmp_path, *METAL, *minimise, *cold, runs=(1,))


def test_pieces_at_constant_energy_are_joined(tmp_path: Path, series: np.ndarray) -> None:
    first, second = table(series[:21]), table(series[20:], first=200)
    assert_flux(read(tmp_path, *METAL, *NVE, *first, "run 200", *second), series, (1, 2))
    anew = table(series[20:])
    found = read(tmp_path, *METAL, *NVE, *first, "reset_timestep 0", "run 200", *anew)
    assert_flux(found, series, (1, 2))
    np.testing.assert_array_equal(found.trajectories[0].steps, SPACING * np.arange(FRAMES))
    # Not where something happened in between.
    between = ("fix b all langevin 300 300 0.1 1", "run 200", *table(series[:21] + 9), "unfix b")
    found = read(tmp_path, *METAL, *NVE, *first, *between, "reset_timestep 0", "run 200", *anew)
    assert [trajectory.runs for trajectory in found.trajectories] == [(1,), (3,)]


def test_a_piece_between_two_others_joins_them(tmp_path: Path, series: np.ndarray) -> None:
    parts = {"a": series[:11], "c": series[25:], "b": series[8:28]}
    firsts = {"a": 0, "c": 250, "b": 80}
    paths = []
    for name, flux in parts.items():
        paths.append(tmp_path / name)
        paths[-1].write_text("\n".join((*METAL, *NVE, *table(flux, first=firsts[name]))) + "\n")
    assert_flux(read_flux(paths), series, (1, 1, 1))
    assert_flux(read_flux([*paths, *paths]), series, (1, 1, 1))


def test_the_timestep_of_the_log(tmp_path: Path, series: np.ndarray) -> None:
    lines = [line.replace("Time", "Elapsed") for line in table(series)]
    assert_flux(read(tmp_path, *METAL, *NVE, *lines), series, (1,))
    with pytest.raises(FluxError, match=r"--timestep 0\.001 ps, but the log says 0\.0005"):
        read(tmp_path, *METAL, *NVE, *lines, columns=Columns(timestep=0.001))
    after = ("timestep 0.001", "run 200", *[line.replace("Time", "Elapsed") for line in table(series[20:], first=200)])
    with pytest.raises(FluxError, match="the timestep changes"):
        read(tmp_path, *METAL, *NVE, *lines[:22], "Loop time of 1", *after)


def test_numbers_of_runs(tmp_path: Path, series: np.ndarray) -> None:
    deck = (*METAL, *NVE, *table(series + 1), *NVE, "velocity all scale 300", *table(series, first=5000))
    assert_flux(read(tmp_path, *deck, runs=(2,)), series, (2,))
    with pytest.raises(FluxError, match="has runs 1 to 2, and --runs asks for 3"):
        read(tmp_path, *deck, runs=(2, 3))
    without = [line.replace("c_flux[1]", "PotEng") for line in table(series)]
    with pytest.raises(FluxError, match=r"run 1 of .* has no column c_flux\[1\]; it has Step"):
        read(tmp_path, *METAL, *NVE, *without, *NVE, *table(series), runs=(1, 2))


def test_output_of_the_screen_is_refused(tmp_path: Path, series: np.ndarray) -> None:
    """It has no commands: a run in a bath and fluxes per atom would be taken for whole ones."""
    lines = ("Setting up Verlet run ...", "  Unit style    : real", "  Current step  : 0", "  Time step     : 0.5")
    shown = table(series / KCAL_PER_MOL / 1000, time=1000 * TIMESTEP)
    with pytest.raises(FluxError, match="neither a thermostat nor thermo_modify norm yes can be seen"):
        read(tmp_path, *lines, *shown)
    assert_flux(read(tmp_path, *lines, *shown, runs=(1,)), series, (1,))


DECK = """\
units {units}
atom_style atomic
lattice fcc 5.3
region box block 0 3 0 3 0 3
create_box 1 box
create_atoms 1 box
mass 1 39.948
pair_style lj/cut 8.0
pair_coeff 1 1 {depth} 3.405
compute ke all ke/atom
compute pe all pe/atom
compute virial all stress/atom NULL virial
compute flux all heat/flux ke pe virial
thermo_style custom step time temp vol c_flux[1] c_flux[2] c_flux[3]
thermo 10
thermo_modify norm {norm} format float %.12g
timestep {timestep}
velocity all create 40 1 mom yes
minimize 1e-10 1e-10 50 500
reset_timestep 0
variable T equal 40
fix bath all nvt &
    temp $T $T $(100*dt) # a bath
run 100
unfix bath
fix ensemble all nve
run 100
run 100
reset_timestep 0
run 100
"""


def test_logs_of_lammps(tmp_path: Path) -> None:
    """The same argon in two unit styles, whole and per atom: one flux."""
    cases = {"a": ("metal", "no", KCAL_PER_MOL * 0.24, 0.002), "b": ("real", "yes", 0.24, 2.0)}
    found = {}
    for name, (units, norm, depth, timestep) in cases.items():
        run_deck(DECK.format(units=units, norm=norm, depth=depth, timestep=timestep), tmp_path / name)
        log = tmp_path / name / "log.lammps"
        assert [run.is_minimisation for run in read_runs(log)] == [True, False, False, False, False]
        found[name] = read_flux([log])
        (trajectory,) = found[name].trajectories
        assert trajectory.runs == (3, 4, 5)
        assert (trajectory.steps[0], trajectory.steps[-1]) == (100, 400)
        assert "run 1 (steps 0 to" in found[name].notes[0]
        assert "fix bath all nvt temp 40 40" in found[name].notes[0]
    metal, real = (found[name].trajectories[0] for name in cases)
    size = np.sqrt(np.mean(metal.flux**2))
    assert size > 0.01
    assert np.abs(metal.flux - real.flux).max() < 1e-3 * size
    assert metal.interval == pytest.approx(real.interval)


def test_command(tmp_path: Path) -> None:
    random = np.random.default_rng(5)
    hot, flux = random.normal(size=(2, 4000, 3))
    path = tmp_path / "[1] log.lammps"
    bath = ("fix b all nvt temp 300 300 0.1", "run 1", *table(hot), "unfix b", *NVE)
    path.write_text("\n".join((*METAL, *bath, *table(flux, first=50_000))) + "\n")
    result = CliRunner().invoke(cli.app, ["kappa", str(path), "-o", str(tmp_path / "k"), "--cutoff-time", "0.1"])
    assert result.exit_code == 0, result.output
    assert f"{path}: left out run 1" in result.stdout
    content = json.loads((tmp_path / "k" / "kappa.json").read_text())
    assert content["trajectories"][0]["runs"] == [2]
    assert "left out run 1" in content["notes"][0]
    result = CliRunner().invoke(cli.app, ["kappa", str(path), "-o", str(tmp_path / "k"), "--runs", "two"])
    assert "--runs two: give numbers" in result.stderr
