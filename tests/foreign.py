"""Files of other programs with labels of a crystal under pressure, written as their programs write them."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from ase import Atoms, units
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator

KBAR = 0.1 * units.GPa
SIGNAL = 0.01  # eV, eV/A, eV/A^3: what a test must see
VOIGT_OF_VASP = [0, 1, 2, 5, 3, 4]  # xx yy zz xy yz zx


def compressed(shift: float = 0.0, strain: np.ndarray | float = 0.0) -> Atoms:
    """Two elements, every component of the stress, and a cell that would expand: its ASE stress is negative."""
    atoms = bulk("Cu", "fcc", a=3.4, cubic=True)
    atoms.symbols[1] = "Al"
    shape = np.array([[1, 0.02, 0.01], [0, 1.01, 0.03], [0, 0, 0.98]]) @ (np.eye(3) + strain)
    atoms.set_cell(atoms.cell.array @ shape, scale_atoms=True)
    atoms.positions[0] += 0.1 + shift
    atoms.calc = EMT()
    results = {name: atoms.calc.get_property(name, atoms) for name in ("energy", "forces", "stress")}
    assert results["stress"][:3].max() < -SIGNAL and np.abs(results["stress"]).min() > 1e-4
    return sorted_by_element(atoms, results)


def sheared() -> list[Atoms]:
    """The same crystal, sheared by 1 % either way in each of three planes: such frames tell the order of stresses."""
    found = []
    for a, b in ((1, 2), (0, 2), (0, 1)):
        for size in (-0.01, 0.01):
            strain = np.zeros((3, 3))
            strain[a, b] = strain[b, a] = size
            found.append(compressed(strain=strain))
    return found


def sorted_by_element(atoms: Atoms, results: dict[str, np.ndarray]) -> Atoms:
    """As VASP wants them."""
    order = np.argsort(atoms.numbers, kind="stable")
    ordered = atoms[order]
    ordered.calc = SinglePointCalculator(ordered, **{**results, "forces": results["forces"][order]})
    return ordered


def rows(values: np.ndarray) -> str:
    return "\n".join(" ".join(f"{x:.12f}" for x in row) for row in np.atleast_2d(values))


def write_ml_ab(folder: Path, frames: list[Atoms]) -> Path:
    rule, line = "*" * 50, "-" * 50
    text = ["1.0 Version", rule]
    for k, atoms in enumerate(frames):
        kbar = (-atoms.get_stress() / KBAR)[VOIGT_OF_VASP]
        kinds = [(s, (np.array(atoms.get_chemical_symbols()) == s).sum()) for s in ("Al", "Cu")]
        sections = [
            ("The number of atom types", "2"),
            ("The number of atoms", str(len(atoms))),
            ("Atom types and atom numbers", "\n".join(f"{s} {n}" for s, n in kinds)),
            ("CTIFOR", "0.002"),
            ("Primitive lattice vectors (ang.)", rows(atoms.cell.array)),
            ("Atomic positions (ang.)", rows(atoms.positions)),
            ("Total energy (eV)", f"{atoms.get_potential_energy():.12f}"),
            ("Forces (eV ang.^-1)", rows(atoms.get_forces())),
            (
                "Stress (kbar)",
                f"{line}\nXX YY ZZ\n{line}\n{rows(kbar[:3])}\n{line}\nXY YZ ZX\n{line}\n{rows(kbar[3:])}",
            ),
        ]
        text += [f"Configuration num.  {k + 1}", "=" * 50]
        text += [part for title, values in sections for part in (title, line, values, "=" * 50)]
        text.append(rule)
    path = folder / "ML_AB"
    path.write_text("\n".join(text) + "\n")
    return path


def write_mtp(folder: Path, frames: list[Atoms]) -> Path:
    text = []
    for atoms in frames:
        types = [("Al", "Cu").index(s) for s in atoms.get_chemical_symbols()]
        table = np.column_stack([np.arange(len(atoms)) + 1, types, atoms.positions, atoms.get_forces()])
        text += [
            "BEGIN_CFG", " Size", f"    {len(atoms)}", " Supercell", rows(atoms.cell.array),
            " AtomData:  id type       cartes_x      cartes_y      cartes_z           fx          fy          fz",
            *(f"{int(row[0])} {int(row[1])} {rows(row[2:])}" for row in table),
            " Energy", f"  {atoms.get_potential_energy():.12f}",
            " PlusStress:  xx          yy          zz          yz          xz          xy",
            rows(-atoms.get_volume() * atoms.get_stress()), " Feature   EFS_by       VASP", "END_CFG", "",
        ]  # fmt: skip
    path = folder / "train.cfg"
    path.write_text("\n".join(text))
    return path


def write_mlearn(
    folder: Path, frames: list[Atoms], order: Sequence[int] = VOIGT_OF_VASP, stress: str = "virial_stress"
) -> Path:
    entries = []
    for atoms in frames:
        sites = [
            {"species": [{"element": symbol, "occu": 1}], "abc": list(scaled)}
            for symbol, scaled in zip(atoms.get_chemical_symbols(), atoms.get_scaled_positions(), strict=True)
        ]
        outputs = {
            "energy": atoms.get_potential_energy(),
            "forces": atoms.get_forces().tolist(),
            stress: (-atoms.get_stress() / KBAR)[list(order)].tolist(),
        }
        structure = {"lattice": {"matrix": atoms.cell.array.tolist()}, "sites": sites}
        entries.append({"structure": structure, "outputs": outputs, "num_atoms": len(atoms), "group": "Strained"})
    path = folder / "training.json"
    path.write_text(json.dumps(entries))
    return path


def write_deepmd(folder: Path, frames: list[Atoms]) -> Path:
    system = folder / "system"
    (system / "set.000").mkdir(parents=True)
    symbols = frames[0].get_chemical_symbols()
    (system / "type.raw").write_text(" ".join(str(("Al", "Cu").index(s)) for s in symbols))
    (system / "type_map.raw").write_text("Al\nCu\n")
    full = [[0, 5, 4], [5, 1, 3], [4, 3, 2]]
    values = {
        "coord": [atoms.positions.ravel() for atoms in frames],
        "box": [atoms.cell.array.ravel() for atoms in frames],
        "energy": [atoms.get_potential_energy() for atoms in frames],
        "force": [atoms.get_forces().ravel() for atoms in frames],
        "virial": [(-atoms.get_volume() * atoms.get_stress()[full]).ravel() for atoms in frames],
    }
    for name, array in values.items():
        np.save(system / "set.000" / f"{name}.npy", np.array(array))
    return folder


def write_nep(folder: Path, frames: list[Atoms]) -> Path:
    text = []
    for atoms in frames:
        virial = -atoms.get_volume() * atoms.get_stress()[[0, 5, 4, 5, 1, 3, 4, 3, 2]]
        text.append(f"{len(atoms)}")
        text.append(
            f'energy={atoms.get_potential_energy():.12f} lattice="{" ".join(map(str, atoms.cell.array.ravel()))}" '
            f'virial="{" ".join(map(str, virial))}" properties=species:S:1:pos:R:3:force:R:3'
        )
        for symbol, position, force in zip(
            atoms.get_chemical_symbols(), atoms.positions, atoms.get_forces(), strict=True
        ):
            text.append(f"{symbol} {rows(position)} {rows(force)}")
    path = folder / "train.xyz"
    path.write_text("\n".join(text) + "\n")
    return path


def write_vasprun(folder: Path, frames: list[Atoms]) -> Path:
    """As little of a vasprun.xml as ASE reads."""

    def varray(name: str, values: np.ndarray) -> str:
        lines = "".join(f"<v> {rows(row)} </v>\n" for row in values)
        return f'<varray name="{name}" >\n{lines}</varray>\n'

    full = [[0, 5, 4], [5, 1, 3], [4, 3, 2]]
    names = "".join(f"<rc><c>{s}</c><c>{('Al', 'Cu').index(s) + 1}</c></rc>" for s in frames[0].get_chemical_symbols())
    text = f"""<?xml version="1.0" encoding="ISO-8859-1"?>
