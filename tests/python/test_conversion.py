"""Formats of other programs: energies, forces and the sign and unit of the stress, of a crystal under pressure."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from ase import units
from ase.io import read
from foreign import (
    SIGNAL,
    VOIGT_OF_VASP,
    WRITERS,
    compressed,
    rows,
    sheared,
    write_deepmd,
    write_ml_ab,
    write_mlearn,
    write_mtp,
)
from so3krates.conversion import FORMATS, Source, convert, find_sources, is_cut
from so3krates.data import read_frames
from so3krates.data.errors import DataError
from typer.testing import CliRunner

from so3krates.cli import app  # isort: skip

DIGITS = 1e-6  # what the files are written to


@pytest.mark.parametrize("name", WRITERS)
def test_labels_are_those_that_were_written(name: str, tmp_path: Path) -> None:
    frames = [compressed()] if name == "espresso" else [compressed(), compressed(0.05)]
    if name == "mlearn":
        frames += sheared()
    path = WRITERS[name](tmp_path, frames)
    [source] = find_sources([path])
    assert source.format == name
    found = list(convert(source, ["Al", "Cu"]))
    assert len(found) == len(frames)
    for atoms, expected in zip(found, frames, strict=True):
        assert atoms.get_chemical_symbols() == expected.get_chemical_symbols() and atoms.pbc.all()
        assert abs(expected.get_potential_energy()) > SIGNAL and np.abs(expected.get_forces()).max() > SIGNAL
        np.testing.assert_allclose(atoms.cell.array, expected.cell.array, atol=DIGITS)
        np.testing.assert_allclose(atoms.get_potential_energy(), expected.get_potential_energy(), atol=DIGITS)
        np.testing.assert_allclose(atoms.get_forces(), expected.get_forces(), atol=DIGITS)
        np.testing.assert_allclose(atoms.get_stress(), expected.get_stress(), atol=DIGITS)
        distances = atoms.get_all_distances(mic=True)
        np.testing.assert_allclose(distances, expected.get_all_distances(mic=True), atol=DIGITS)


ORDERS = {"xx yy zz xy yz zx": VOIGT_OF_VASP, "xx yy zz xy xz yz": [0, 1, 2, 5, 4, 3]}


@pytest.mark.parametrize("order", ORDERS)
def test_the_order_of_mlearn_stresses_is_told_by_sheared_crystals(order: str, tmp_path: Path) -> None:
    """The six sets of mlearn have one order or the other; a frame without a cell of other shape beside it has none."""
    frames = [compressed(0.2), *sheared()]
    yz, xz = frames[0].get_stress()[3:5]
    assert abs(yz - xz) > 0.1 * SIGNAL
    [source] = find_sources([write_mlearn(tmp_path, frames, ORDERS[order])])
    for atoms, expected in zip(convert(source), frames, strict=True):
        np.testing.assert_allclose(atoms.get_stress(), expected.get_stress(), atol=DIGITS)
    [source] = find_sources([write_mlearn(tmp_path, frames[:1], ORDERS[order])])
    with pytest.warns(
        UserWarning, match="no stress is taken from 1 of 1 frame, as nothing in the file tells the order"
    ):
        [alone] = convert(source)
    assert set(alone.calc.results) == {"energy", "forces"}


def test_stresses_of_pymatgen_by_other_names_and_shapes(tmp_path: Path) -> None:
    """`stress` as the sets of SNAP have it; a matrix needs no sheared crystal; another shape is refused."""
    frames = [compressed(0.2), *sheared()]
    [source] = find_sources([write_mlearn(tmp_path, frames, stress="stress")])
    for atoms, expected in zip(convert(source), frames, strict=True):
        np.testing.assert_allclose(atoms.get_stress(), expected.get_stress(), atol=DIGITS)
    path = write_mlearn(tmp_path, frames[:1], [0, 1, 2, 3, 4, 5, 5, 4, 3], stress="stress")
    [entry] = json.loads(path.read_text())
    flat = entry["outputs"]["stress"]  # xx yy zz yz xz xy xy xz yz
    entry["outputs"]["stress"] = [[flat[0], *flat[6:8]], [flat[6], flat[1], flat[8]], [*flat[7:9], flat[2]]]
    path.write_text(json.dumps([entry]))
    [atoms] = convert(*find_sources([path]))
    np.testing.assert_allclose(atoms.get_stress(), frames[0].get_stress(), atol=DIGITS)
    path.write_text(json.dumps([entry | {"outputs": {"energy": 0.0, "stress": flat}}]))
    with pytest.raises(DataError, match=r"frame 0: stress has the shape \(9,\): six components or a matrix"):
        list(convert(*find_sources([path])))


def test_runner_data_by_ase(tmp_path: Path) -> None:
    """RuNNer's files hold no stress, and are in Hartree and Bohr."""
    atoms = compressed()
    text = ["begin", *(f"lattice {rows(v / units.Bohr)}" for v in atoms.cell.array)]
    for symbol, x, f in zip(atoms.get_chemical_symbols(), atoms.positions, atoms.get_forces(), strict=True):
        text.append(f"atom {rows(x / units.Bohr)} {symbol} 0.0 0.0 {rows(f / (units.Hartree / units.Bohr))}")
    text += [f"energy {atoms.get_potential_energy() / units.Hartree:.12f}", "charge 0.0", "end"]
    (tmp_path / "input.data").write_text("\n".join(text) + "\n")
    [found] = convert(*find_sources([tmp_path]))
    np.testing.assert_allclose(found.get_forces(), atoms.get_forces(), atol=DIGITS)
    np.testing.assert_allclose(found.get_potential_energy(), atoms.get_potential_energy(), atol=DIGITS)


