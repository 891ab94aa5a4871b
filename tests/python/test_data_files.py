"""Files as people have them: read whole or refused by frame and line; labels and cells under other names; faults."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Callable
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.data import atomic_numbers
from so3krates import cli
from so3krates.data import DataError, LabelCheck, LabelKeys, data_report, iter_frames, labels, read_frames
from so3krates.storage import ModelError
from so3krates.training import DataConfig, Demands, evaluated_frames, load_frames, train
from training_runs import make_frames, quiet, settings
from typer.testing import CliRunner

FRAMES, ATOMS = 6, 4
TEXT = 1e-7  # extxyz keeps eight decimals
Blocks = list[list[str]]  # lines of each frame


@pytest.fixture(scope="module")
def frames() -> list[Atoms]:
    return make_frames(FRAMES)


@pytest.fixture(scope="module")
def blocks(frames: list[Atoms], tmp_path_factory: pytest.TempPathFactory) -> Blocks:
    path = tmp_path_factory.mktemp("files") / "a.extxyz"
    ase.io.write(path, frames)
    lines = path.read_text().splitlines()
    return [lines[n : n + ATOMS + 2] for n in range(0, len(lines), ATOMS + 2)]


def write(path: Path, blocks: Blocks, between: str = "") -> Path:
    path.write_text(between.join("\n".join(block) + "\n" for block in blocks))
    return path


def changed(blocks: Blocks, frame: int, line: int, change: Callable[[str], str]) -> Blocks:
    """The blocks with another line in one frame; line 0 is the number of atoms."""
    copy = [list(block) for block in blocks]
    copy[frame][line] = change(copy[frame][line])
    return copy


def entry(blocks: Blocks, frame: int, atom: int, column: int, value: str) -> Blocks:
    """The blocks with another entry of an atom's line."""

    def change(line: str) -> str:
        words = line.split()
        words[column] = value
        return " ".join(words)

    return changed(blocks, frame, atom + 2, change)


def renamed(blocks: Blocks, **names: str) -> Blocks:
    """The blocks with other names of keys and columns."""
    copy = [list(block) for block in blocks]
    for block in copy:
        for old, new in names.items():
            block[1] = re.sub(rf"(?<![\w]){old}(?=[=:])", new, block[1])
    return copy


def compressed(path: Path, blocks: Blocks) -> Path:
    path = path.with_suffix(".xyz.gz")
    path.write_bytes(gzip.compress(write(path.with_suffix(""), blocks).read_bytes()))
    return path


WHOLE: dict[str, Callable[[Path, Blocks], Path]] = {
    "as written": write,
    "blank lines between frames": lambda path, blocks: write(path, blocks, "\n  \n"),
    "blank lines at the end": lambda path, blocks: write(path, [*blocks, ["", ""]]),
    "CR LF": lambda path, blocks: write(path, [[line + "\r" for line in block] for block in blocks]),
    "gzip": compressed,
    "keys in small letters": lambda path, blocks: write(
        path, renamed(blocks, Lattice="lattice", Properties="properties")
    ),
    "keys in capitals": lambda path, blocks: write(path, renamed(blocks, Lattice="LATTICE", pbc="PBC")),
    "another order of columns": lambda path, blocks: write(
        path,
        [
            [b[0], b[1].replace("species:S:1:pos:R:3", "pos:R:3:species:S:1"), *(moved(line) for line in b[2:])]
            for b in blocks
        ],
    ),
}


def moved(line: str) -> str:
    symbol, *words = line.split()
    return " ".join([*words[:3], symbol, *words[3:]])


def numbered(block: list[str]) -> list[str]:
    """The lines of a frame's atoms with atomic numbers, of which the third is wrong."""
    lines = [re.sub(r"^(\w+)", lambda symbol: f"{symbol[1]} {atomic_numbers[symbol[1]]}", line) for line in block[2:]]
    return [*lines[:2], lines[2].replace(" 29 ", " 7 "), *lines[3:]]


