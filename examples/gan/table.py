"""What `make` found of GaN beside experiment and literature: python table.py FOLDER > FOLDER/table.md"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from typing import Any

import ase.io
import numpy as np

PER_CM = 33.35641  # 1/cm of 1 THz
# Row -> measured or calculated by others, with the numbers of SOURCES.
KNOWN = {
    "a (Å)": "3.1893 [1]; PBEsol 3.1893 [2]",
    "c (Å)": "5.1851 [1]; PBEsol 5.1852 [2]",
    "C11 (GPa)": "390 [3]",
    "C12 (GPa)": "145 [3]",
    "C13 (GPa)": "106 [3]",
    "C33 (GPa)": "398 [3]",
    "C44 (GPa)": "105 [3]",
    "E2 low (1/cm)": "144 [4]; PBEsol 134.6 [2]",
    "A1 (1/cm)": "533 [4]; PBEsol 524.5 [2]",
    "E1 (1/cm)": "561 [4]; PBEsol 551.0 [2]",
    "E2 high (1/cm)": "569 [4]; PBEsol 562.0 [2]",
}
KAPPA = {
    "measured in the plane, bulk crystal": "213 ± 7 [5]",
    "lattice dynamics, PBE, relaxation times": "180.4 [6]",
    "molecular dynamics, neuroevolution potential, force errors extrapolated": "259 [7]",
}
SOURCES = """
1. Sci. Rep. 8 (2018), s41598-018-28328-7, table 1
2. tdep-developers/tdep-tutorials: lattice of FHI-aims, modes of a So3krates potential and TDEP
3. Polian et al., J. Appl. Phys. 79, 3343 (1996), Brillouin scattering
4. Azuhata et al., J. Phys.: Condens. Matter 7, L129 (1995), at 300 K; transversal modes
5. JETP Lett. 112, 112 (2020)
6. phononDB, in matbench-discovery, without splitting of longitudinal modes
7. arXiv:2502.05580 (2025)"""
TEACHER = """
**The labels are those of LAMMPS' GaN.tersoff, and that teacher is not GaN.**
A student can only be as near to experiment as its teacher; how well it learnt, the column of the teacher shows.
Elastic constants at 0 K may be off by 10 to 20 %: the training frames are of displaced atoms; docs/validation.md shows
of a better trained student that it has the teacher's C33 with atoms displaced as at 100 K and above, and not at 0 K."""


BOUNDS = """
Molecular dynamics sees what lives and flies within its runs and boxes, and its error bars say nothing of the rest: the
values of short runs and of small boxes are lower bounds.
What lattice dynamics gives in such a box, by the free paths of its phonons, is a row of the table."""


def read(folder: Path, name: str) -> Any:
    return json.loads(path.read_text(encoding="utf-8")) if (path := folder / name).exists() else {}


def deck_variables(folder: Path) -> str:
    """The relaxed crystal as variables of the decks."""
    crystal = ase.io.read(folder / "physics" / "relaxed.extxyz")
    heights = crystal.get_scaled_positions()[:, 2]
    gaps = np.abs(np.subtract.outer(heights[crystal.numbers == 7], heights[crystal.numbers == 31]))
    gaps = np.minimum(gaps, 1 - gaps)  # 3/8 along a bond, 1/8 to the atoms of the other sublattice
    a, _, c = crystal.cell.lengths()
    return f"--var a={a:.5f} --var c={c:.5f} --var u={gaps[gaps > 0.25].mean():.5f}"


def of_crystal(folder: Path) -> dict[str, float]:
    """What was found, by the rows of KNOWN."""
    values = {name: one["value"] for name, one in read(folder, "physics/physics.json")["quantities"].items()}
    phonons = read(folder, "phonons/phonons.json")
    modes: dict[str, list[float]] = {}
    for name, frequency in zip(phonons["gamma_irreps"], phonons["gamma_THz"], strict=True):
        modes.setdefault(name[:2], []).append(PER_CM * frequency)
    for name, of in modes.items():  # of A1 and E1 the lowest are translations
        values |= {name: max(of), f"{name} low": min(of), f"{name} high": max(of)}
    return {row: values[name] for row in KNOWN if (name := row.rpartition(" (")[0]) in values}