def test_command_gathers_what_is_in_a_folder(tmp_path: Path) -> None:
    frames = sheared()
    for name in ("ML_AB", "mlearn", "deepmd", "nep"):
        (tmp_path / name).mkdir()
        WRITERS[name](tmp_path / name, frames)
    (tmp_path / "notes.json").write_text('{"no": "frames"}')
    result = CliRunner().invoke(app, ["convert", str(tmp_path), "-o", str(tmp_path / "all.extxyz")])
    assert result.exit_code == 0, result.output
    assert "Wrote 24 frames" in result.output.replace("\n", " ") and "24 with stress" in result.output.replace(
        "\n", " "
    )
    found = read(tmp_path / "all.extxyz", ":")
    assert len(found) == 24
    assert [atoms.info["group"] for atoms in found if "group" in atoms.info] == ["Strained"] * 6
    for atoms, expected in zip(found, 4 * frames, strict=True):
        np.testing.assert_allclose(atoms.get_stress(), expected.get_stress(), atol=DIGITS)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: (folder / "empty").mkdir() or folder / "empty", "nothing that looks like"),
        (lambda folder: folder / "absent", "is not there"),
        (lambda folder: cut(write_mtp(folder, [compressed()]), "END_CFG"), "ends within a frame"),
        (lambda folder: cut(write_ml_ab(folder, [compressed()]), "Stress"), "'stress \\(kbar\\)' is missing"),
        (lambda folder: cut(write_mlearn(folder, [compressed()]), "virial"), "is not JSON|nothing that looks like"),
    ],
)
def test_what_cannot_be_read_is_said(change: Callable[[Path], Path], message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        for source in find_sources([change(tmp_path)]):
            list(convert(source, ["Al", "Cu"]))


def cut(path: Path, word: str) -> Path:
    text = path.read_text()
    path.write_text(text[: text.index(word)])
    return path


def test_bad_choices_are_said(tmp_path: Path) -> None:
    path = write_mtp(tmp_path, [compressed()])
    with pytest.raises(DataError, match=r"numbers its elements: .*--elements Ga,N"):
        list(convert(*find_sources([path])))
    with pytest.raises(DataError, match="atoms of type 1, and only 1 elements"):
        list(convert(*find_sources([path]), ["Al"]))
    with pytest.raises(DataError, match=r"'castep' is not known: give vasprun\.xml"):
        find_sources([path], "castep")
    deepmd = write_deepmd(tmp_path, [compressed()])
    np.save(deepmd / "system/set.000/energy.npy", np.zeros(3))
    with pytest.raises(DataError, match=r"energy.npy has 3 frames, and coord.npy 1"):
        list(convert(*find_sources([deepmd], "deepmd")))
    with pytest.raises(DataError, match="dpdata"):
        list(convert(*find_sources([path], "dpdata:nothing")))


def test_a_run_is_taken_once(tmp_path: Path) -> None:
    """Of a folder of VASP, whose files hold the same frames."""
    frames = [compressed()]
    WRITERS["vasprun.xml"](tmp_path, frames)
    WRITERS["OUTCAR"](tmp_path / "run1", frames)
    path = write_ml_ab(tmp_path, frames)
    path.with_name("ML_ABN").write_bytes(path.read_bytes())
    (tmp_path / "run1" / "vasprun.xml.gz").write_bytes(b"not looked at")
    (tmp_path / "run1" / "OUTCAR.2").write_bytes((tmp_path / "run1" / "OUTCAR").read_bytes())  # of another run
    found = [(source.path.name, source.format) for source in find_sources([tmp_path])]
    assert sorted(found) == [("ML_ABN", "ML_AB"), ("OUTCAR.2", "OUTCAR"), ("vasprun.xml", "vasprun.xml")]


def test_mixed_types_of_deepmd_are_those_of_each_frame(tmp_path: Path) -> None:
    """Frames of unlike compositions and numbers of atoms in one set: -1 is no atom."""
    frames = [compressed(), compressed(0.1)]
    folder = write_deepmd(tmp_path, frames) / "system"
    (folder / "type.raw").write_text("0 0 0 0")
    np.save(folder / "set.000/real_atom_types.npy", np.array([[0, 1, 1, 1], [1, -1, 0, 0]]))
    first, second = convert(*find_sources([folder / "type.raw"], "deepmd"))
    assert first.get_chemical_symbols() == ["Al", "Cu", "Cu", "Cu"]
    assert second.get_chemical_symbols() == ["Cu", "Al", "Al"]
    np.testing.assert_allclose(second.positions, frames[1].positions[[0, 2, 3]], atol=DIGITS)
    np.testing.assert_allclose(second.get_forces(), frames[1].get_forces()[[0, 2, 3]], atol=DIGITS)
    np.save(folder / "set.000/real_atom_types.npy", np.array([[0, 1, 1, 1], [1, -1, 0, 2]]))
    with pytest.raises(DataError, match=r"atoms of type 2, and only the elements Al, Cu"):
        list(convert(*find_sources([folder / "type.raw"], "deepmd")))


@pytest.mark.parametrize("name", ["forces", "stress", "total_energy"])
def test_labels_of_deepmd_by_other_names_are_refused(name: str, tmp_path: Path) -> None:
    folder = write_deepmd(tmp_path, [compressed()]) / "system/set.000"
    own = {"forces": "force", "stress": "virial", "total_energy": "energy"}[name]
    (folder / f"{own}.npy").rename(folder / f"{name}.npy")
    with pytest.raises(DataError, match=rf"has no .* as DeePMD-kit writes it .*, but {name}\.npy"):
        list(convert(*find_sources([tmp_path])))


@pytest.mark.parametrize("name", ["OUTCAR", "vasprun.xml", "espresso"])
def test_runs_one_after_the_other_have_their_own_elements(name: str, tmp_path: Path) -> None:
    """As `cat run-*/OUTCAR` makes them."""
    [source] = find_sources([WRITERS[name](tmp_path, [compressed()])])
    text = source.path.read_text()
    source.path.write_text(text + text.replace("Al", "Ga"))
    first, second = convert(source)
    assert first.get_chemical_symbols() == ["Al", "Cu", "Cu", "Cu"]
    assert second.get_chemical_symbols() == ["Ga", "Cu", "Cu", "Cu"]
    np.testing.assert_array_equal(first.get_forces(), second.get_forces())


UNCONVERGED: dict[str, tuple[str, str]] = {  # what stands in a file, and what is written in its place
    "OUTCAR": ("Iteration    2(   1)", "Iteration    2(   1)\nIteration    2(   2)"),
    "vasprun.xml": ("<scstep>", "<scstep></scstep><scstep>"),
    "espresso": ("!    total", "     convergence NOT achieved after 100 iterations: stopping\n!    total"),
}


@pytest.mark.parametrize("name", UNCONVERGED)
def test_frames_of_unconverged_electrons_are_left_out(name: str, tmp_path: Path) -> None:
    """The second of two; pw.x' writer has one."""
    [source] = find_sources([WRITERS[name](tmp_path, [compressed(), compressed(0.1)])])
    text = source.path.read_text()
    before, after = UNCONVERGED[name]
    place = text.rindex(before)
    changed = text[:place] + text[place:].replace(before, after, 1)
    if name == "espresso":
        source.path.write_text(changed)
        with pytest.raises(DataError, match=r"holds no frame .* whose electrons converged \(1 did not\)"):
            list(convert(source))
        return
    most = "   NELM   =      2;   NELMIN=  2" if name == "OUTCAR" else '<i type="int" name="NELM">     2</i>'
    changed = (
        changed.replace("\n", f"\n{most}\n", 1)
        if name == "OUTCAR"
        else changed.replace("<kpoints>", most + "<kpoints>")
    )
    source.path.write_text(changed)
    with pytest.warns(UserWarning, match=r"electrons of 1 of 2 frames did not converge \(1\): left out"):
        [atoms] = convert(source)
    np.testing.assert_allclose(atoms.get_forces(), compressed().get_forces(), atol=DIGITS)
    if name == "OUTCAR":  # the last of the steps that are allowed was enough
        source.path.write_text(changed.replace("2(   2)", "2(   2)\n aborting loop because EDIFF is reached"))
        assert len(list(convert(source))) == 2


def test_whole_frames_of_a_cut_run_of_pw_are_taken(tmp_path: Path) -> None:
    path = WRITERS["espresso"](tmp_path, [compressed()])
    text = path.read_text().replace("JOB DONE", "")
    path.write_text(text + text[: text.index("atom    3 type")])
    [atoms] = convert(*find_sources([path]))
    np.testing.assert_allclose(atoms.get_forces(), compressed().get_forces(), atol=DIGITS)
    path.write_text(text[: text.index("atom    3 type")])
    with pytest.raises(DataError, match=r"frame 0: cannot be read as espresso .*is the run complete\?"):
        list(convert(*find_sources([path])))


RUNNER = "begin\natom 0 0 0 Al 0 0 0.1 0 0\natom 4 0 0 Cu 0 0 -0.1 0 0\nenergy -1.0\ncharge 0.0\nend\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (RUNNER + RUNNER[: RUNNER.index("atom 4")], "ends within the frame of line 7"),
        (RUNNER.replace("end\n", "") + RUNNER, "line 6: begin within the frame of line 1"),
    ],
)
def test_cut_frames_of_runner_are_refused(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "input.data").write_text(RUNNER)
    assert len(list(convert(*find_sources([tmp_path])))) == 1
    (tmp_path / "input.data").write_text(text)
    with pytest.raises(DataError, match=message):
        list(convert(*find_sources([tmp_path])))


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("PlusStress", "Virial", "has 'virial', whose sign and unit are not known"),
        ("xz          xy", "xz          yx", "PlusStress has the components"),
        (" 0.0", "", r"AtomData: .* is no line of 8 numbers"),
        (" Size\n    4\n", "", "has no atoms"),
    ],
)
def test_entries_of_mtp_that_are_not_understood_are_said(before: str, after: str, message: str, tmp_path: Path) -> None:
    path = write_mtp(tmp_path, [compressed()])
    text = path.read_text()
    assert before in text
    start = text.index("AtomData") if before == " 0.0" else 0
    path.write_text(text[:start] + text[start:].replace(before, after, 1))
    with pytest.raises(DataError, match=message):
        list(convert(*find_sources([path]), ["Al", "Cu"]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda entry: entry["outputs"]["forces"].pop(), r"frame 1: forces has the shape \(3, 3\), expected \(4, 3\)"),
        (lambda entry: entry["outputs"].update(energy=[1.0]), r"frame 1: energy has the shape \(1,\)"),
        (
            lambda entry: entry["structure"]["sites"][0]["species"][0].update(element="Al3+"),
            "frame 1: 'Al3\\+': no symbol",
        ),
    ],
)
def test_entries_of_pymatgen_are_named(change: Callable[[dict], object], message: str, tmp_path: Path) -> None:
    path = write_mlearn(tmp_path, sheared())
    content = json.loads(path.read_text())
    change(content[1])
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match=message):
        list(convert(*find_sources([path])))


