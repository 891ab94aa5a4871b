"""LAMMPS' heat flux with the pair style's per-atom virials: what Python gives, on any number of ranks."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from decks import BAR_PER_EV_A3, VOIGT, Bench
from flux_model import SHIFTS, random_model, write_bundle_of
from so3krates.analysis import heat_flux
from so3krates.analysis.heat_flux import PICOSECOND
from so3krates.lammps.run import run_deck
from so3krates.outputs import STANDARD
from so3krates.runtime import Runtime
from so3krates_export.bundle import read_bundle, write_bundle

VIRIAL = 1e-9  # of the largest component
POTENTIAL = 1e-9  # of the flux' potential part
CONVECTIVE = 1e-7  # of its size: LAMMPS and ASE round the unit of mass differently
ASYMMETRY = 0.1  # eV: xy and yx must differ by more to tell them apart
FLUX_SIGNAL = 1.0  # eV A/ps
SAME = 1e-9  # eV/A and A, after STEPS steps with and without virials
STEPS, EVERY = 20, 10
CENTROID = ((0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2), (1, 0), (2, 0), (2, 1))  # position, force component
LARGE_SHIFTS = [-300.0, -100.0]  # eV, Ga and N

COMPUTES = (
    "compute pe all pe/atom\ncompute ke all ke/atom\n"
    "compute centroid all centroid/stress/atom NULL virial\ncompute six all stress/atom NULL virial\n"
    "compute flux all heat/flux ke pe centroid\ncompute sum all reduce sum c_six[*]\n"
    "compute p all pressure NULL virial\ncompute energies all reduce sum c_pe\n"
    "thermo_style custom step pe vol c_energies c_flux[*] c_sum[*] c_p[*]\n"
)
PLAIN = "thermo_style custom step pe\n"


class Frame(NamedTuple):
    """Of one step: thermo output by column, and what was dumped, by atom."""

    thermo: dict[str, float]
    atoms: Atoms
    forces: np.ndarray
    centroid: np.ndarray  # (n, 9) eV, nothing without computes


def crystal() -> Atoms:
    """72 atoms, skewed, in motion."""
    atoms = bulk("GaN", "wurtzite", a=3.19, c=5.19).repeat((3, 3, 2))
    random = np.random.default_rng(0)
    atoms.positions += random.normal(0.0, 0.1, atoms.positions.shape)
    atoms.set_velocities(random.normal(0.0, 8.0 / PICOSECOND, atoms.positions.shape))
    return atoms


def column(log: str, step: int) -> dict[str, float]:
    """Thermo output of one step."""
    lines = [line.split() for line in log.splitlines()]
    (titles,) = [line for line in lines if line[:1] == ["Step"]]
    (values,) = [line for line in lines if line[:1] == [str(step)] and len(line) == len(titles)]
    return dict(zip(titles, map(float, values), strict=True))


def vector(thermo: dict[str, float], name: str, size: int) -> np.ndarray:
    return np.array([thermo[f"c_{name}[{k}]"] for k in range(1, size + 1)])


def run(
    bench: Bench, name: str, computes: str = COMPUTES, options: str = "", ranks: int = 1, steps: int = STEPS
) -> tuple[list[Frame], str]:
    """First and last frame, and the log."""
    atoms = crystal()
    data = bench.write_data(atoms, ("Ga", "N"))
    velocities = atoms.get_velocities() * PICOSECOND
    rows = [f"{1 + k} " + " ".join(repr(float(v)) for v in row) for k, row in enumerate(velocities)]
    data.write_text(data.read_text() + "\nVelocities\n\n" + "\n".join(rows) + "\n")
    dumped = " c_centroid[*]" if computes == COMPUTES else ""
    deck = (
        f'units metal\nbox tilt large\nread_data "{data}"\n{bench.pair(options=f"verbose yes {options}")}'
        f"neighbor 1.0 bin\ntimestep 0.0005\nfix 1 all nve\n{computes}"
        f"thermo {EVERY}\nthermo_modify norm no line one format float %.17g\n"
        f"dump 1 all custom {STEPS} out.dump id x y z vx vy vz fx fy fz{dumped}\n"
        f"dump_modify 1 sort id format float %.17g\nrun {steps}\n"
    )
    folder = bench.folder / name
    log = run_deck(deck, folder, ranks=ranks)
    frames = []
    for text in (folder / "out.dump").read_text().split("ITEM: TIMESTEP\n")[1:]:
        body = text.split("ITEM: ATOMS")[1].splitlines()[1:]
        values = np.array([[float(v) for v in line.split()[1:]] for line in body])
        frame = atoms.copy()
        frame.positions = values[:, :3]
        frame.set_velocities(values[:, 3:6] / PICOSECOND)
        thermo = column(log, int(text.splitlines()[0]))
        frames.append(Frame(thermo, frame, values[:, 6:9], -values[:, 9:] / BAR_PER_EV_A3))
    return frames, log


@pytest.fixture(scope="module")
def bench_of(tmp_path_factory: pytest.TempPathFactory, program_cache: Path) -> Callable[[str], Bench]:
    """Decks with three layers in float64, by body."""
    model, folder, benches = random_model(3), tmp_path_factory.mktemp("flux"), {}

    def bench(body: str = "fused") -> Bench:
        if body not in benches:
            benches[body] = Bench(write_bundle_of(model, body, folder), program_cache, folder)
            # So that ranks find programs compiled.
            Runtime(benches[body].bundle, threads=1, cache=str(program_cache)).evaluate(
                crystal(), [*STANDARD, "atom_virials"]
            )
        return benches[body]

    return bench


def assert_flux(frame: Frame, runtime: Runtime) -> None:
    """Flux and the nine components of every atom are Python's."""
    virials = runtime.evaluate(frame.atoms, ["atom_virials"])["atom_virials"]
    difference = np.abs(virials - virials.swapaxes(1, 2))
    assert min(difference[:, a, b].max() for a, b in CENTROID[3:6]) > ASYMMETRY
    expected = np.stack([virials[:, a, b] for a, b in CENTROID], axis=1)
    assert np.abs(frame.centroid - expected).max() < VIRIAL * np.abs(expected).max()

    flux = heat_flux(frame.atoms, runtime)
    found = vector(frame.thermo, "flux", 6)
    assert np.abs(flux.potential).min() > FLUX_SIGNAL and np.abs(flux.convective).min() > FLUX_SIGNAL
    assert np.abs(found[3:] - flux.convective).max() < CONVECTIVE * np.abs(flux.convective).max()
    potential = found[:3] - found[3:]
    assert np.abs(potential - flux.potential).max() < POTENTIAL * np.abs(flux.potential).max()