@pytest.mark.parametrize("name", WHOLE)
def test_files_are_read_whole(name: str, frames: list[Atoms], blocks: Blocks, tmp_path: Path) -> None:
    found = read_frames(WHOLE[name](tmp_path / "b.xyz", blocks))
    assert len(found) == FRAMES
    for before, after in zip(frames, found, strict=True):
        np.testing.assert_allclose(after.cell.array, before.cell.array, atol=TEXT)
        assert after.pbc.all()
        for a, b in zip(labels(before), labels(after), strict=True):
            np.testing.assert_allclose(a, b, atol=TEXT)


# What is done to the file, and what the message says after its name. A frame has ATOMS + 2 lines.
REFUSED: dict[str, tuple[Callable[[Blocks], Blocks], str]] = {
    "text after the last frame": (
        lambda b: [*b, ["the end"]],
        "frame 6, line 37: expected a number of atoms, found 'the end'",
    ),
    "text between frames": (lambda b: [b[0], ["x"], *b[1:]], "frame 1, line 7: expected a number of atoms, found 'x'"),
    "a cut frame": (lambda b: [*b[:5], b[5][:4]], "frame 5, line 34: the file ends after 2 of 4 atoms"),
    "a cut line": (
        lambda b: changed(b, 5, 5, lambda line: line[:30]),
        "frame 5, line 36: 3 columns, but Properties names 7",
    ),
    "too few atoms said": (
        lambda b: changed(b, 2, 0, lambda _: "3"),
        "frame 3, line 18: expected a number of atoms, found 'Cu",
    ),
    "too many atoms said": (
        lambda b: changed(b, 2, 0, lambda _: "5"),
        "frame 2, line 19: 1 columns, but Properties names 7",
    ),
    "a blank line in a frame": (lambda b: [b[0], [*b[1][:3], "", *b[1][3:]], *b[2:]], "frame 1, line 10: 0 columns"),
    "a column too many": (lambda b: changed(b, 1, 3, lambda line: line + " 0.5"), "frame 1, line 10: 8 columns"),
    "columns without a name": (
        lambda b: [*b[:4], [b[4][0], "", *b[4][2:]], b[5]],
        "frame 4, line 27: 7 columns, but a file without Properties has 4",
    ),
    "no number": (lambda b: entry(b, 3, 1, 4, "***"), "frame 3, line 22: forces is '***', which is no number"),
    "Fortran's number": (
        lambda b: entry(b, 3, 1, 1, "1.0D+00"),
        "frame 3, line 22: pos is '1.0D+00', which is no number",
    ),
    "no positions": (lambda b: renamed(b, pos="place"), "frame 0, line 2: Properties=species:S:1:place:R:3"),
    "a cell of six numbers": (
        lambda b: changed(b, 1, 1, lambda line: re.sub('Lattice="[^"]*"', 'Lattice="3 3 3 90 90 90"', line)),
        "frame 1, line 8: cannot be read (ValueError: Got info item Lattice",
    ),
    "two cells": (
        lambda b: changed(b, 1, 1, lambda line: line + ' lattice="3 0 0 0 3 0 0 0 3"'),
        "frame 1, line 8: Lattice stands there twice",
    ),
    "a number of columns that is none": (
        lambda b: changed(b, 2, 1, lambda line: line.replace("pos:R:3", "pos:R:x")),
        "frame 2, line 14: Properties=species:S:1:pos:R:x",
    ),
    "two energies": (
        lambda b: changed(b, 1, 1, lambda line: line + " energy=-3"),
        "frame 1, line 8: energy stands there twice",
    ),
    "a symbol and another number": (
        lambda b: [[b[0][0], b[0][1].replace("species:S:1", "species:S:1:Z:I:1"), *numbered(b[0])], *b[1:]],
        "frame 0, line 5: species is Cu and Z is 7",
    ),
    "no element": (
        lambda b: entry(b, 2, 0, 0, "D"),
        "frame 2, line 15: species is 'D', which is no symbol of an element",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_other_files_are_refused_with_frame_and_line(name: str, blocks: Blocks, tmp_path: Path) -> None:
    change, words = REFUSED[name]
    path = write(tmp_path / "b.xyz", change(blocks))
    with pytest.raises(DataError) as error:
        read_frames(path)
    assert str(error.value).startswith(f"{path}, {words}")


def test_a_file_that_ends_within_a_number_is_refused(blocks: Blocks, tmp_path: Path) -> None:
    path = write(tmp_path / "b.xyz", blocks)
    whole = path.read_text()
    path.write_text(whole.removesuffix("\n"))
    assert len(read_frames(path)) == FRAMES
    path.write_text(whole[:-4])
    with pytest.raises(DataError, match=r"frame 5, line 36: the file ends after .* with 5 decimals where .* have 8"):
        read_frames(path)


def test_files_of_other_encodings_are_refused(blocks: Blocks, tmp_path: Path) -> None:
    path = write(tmp_path / "b.xyz", changed(blocks, 0, 1, lambda line: line + " tag=h\u00e4rter"))
    path.write_bytes(path.read_text().encode("latin-1"))
    with pytest.raises(DataError, match=r"frame 0: is no text in UTF-8 \(byte 0xe4\): save it as UTF-8"):
        read_frames(path)
    for content in (
        b"",
        b"PK\x03\x04",
        b"\x93NUMPY\x01\x00v\x00{'descr': '<f8', 'fortran_order': False, 'shape': (), }",
    ):
        (tmp_path / "a.npz").write_bytes(content)
        with pytest.raises(DataError, match=r"a\.npz: cannot be read as an npz"):
            read_frames(tmp_path / "a.npz")
    np.save(tmp_path / "a.npy", np.ones(3))
    (tmp_path / "a.npy").rename(tmp_path / "a.npz")
    with pytest.raises(DataError, match=r"a\.npz: cannot be read as an npz"):
        read_frames(tmp_path / "a.npz")


def test_a_label_that_is_a_word_is_refused(blocks: Blocks, tmp_path: Path) -> None:
    for word in ("T", "*****"):
        there = changed(blocks, 2, 1, lambda line, word=word: re.sub(r"energy=\S+", f"energy={word}", line))
        with pytest.raises(DataError, match="frame 2: 'energy' is not made of numbers"):
            said(write(tmp_path / "b.xyz", there))


VASP = "xx yy zz xy yz zx"
STRESS = {"xx": 0.01, "yy": 0.02, "zz": 0.03, "xy": 0.004, "yz": 0.005, "zx": 0.006}  # eV/A^3
SIX, NINE = "xx yy zz yz zx xy", "xx xy zx xy yy yz zx yz zz"
STRESSES = {  # the order in the file and what surrounds it, and the voigt_order that is set
    "six": (SIX, '""', SIX),
    "six in another order": (VASP, '""', VASP),
    "six in brackets": (SIX, "[]", SIX),
    "nine": (NINE, '""', SIX),
    "nine and an order of six": (NINE, '""', VASP),
}


@pytest.mark.parametrize("key", ["stress", "virial", "mine"])
@pytest.mark.parametrize("name", STRESSES)
def test_stresses_of_an_extxyz(name: str, key: str, blocks: Blocks, tmp_path: Path) -> None:
    order, (start, end), voigt = STRESSES[name]
    value = " ".join(str(STRESS[component]) for component in order.split())
    line = re.sub('stress="[^"]*"', f'note="a stress=1 b" stresses=2 {key}={start}{value}{end}', blocks[0][1])
    path = write(tmp_path / "b.xyz", [[blocks[0][0], line, *blocks[0][2:]]])
    keys = LabelKeys(stress=key, virial="virial" if key == "virial" else None, voigt_order=voigt)
    (atoms,) = read_frames(path, keys)
    factor = -atoms.cell.volume if key == "virial" else 1.0
    found = factor * labels(atoms).stress
    for component, value_there in STRESS.items():
        a, b = ("xyz".index(axis) for axis in component)
        assert abs(found[a, b] - value_there) < TEXT
        assert found[a, b] == found[b, a]
    assert (atoms.info["note"], atoms.info["stresses"]) == ("a stress=1 b", 2)
    # Rows that are no stress, and other numbers, are refused by the frame.
    for wrong, words in (("1 9 0 0 2 0 0 0 3", "is not symmetric"), ("1 2 3", r"has shape \(3,\), expected 6")):
        write(path, [[blocks[0][0], line.replace(value, wrong), *blocks[0][2:]]])
        with pytest.raises(DataError, match=f"frame 0: '{key}' {words}"):
            read_frames(path, keys)


def test_damaged_archives_are_refused_with_the_frame(blocks: Blocks, tmp_path: Path) -> None:
    path = compressed(tmp_path / "b.xyz", blocks)
    path.write_bytes(path.read_bytes()[:-60])
    with pytest.raises(DataError, match=r"b\.xyz\.gz, frame \d: cannot be read \(EOFError.*: the file was cut"):
        read_frames(path)


def said(path: Path, **keys: str) -> str:
    """What `so3krates data` warns of."""
    wanted = LabelKeys(**keys)
    check = LabelCheck(wanted)
    return " | ".join(data_report(iter_frames(path, wanted, check.names), check).warnings)


# Other names of energy, forces and stress, and the settings that must be proposed.
NAMES = {
    "dft_": ({"energy": "dft_energy", "forces": "dft_forces", "stress": "dft_stress"}, ("energy", "forces", "stress")),
    "REF": ({"energy": "REF_energy", "forces": "REF_forces", "stress": "vaspstress"}, ("energy", "forces", "stress")),
    "NEP": ({"Lattice": "lattice", "forces": "force", "stress": "virial"}, ("forces", "virial")),
    "capitals": ({"energy": "Energy", "forces": "Forces", "stress": "Virial"}, ("energy", "forces", "virial")),
    "words": ({"energy": "TotEnergy", "forces": "DFT_force", "stress": "virials"}, ("energy", "forces", "virial")),
}


@pytest.mark.parametrize("name", NAMES)
def test_labels_under_other_names_are_said(name: str, blocks: Blocks, tmp_path: Path) -> None:
    names, quantities = NAMES[name]
    path = write(tmp_path / "b.xyz", renamed(blocks, **names))
    new = {quantity: names["stress" if quantity == "virial" else quantity] for quantity in quantities}
    proposed = [f'{quantity}_key = "{key}"' for quantity, key in new.items()]
    with pytest.raises(DataError) as refused:
        load_frames(DataConfig(file=str(path), n_train=4))
    for line in proposed:
        assert f"set {line} in section [data]" in said(path)
        assert line in str(refused.value)
    # What is proposed reads them.
    keys = {f"{quantity}_key": key for quantity, key in new.items()}
    train, valid = load_frames(DataConfig(file=str(path), n_train=4, **keys), Demands(force=True))
    assert len(train + valid) == FRAMES
    assert all(np.isfinite(labels(atoms).stress).all() and labels(atoms).forces.any() for atoms in train)
    assert said(path, **{quantity: key for quantity, key in new.items()}).count("frames have no") == 0
    # A quantity that the loss does not weigh is not asked for.
    rest = tuple(q for q in ("energy", "forces", "stress") if q not in new and not (q == "stress" and "virial" in new))
    load_frames(DataConfig(file=str(path), n_train=4), Demands(quantities=rest))


def test_evaluation_needs_a_label(blocks: Blocks, tmp_path: Path) -> None:
    path = write(tmp_path / "b.xyz", renamed(blocks, energy="e_dft", forces="dft_forces", stress="dft_stress"))
    with pytest.raises(DataError, match=r"none of 6 frames has a label \(energy 'energy'.* set energy_key = \"e_dft\""):
        evaluated_frames(path, DataConfig(), print)
    notes: list[str] = []
    assert len(evaluated_frames(path, DataConfig(energy_key="e_dft"), notes.append)) == FRAMES
    assert 'forces_key = "dft_forces"' in notes[0]


def test_arrays_of_an_npz_under_other_names_are_said(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    forces = np.random.default_rng(0).normal(size=(3, 4, 3))
    np.savez(path, z=np.full(4, 29), R=np.eye(4, 3) * 2 + forces, energies=np.ones(3), dft_forces=forces)
    assert 'energy_key = "energies"' in said(path)
    assert 'forces_key = "dft_forces"' in said(path)


CELLS = {"Cell": 9, "box": 3, "unit_cell": 6, "lattice_vectors": 9, "latvec": 9}


@pytest.mark.parametrize("name", CELLS)
def test_a_cell_under_another_name_is_refused(name: str, blocks: Blocks, tmp_path: Path) -> None:
    numbers = " ".join(["9.5", "0.1", "0.2"] * 3 if CELLS[name] == 9 else ["9.5"] * CELLS[name])
    bare = [[b[0], re.sub(r'(Lattice|pbc|stress)="[^"]*"', "", b[1]), *b[2:]] for b in blocks]
    there = changed(bare, 2, 1, lambda line: f'{line} {name}="{numbers}"')
    with pytest.raises(DataError, match=f"frame 2: has no cell, but something like one under '{name}'"):
        read_frames(write(tmp_path / "b.xyz", there))
    for sound in (bare, changed(bare, 2, 1, lambda line: f'{line} {name}="{" ".join(["0.0"] * CELLS[name])}"')):
        assert len(read_frames(write(tmp_path / "c.xyz", sound))) == FRAMES
    other = "cell" if name == "unit_cell" else name  # which an npz has
    np.savez(tmp_path / "a.npz", z=np.full(4, 29), R=np.eye(4, 3)[None] * 2, **{other: np.full(CELLS[name], 9.5)})
    with pytest.raises(DataError, match=f"'{other}': name the array unit_cell"):
        read_frames(tmp_path / "a.npz")


def test_labels_that_only_their_shape_tells_are_said(blocks: Blocks, tmp_path: Path) -> None:
    path = write(tmp_path / "b.xyz", renamed(blocks, energy="U", forces="f_xyz", stress="sigma"))
    for words in ("has energy under 'energy'; of its shape are 'U'", "'f_xyz'", "'sigma'", "of a virial: virial_key"):
        assert words in said(path)
    with pytest.raises(DataError, match="of its shape are 'U'"):
        evaluated_frames(path, DataConfig(), print)
    # Sound frames have many entries of these shapes.
    more = [[b[0], f'{b[1]} temperature=300.0 dipole="1 2 3" weights="1 2 3 4 5 6"', *b[2:]] for b in blocks]
    assert said(write(tmp_path / "c.xyz", more)) == ""


def test_a_stress_needs_a_cell(blocks: Blocks, tmp_path: Path) -> None:
    bare = [[b[0], re.sub(r'(Lattice|pbc|stress)="[^"]*"', "", b[1]), *b[2:]] for b in blocks]
    path = write(tmp_path / "b.xyz", bare)
    assert "none of 6 frames is periodic" in said(path)
    assert said(path, stress="") == ""


# A change of one frame, and what is said of it; frame, atom and reason.
FAULTS: dict[str, tuple[Callable[[Blocks], Blocks], str]] = {
    "position nan": (lambda b: entry(b, 0, 2, 1, "nan"), "frame 0: the position of atom 2 is (nan"),
    "position inf": (lambda b: entry(b, 1, 3, 3, "-inf"), "frame 1: the position of atom 3 is ("),
    "position absurd": (lambda b: entry(b, 1, 3, 3, "1e30"), "frame 1: the position of atom 3 is ("),
    "force inf": (lambda b: entry(b, 5, 1, 4, "inf"), "frame 5: the force on atom 1 is (inf"),
    "force nan": (lambda b: entry(b, 5, 1, 6, "nan"), "frame 5: the force on atom 1 is ("),
    "force absurd": (lambda b: entry(b, 4, 0, 5, "1e7"), "frame 4: the force on atom 0 is ("),
    "energy inf": (
        lambda b: changed(b, 3, 1, lambda s: re.sub(r"energy=\S+", "energy=inf", s)),
        "frame 3: the energy is inf",
    ),
    "stress inf": (
        lambda b: changed(b, 3, 1, lambda s: re.sub(r'stress="\S+', 'stress="inf', s)),
        "frame 3: the stress is (inf",
    ),
    "atoms at one place": (
        lambda b: changed(b, 2, 3, lambda line: " ".join(b[2][2].split()[:4] + line.split()[4:])),
        "frame 2: atoms 0 and 1 are 0 A apart",
    ),
    "X": (lambda b: entry(b, 2, 1, 0, "X"), "frame 2: atom 1 is X"),
    "cell of nothing": (
        lambda b: changed(b, 4, 1, lambda s: re.sub('Lattice="[^"]*"', 'Lattice="0.01 0 0 0 9 0 0 0 9"', s)),
        "frame 4: every atom is 0.01 A from its own image",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_faults_have_a_frame_an_atom_and_a_reason(name: str, blocks: Blocks, tmp_path: Path) -> None:
    change, words = FAULTS[name]
    path = write(tmp_path / "b.xyz", change(blocks))
    assert words in said(path)
    check = LabelCheck(LabelKeys())
    json.dumps(data_report(iter_frames(path), check).as_json(), allow_nan=False)
    # The split would give the frame another number.
    config = DataConfig(file=str(path), n_train=3, n_valid=2, seed=3)
    for read in (lambda: load_frames(config), lambda: evaluated_frames(path, config, print)):
        with pytest.raises(DataError) as error:
            read()
        assert words in str(error.value) and "data.leave_out_faulty = true" in str(error.value)
    notes: list[str] = []
    kept = DataConfig(file=str(path), n_train=3, n_valid=2, leave_out_faulty=True)
    assert [len(part) for part in load_frames(kept, Demands(say=notes.append))] == [3, 2]
    assert words in notes[0]


def test_heavier_elements_than_the_network_holds_are_refused(blocks: Blocks, tmp_path: Path) -> None:
    path = write(tmp_path / "b.xyz", entry(blocks, 4, 3, 0, "Fm"))
    with pytest.raises(
        DataError, match=r"frame 4: atom 3 is Fm with atomic number 100, above 99: set model\.embeddings"
    ):
        load_frames(DataConfig(file=str(path)), Demands(most=99))
    assert "Fm with atomic number 100" in CliRunner().invoke(cli.app, ["data", str(path)]).stdout


def test_what_could_not_be_saved_is_not_trained(frames: list[Atoms], tmp_path: Path) -> None:
    for number, words in ((0, "element 'X'"), (100, "element 'Fm'.* 1 to 99, or set model.embeddings")):
        strange = [atoms.copy() for atoms in frames]
        for atoms, labelled in zip(strange, frames, strict=True):
            atoms.numbers[0] = number
            atoms.calc = SinglePointCalculator(atoms, **labelled.calc.results)
        with pytest.raises(ModelError, match=words):
            train(settings(), strange[:4], strange[4:], tmp_path / "run", quiet)
        assert not (tmp_path / "run").exists()


def test_elements_that_are_not_trained_are_named_by_their_frame(blocks: Blocks, tmp_path: Path) -> None:
    train, valid = write(tmp_path / "t.xyz", blocks[:4]), write(tmp_path / "v.xyz", entry(blocks, 5, 0, 0, "Ag"))
    with pytest.raises(DataError, match=r"v\.xyz, frame 5: has Ag, which no training frame has"):
        load_frames(DataConfig(train_file=str(train), valid_file=str(valid)))
    path, refused = write(tmp_path / "b.xyz", entry(blocks, 4, 3, 0, "Ag")), 0
    for seed in range(12):
        try:
            load_frames(DataConfig(file=str(path), n_train=3, seed=seed))
        except DataError as error:
            assert "frame 4: has Ag" in str(error)
            refused += 1
    assert 0 < refused < 12