def test_a_null_of_json_is_no_label(tmp_path: Path) -> None:
    path = write_mlearn(tmp_path, sheared())
    content = json.loads(path.read_text())
    content[0]["outputs"] |= {"energy": None, "virial_stress": None}
    path.write_text(json.dumps(content))
    first, *others = convert(*find_sources([path]))
    assert set(first.calc.results) == {"forces"} and all("energy" in atoms.calc.results for atoms in others)


def test_of_two_labels_of_the_stress_the_virial_is_that_of_gpumd(tmp_path: Path) -> None:
    path = WRITERS["nep"](tmp_path, [compressed()])
    path.write_text(path.read_text().replace("virial=", 'stress="0 0 0 0 0 0 0 0 0" virial='))
    [atoms] = convert(*find_sources([tmp_path]))
    np.testing.assert_allclose(atoms.get_stress(), compressed().get_stress(), atol=DIGITS)


@pytest.mark.parametrize("name", ["OUTCAR.extxyz", "vasprun.xml.xyz", "POSCAR-all.extxyz.gz"])
def test_what_was_written_is_read_whatever_its_name(name: str, tmp_path: Path) -> None:
    source = WRITERS["OUTCAR"](tmp_path, [compressed()])
    path = tmp_path / name
    result = CliRunner().invoke(app, ["convert", str(source), "-o", str(path)])
    assert result.exit_code == 0, result.output
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(path.read_bytes()))
    [atoms] = read_frames(path)
    np.testing.assert_allclose(atoms.get_forces(), compressed().get_forces(), atol=DIGITS)