@pytest.mark.parametrize(
    ("body", "ranks", "virials"),
    [("fused", 1, "fast"), ("fused", 2, "fast"), ("fused", 4, "fast"), ("xla", 2, "fast"), ("fused", 2, "small")],
)
def test_flux_equals_pythons(bench_of: Callable[[str], Bench], body: str, ranks: int, virials: str) -> None:
    bench = bench_of(body)
    frames, log = run(bench, f"{body}-{ranks}-{virials}", options=f"virials {virials}", ranks=ranks)
    runtime = Runtime(bench.bundle, threads=1, cache=str(bench.cache))
    assert len(frames) == 2
    for frame in frames:
        assert_flux(frame, runtime)
        # Sums of stress/atom are the virial's pressure times volume, with the opposite sign.
        six, pressure = vector(frame.thermo, "sum", 6), vector(frame.thermo, "p", 6)
        assert np.abs(six + pressure * frame.thermo["Volume"]).max() < VIRIAL * np.abs(six).max()
        virial = runtime.evaluate(frame.atoms)["virial"]
        expected = np.array([-virial[a, b] for a, b in VOIGT]) * BAR_PER_EV_A3
        assert np.abs(six - expected).max() < VIRIAL * np.abs(expected).max()
    assert evaluations(log) == (STEPS // EVERY + 1, STEPS + 1)


def evaluations(log: str) -> tuple[int, int]:
    """Evaluations with per-atom virials, and all of them, as the verbose log counts them."""
    (counts,) = re.findall(r"(\d+) of (\d+) evaluations with per-atom virials", log)
    return int(counts[0]), int(counts[1])


def test_virials_only_when_asked_for_and_without_effect_on_the_run(bench_of: Callable[[str], Bench]) -> None:
    with_flux, _ = run(bench_of("fused"), "with")
    without, log = run(bench_of("fused"), "without", PLAIN)
    assert evaluations(log) == (0, STEPS + 1)
    moved = np.abs(without[1].atoms.positions - without[0].atoms.positions)
    assert np.median(moved) > 1e-3  # A
    for found, expected in zip(with_flux, without, strict=True):
        assert np.abs(expected.forces).max() > 1.0
        assert np.abs(found.forces - expected.forces).max() < SAME
        assert np.abs(found.atoms.positions - expected.atoms.positions).max() < SAME
        assert found.thermo["PotEng"] == pytest.approx(expected.thermo["PotEng"], abs=SAME)


def test_shifts_of_energies(bench_of: Callable[[str], Bench]) -> None:
    """`shifts no` takes them out of energies and of the convective flux; large ones are warned of."""
    bench = bench_of("fused")
    bundle = read_bundle(bench.bundle)
    large = Bench(bench.folder / "large.so3k", bench.cache, bench.folder)
    write_bundle(large.bundle, {**bundle.manifest, "energy_shifts": LARGE_SHIFTS}, bundle.tensors)
    atoms = crystal()
    velocities = atoms.get_velocities() * PICOSECOND
    bare = None
    for name, used, options, shifts in (
        ("no", large, "shifts no", [0.0, 0.0]),
        ("small", bench, "", list(SHIFTS.values())),
        ("large", large, "shifts yes", LARGE_SHIFTS),
    ):
        frames, log = run(used, f"shifts-{name}", options=options, steps=0)
        assert ("only add noise to a heat flux" in log) == (name == "large")
        assert ("up to 300 eV" in log) == (name == "large")
        found = frames[0].thermo
        assert found["c_energies"] == pytest.approx(found["PotEng"], rel=1e-12)
        if bare is None:
            bare = found
            python = Runtime(large.bundle, threads=1, cache=str(bench.cache), shifts=False).evaluate(atoms)
            assert bare["PotEng"] == pytest.approx(python["energy"], rel=VIRIAL)
            continue
        constants = np.array([shifts[("Ga", "N").index(symbol)] for symbol in atoms.symbols])
        assert found["PotEng"] - bare["PotEng"] == pytest.approx(constants.sum(), rel=1e-10)
        flux, bare_flux = vector(found, "flux", 6), vector(bare, "flux", 6)
        convective = constants @ velocities
        assert np.abs(convective).min() > FLUX_SIGNAL
        np.testing.assert_allclose(flux[3:] - bare_flux[3:], convective, rtol=1e-7)
        np.testing.assert_allclose(flux[:3] - flux[3:], bare_flux[:3] - bare_flux[3:], rtol=1e-7)


def test_symmetric_stress_in_heat_flux_is_wrong(bench_of: Callable[[str], Bench]) -> None:
    """What docs/heat_flux.md warns of: stress/atom has no antisymmetric part."""
    bench = bench_of("fused")
    frames, _ = run(bench, "six", COMPUTES.replace("heat/flux ke pe centroid", "heat/flux ke pe six"), steps=0)
    flux = heat_flux(frames[0].atoms, Runtime(bench.bundle, threads=1, cache=str(bench.cache)))
    found = vector(frames[0].thermo, "flux", 6)
    potential = found[:3] - found[3:]
    assert np.abs(potential - flux.potential).max() > 1e-2 * np.abs(flux.potential).max()