<modeling>
<atominfo><atoms>{len(frames[0])}</atoms><types>2</types>
<array name="atoms"><dimension dim="1">ion</dimension><field type="string">element</field>
<field type="int">atomtype</field><set>{names}</set></array></atominfo>
<kpoints><varray name="kpointlist"><v> 0 0 0 </v></varray><varray name="weights"><v> 1 </v></varray></kpoints>
"""

    def structure(atoms: Atoms, name: str = "") -> str:
        crystal = f"<crystal>{varray('basis', atoms.cell.array)}</crystal>"
        return f"<structure{name}>{crystal}{varray('positions', atoms.get_scaled_positions())}</structure>"

    text += structure(frames[0], ' name="initialpos"')
    for atoms in frames:
        # Forces are derivatives of the free energy, not of its extrapolation to zero smearing.
        free = atoms.get_potential_energy()
        named = {"e_fr_energy": free, "e_wo_entrp": free + 0.2, "e_0_energy": free + 0.1}
        energies = "".join(f'<i name="{name}"> {energy:.12f} </i>' for name, energy in named.items())
        text += "<calculation>" + f"<scstep><energy>{energies}</energy></scstep>" + structure(atoms)
        text += varray("forces", atoms.get_forces()) + varray("stress", -atoms.get_stress()[full] / KBAR)
        text += f"<energy>{energies}</energy></calculation>\n"
    path = folder / "run1" / "vasprun.xml"
    path.parent.mkdir()
    path.write_text(text + "</modeling>\n")
    return folder


def write_outcar(folder: Path, frames: list[Atoms]) -> Path:
    """As little of an OUTCAR as ASE reads."""
    symbols = frames[0].get_chemical_symbols()
    numbers = [symbols.count(s) for s in ("Al", "Cu")]
    text = [" vasp.6.3.2 27Jun22", *2 * [" POTCAR:    PAW_PBE Al 04Jan2001", " POTCAR:    PAW_PBE Cu 22Jun2005"]]
    text += ["   VRHFIN =Al: s2p1", "   VRHFIN =Cu: d10 p1"]
    text += [f"   ions per type =  {numbers[0]} {numbers[1]}", "   ISPIN  =      1    spin polarized calculation?"]
    text += ["   NIONS = 4"]
    for k, atoms in enumerate(frames, 1):
        free, volume = atoms.get_potential_energy(), atoms.get_volume()
        kbar = (-atoms.get_stress() / KBAR)[VOIGT_OF_VASP]
        inverse = np.linalg.inv(atoms.cell.array).T
        text += [f"---------- Iteration    {k}(   1)  ----------"]
        text += ["  FORCE on cell =-STRESS in cart. coord.  units (eV):", "  Direction    XX   YY   ZZ   XY   YZ   ZX"]
        text += [f"  in kB  {rows(kbar)}", f"  volume of cell :  {volume:.4f}"]
        text += ["      direct lattice vectors                 reciprocal lattice vectors"]
        text += [f"  {rows(a)} {rows(b)}" for a, b in zip(atoms.cell.array, inverse, strict=True)]
        text += [" POSITION                                       TOTAL-FORCE (eV/Angst)", "-" * 60]
        text += [f" {rows(x)} {rows(f)}" for x, f in zip(atoms.positions, atoms.get_forces(), strict=True)]
        text += ["-" * 60, "  FREE ENERGIE OF THE ION-ELECTRON SYSTEM (eV)", "  " + "-" * 40]
        text += [f"  free  energy   TOTEN  = {free:.8f} eV", ""]
        text += [f"  energy  without entropy= {free + 0.2:.8f}  energy(sigma->0) = {free + 0.1:.8f}", ""]
    text += [" General timing and accounting informations for this job:"]
    path = folder / "OUTCAR"
    path.write_text("\n".join(text) + "\n")
    return path


def write_espresso(folder: Path, frames: list[Atoms]) -> Path:
    """As little of pw.x' output as ASE reads: the first frame."""
    atoms, alat = frames[0], 7.0
    text = ["     Program PWSCF v.7.2 starts", f"     number of atoms/cell      = {len(atoms)}"]
    text += [
        f"     celldm(1)=   {alat:.6f}  celldm(2)=   0.000000",
        "     crystal axes: (cart. coord. in units of alat)",
    ]
    text += [f"   a({k}) = ( {rows(v / units.Bohr / alat)} )" for k, v in enumerate(atoms.cell.array, 1)]
    text += ["     site n.     atom                  positions (alat units)"]
    text += [
        f"   {k}   {symbol}  tau(   {k}) = (  {rows(x / units.Bohr / alat)}  )"
        for k, (symbol, x) in enumerate(zip(atoms.get_chemical_symbols(), atoms.positions, strict=True), 1)
    ]
    text += ["", f"!    total energy              =  {atoms.get_potential_energy() / units.Ry:.12f} Ry", ""]
    text += ["     Forces acting on atoms (cartesian axes, Ry/au):", ""]
    text += [
        f"     atom    {k} type  1   force = {rows(f / (units.Ry / units.Bohr))}"
        for k, f in enumerate(atoms.get_forces(), 1)
    ]
    pressure = -atoms.get_stress()[[[0, 5, 4], [5, 1, 3], [4, 3, 2]]] / (units.Ry / units.Bohr**3)
    text += ["", "          total   stress  (Ry/bohr**3)                   (kbar)     P=  100.0"]
    text += [f" {rows(row)} {rows(row * 147105.0)}" for row in pressure]
    text += ["", "   JOB DONE.", ""]
    path = folder / "scf.pwo"
    path.write_text("\n".join(text) + "\n")
    return path


WRITERS: dict[str, Callable[[Path, list[Atoms]], Path]] = {
    "ML_AB": write_ml_ab,
    "mtp": write_mtp,
    "mlearn": write_mlearn,
    "deepmd": write_deepmd,
    "nep": write_nep,
    "vasprun.xml": write_vasprun,
    "OUTCAR": write_outcar,
    "espresso": write_espresso,
}