def test_a_frame_cut_by_the_next_and_types_below_zero_are_said(tmp_path: Path) -> None:
    path = write_mtp(tmp_path, [compressed(), compressed(0.1)])
    whole = path.read_text()
    for text, message in (
        (whole.replace("END_CFG", "", 1), "BEGIN_CFG within a frame"),
        (whole.replace("\n1 0 ", "\n1 -1 "), "atoms of type -1"),
    ):
        path.write_text(text)
        with pytest.raises(DataError, match=message):
            list(convert(*find_sources([path]), ["Al", "Cu"]))


@pytest.mark.parametrize("name", ["ML_AB", "mtp", "mlearn", "nep", "espresso", "vasprun.xml", "OUTCAR"])
@pytest.mark.parametrize(("packing", "pack"), [(".gz", gzip.compress), (".xz", lzma.compress)])
def test_packed_files_are_read(name: str, packing: str, pack: Callable[[bytes], bytes], tmp_path: Path) -> None:
    [source] = find_sources([WRITERS[name](tmp_path, [compressed()])])
    source.path.with_name(source.path.name + packing).write_bytes(pack(source.path.read_bytes()))
    source.path.unlink()
    [found] = find_sources([tmp_path])
    (atoms,) = convert(found, ["Al", "Cu"])
    np.testing.assert_allclose(atoms.get_forces(), compressed().get_forces(), atol=DIGITS)
    assert not is_cut(found)