def conductivities(folder: Path) -> list[tuple[str, str]]:
    """Ways and values in W/mK, with error bars where the way has them."""
    rows = []
    found = read(folder, "phonons/phonons.json")["conductivity"]
    for mesh in found["meshes"]:
        for way, name in (("relaxation_time", "relaxation times"), ("direct", "direct")):
            if (values := mesh[f"{way}_W_per_mK"]) is not None:
                text = "{0:.1f} in the plane, {2:.1f} along c".format(*values[0])
                rows.append((f"lattice dynamics, {name}, mesh {'x'.join(map(str, mesh['mesh']))}", text))
    finest = found["meshes"][-1]
    boxes = sorted(int(path.stem) for path in (folder / "nemd").glob("*.txt"))
    for cells in boxes:
        length = 0.1 * cells * of_crystal(folder)["c (Å)"]
        rows.append(
            (f"of that, in a box of {length:.1f} nm with slabs of heat", f"{in_box(finest, length):.2f} along c")
        )
    campaign = read(folder, "green_kubo/campaign.json")
    for one in campaign["crystals"].values():
        for direction, values in one["W_per_mK"].items():
            name = f"Green-Kubo along {direction}, {one['atoms']} atoms, {len(values['seeds'])} seeds, "
            rows.append((f"{name}{one['duration_ps']:.0f} ps", "{:.1f} ± {:.1f}".format(*values["green_kubo"])))
    rows += [(f"Green-Kubo, {name}", f"none: {why}") for name, why in campaign["absent"].items()]
    for cells in boxes:
        *_, (value, error) = re.findall(r"kappa (\S+) \+- (\S+) W/mK", (folder / "nemd" / f"{cells}.txt").read_text())
        rows.append((f"out of equilibrium, {cells} cells along c", f"{float(value):.2f} ± {float(error):.2f}"))
    return rows


def in_box(mesh: dict[str, Any], length: float) -> float:
    """Along c, as molecular dynamics out of equilibrium would see it in a periodic box of a length (nm).

    Slabs cut free paths l to 1/(1/l + 4/length): Schelling, Phillpot, Keblinski, Phys. Rev. B 65, 144306 (2002).
    """
    paths = np.array(mesh["free_paths_nm"])
    carried = np.array(mesh["carried_W_per_mK"])[0, :, 2]
    return float(np.sum(np.diff(carried, prepend=0.0) / (1 + 4 * paths / length)))


def table(folder: Path) -> str:
    teacher = read(folder, "teacher.json").get("tersoff")
    errors = read(folder, "model/report/errors.json") | read(folder, "errors.json")
    lines = [f"# GaN, {folder.name}", *([] if teacher is None else [TEACHER]), ""]
    frames = "test" if "test" in errors else "valid"
    for name in ("energy, means removed", "forces", "stress") if errors else ():
        one = errors[frames][name]
        lines.append(f"* {name}, RMSE on the {frames} frames: {one['rmse']:.3g} {one['unit']}")
    failed = [one["name"] for one in read(folder, "check.json") if one["passed"] is False]
    lines += [f"* checks that fail: {', '.join(failed) or 'none'}", ""]
    lines += ["| crystal at 0 K | found | teacher | known |", "|---|---|---|---|"]
    for row, value in of_crystal(folder).items():
        lines.append(f"| {row} | {value:.5g} | {'' if teacher is None else f'{teacher[row]:.5g}'} | {KNOWN[row]} |")
    lines += ["", "| thermal conductivity at 300 K | W/mK |", "|---|---|"]
    lines += [f"| {name} | {value} |" for name, value in (*conductivities(folder), *KAPPA.items())]
    return "\n".join([*lines, BOUNDS, SOURCES])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--lattice", action="store_true", help="the crystal as variables of the decks instead")
    options = parser.parse_args()
    print(deck_variables(options.folder) if options.lattice else table(options.folder))