@pytest.mark.parametrize("name", ["espresso", "vasprun.xml", "OUTCAR"])
def test_a_run_that_was_cut_is_said(name: str, tmp_path: Path) -> None:
    [source] = find_sources([WRITERS[name](tmp_path, [compressed()])])
    source.path.write_text(source.path.read_text().replace(FORMATS[name].end, "..."))
    result = CliRunner().invoke(app, ["convert", str(source.path), "-o", str(tmp_path / "all.extxyz")])
    said = " ".join(result.output.split())
    assert "was cut, or its program still runs: what it has whole is taken, 1 frame" in said, result.output


def test_an_ml_ab_that_misses_configurations_is_refused(tmp_path: Path) -> None:
    path = write_ml_ab(tmp_path, [compressed(), compressed(0.1)])
    whole = path.read_text()
    head = f"The number of configurations\n{'-' * 50}\n{{}}\n{'*' * 50}\nConfiguration num.  1"
    for count in (2, 5):
        path.write_text(whole.replace("Configuration num.  1", head.format(count), 1))
        if count == 2:
            assert len(list(convert(*find_sources([path])))) == 2
        else:
            with pytest.raises(DataError, match="has 2 of the 5 configurations"):
                list(convert(*find_sources([path])))


@pytest.mark.parametrize("packing", [".gz", ".bz2", ".xz"])
@pytest.mark.parametrize("name", ["ML_AB", "nep", "OUTCAR"])
def test_files_that_are_not_packed_as_named_are_said(name: str, packing: str, tmp_path: Path) -> None:
    [source] = find_sources([WRITERS[name](tmp_path, [compressed()])])
    packed = {".gz": gzip, ".bz2": bz2, ".xz": lzma}[packing].compress(source.path.read_bytes())
    for damaged in (source.path.read_bytes(), packed[:40] + b"\0" * 20 + packed[60:], packed[:-60]):
        path = source.path.with_name(source.path.name + packing)
        path.write_bytes(damaged)
        with pytest.raises(DataError, match=re.escape(path.name)):
            list(convert(*find_sources([path], source.format)))


def test_keys_of_gpumd_count_in_any_case(tmp_path: Path) -> None:
    """A label under another name is not lost without a word."""
    path = tmp_path / "train.xyz"
    text = (
        '1\nLattice="3 0 0 0 3 0 0 0 3" Energy=-2.5 VIRIAL="27 0 0 0 0 0 0 0 0" '
        "Properties=species:S:1:pos:R:3:Force:R:3\nGa 0 0 0 0.1 0.2 0.3\n"
    )
    path.write_text(text)
    (atoms,) = convert(Source(path, "nep"))
    assert atoms.get_potential_energy() == -2.5
    np.testing.assert_array_equal(atoms.get_forces(), [[0.1, 0.2, 0.3]])
    np.testing.assert_allclose(atoms.get_stress(), [-1, 0, 0, 0, 0, 0], atol=1e-12)
    path.write_text(text.replace("Force:R:3", "Force:R:3:energy:R:1").replace("0.3\n", "0.3 7.0\n"))
    (atoms,) = convert(Source(path, "nep"))
    assert atoms.get_potential_energy() == -2.5  # not the column of atoms' own
    path.write_text(text.replace("-2.5", "none"))
    with pytest.raises(DataError, match="frame 0: energy is 'none': a number is read"):
        list(convert(Source(path, "nep")))
    path.write_text(text.replace("Energy=", "dft_energy="))
    with pytest.raises(DataError, match="frame 0: has no energy as GPUMD writes it, but 'dft_energy'"):
        list(convert(Source(path, "nep")))


def test_names_that_are_no_elements_are_said(tmp_path: Path) -> None:
    (tmp_path / "a.cfg").write_text("BEGIN_CFG\nEND_CFG\n")
    with pytest.raises(DataError, match="--elements: 'Nx': no symbol of an element"):
        list(convert(Source(tmp_path / "a.cfg", "mtp"), ("Ga", "Nx")))
