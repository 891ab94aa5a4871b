"""`guard`: pairs nearer and forces larger than in the training data are said, or end the run."""

import re
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.io import read, write
from ase.neighborlist import neighbor_list
from decks import Bench, any_body, lammps_instance
from so3krates.lammps import LammpsError, run_deck
from so3krates.lammps.thermo import read_log
from so3krates.learning import LearnConfig, RunSettings
from so3krates.learning.explore import explore, saved_frames
from so3krates.runtime import Runtime
from so3krates_export import read_bundle, write_bundle
from structures import structure
from toy_bundle import LADDER, toy_bundle, write_toy_bundle

SEEN = {"Ga-Ga": 2.6, "Ga-N": 1.8}  # A; N-N never
LARGEST_FORCE = 20.0  # eV/A
MARGIN, FORCE_MARGIN = 0.9, 1.5
SAME = 1e-5  # of a ratio; its margins are kept in float32
WARNING = r"WARNING: pair_style so3krates: step (\d+): "
PAIR = WARNING + r"atom (\d+) \((\w+), type \d\) and atom (\d+) \((\w+), type \d\) are ([\d.]+) A apart"
FORCE = WARNING + r"the force on atom (\d+) \((\w+), type \d\) is ([\d.e+]+) eV/A, more than 1.5 times the 20 eV/A"
THERMO = "compute p all pair so3krates\nthermo_style custom step pe c_p[1] c_p[2]\nthermo_modify format float %.17g\n"


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    guard = {"distances": [[SEEN["Ga-Ga"], SEEN["Ga-N"]], [SEEN["Ga-N"], None]], "largest_force": LARGEST_FORCE}
    return write_toy_bundle(tmp_path_factory.mktemp("guarded") / "toy.so3k", guard=guard)


@pytest.fixture
def bench(guarded: Path, program_cache: Path, tmp_path: Path) -> Bench:
    return Bench(guarded, program_cache, tmp_path)


def crystal(gan_cell: Atoms, factor: float = 1.0) -> Atoms:
    atoms = structure("crystal", gan_cell)
    atoms.set_cell(atoms.cell.array * factor, scale_atoms=True)
    return atoms


def deck_with(bench: Bench, atoms: Atoms, options: str, run: str = "run 0\n") -> str:
    return bench.deck(atoms).replace("threads 1", f"threads 1 {options}") + run


def nearest(atoms: Atoms) -> tuple[float, int, set[int], float]:
    """Smallest ratio, pairs below the margin, tags of the nearest pair, its distance."""
    i, j, distances = neighbor_list("ijd", atoms, 3.0)
    kinds = ["-".join(sorted((atoms.symbols[a], atoms.symbols[b]))) for a, b in zip(i, j, strict=True)]
    ratios = distances / np.array([SEEN.get(kind, 0.1) for kind in kinds])
    k = int(ratios.argmin())
    return min(ratios[k], 1.0), int((ratios < MARGIN).sum()) // 2, {int(i[k]) + 1, int(j[k]) + 1}, distances[k]


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_compressed_cell_is_said_once_in_a_run(bench: Bench, gan_cell: Atoms, ranks: int) -> None:
    atoms = crystal(gan_cell, 0.85)
    ratio, count, tags, distance = nearest(atoms)
    assert ratio < MARGIN and count > 3
    run = THERMO + "run 0\nfix 1 all nve\nrun 3\n"
    log = run_deck(deck_with(bench, atoms, "", run), bench.folder, ranks=ranks)
    found = re.findall(PAIR, log)
    assert [f[0] for f in found] == ["0", "0"]  # one for each run
    assert {int(found[0][1]), int(found[0][3])} == tags and {found[0][2], found[0][4]} == {"Ga", "N"}
    assert float(found[0][5]) == pytest.approx(distance, rel=1e-3)
    assert "nearer than 0.9 of the 1.8 A that such pairs have at least in the training data" in log
    columns = read_log(bench.folder / "log.lammps")[0]
    assert columns["c_p[1]"][0] == count and columns["c_p[2]"][0] == pytest.approx(ratio, rel=SAME)


def test_a_normal_run_is_not_warned_of(bench: Bench, gan_cell: Atoms) -> None:
    run = THERMO + "velocity all create 300 7 loop geom\nfix 1 all nve\nrun 20\n"
    log = run_deck(deck_with(bench, crystal(gan_cell), "", run), bench.folder)
    assert "training data," not in log and "WARNING: pair_style so3krates" not in log
    assert (
        "  guard       warns of pairs below Ga-Ga 2.34 A, Ga-N 1.62 A, forces above 30 eV/A; not of N-N, which" in log
    )
    columns = read_log(bench.folder / "log.lammps")[0]
    assert len(columns["Step"]) == 21 and set(columns["c_p[1]"]) == {0.0} and min(columns["c_p[2]"]) > MARGIN


@pytest.mark.parametrize("ranks", [1, 2])
def test_the_closest_pair_of_moving_atoms(bench: Bench, gan_cell: Atoms, ranks: int) -> None:
    """Between builds of the lists too: the last frame, looked at anew, has the same."""
    atoms = crystal(gan_cell, 0.9)
    run = THERMO + "neighbor 2.0 bin\nvelocity all create 4000 7 loop geom\nfix 1 all nve\nrun 30\n"
    run += f'write_dump all custom "{bench.folder}/dump" id x y z modify sort id format float %.17g\n'
    run_deck(deck_with(bench, atoms, "", run), bench.folder, ranks=ranks)
    columns = read_log(bench.folder / "log.lammps")[0]
    atoms.positions = np.loadtxt(bench.folder / "dump", skiprows=9)[:, 1:]
    ratio, count, _, _ = nearest(atoms)
    assert ratio < 1.0 and np.ptp(columns["c_p[2]"]) > 0.01
    assert columns["c_p[1]"][-1] == count and columns["c_p[2]"][-1] == pytest.approx(ratio, rel=SAME)


def approaching(kinds: str, distance: float) -> Atoms:
    """Two atoms that another pair keeps company, far away."""
    x = [0.0, distance, 20.0, 22.2]
    return Atoms(kinds + "GaN", [[5 + d, 8, 8] for d in x], cell=[40, 16, 16])


APPROACH = (
    "group first id 1\ngroup second id 2\nvelocity first set 60 0 0\nvelocity second set -60 0 0\nfix 1 all nve\n"
)


@pytest.mark.parametrize("ranks", [1, 2])
def test_what_happens_within_a_run(bench: Bench, ranks: int) -> None:
    run = THERMO + APPROACH + "thermo 100\nneigh_modify delay 0 every 1\nrun 9\n"
    deck = deck_with(bench, approaching("GaN", 2.2), "", run)
    log = run_deck(deck.replace("box tilt large", "box tilt large\nprocessors * 1 1"), bench.folder, ranks=ranks)
    ((step, first, _, second, _, distance),) = re.findall(PAIR, log)
    assert {first, second} == {"1", "2"} and 3 < int(step) < 9
    assert MARGIN * SEEN["Ga-N"] - 0.13 < float(distance) < MARGIN * SEEN["Ga-N"]  # 0.12 A in a step


def test_pairs_that_were_never_together_are_not_looked_at(bench: Bench) -> None:
    log = run_deck(deck_with(bench, approaching("N2", 1.2), "", THERMO + "run 0\n"), bench.folder)
    assert " A apart" not in log and "not of N-N, which are never neighbours in the training data" in log
    columns = read_log(bench.folder / "log.lammps")[0]
    assert (columns["c_p[1]"][0], columns["c_p[2]"][0]) == (0.0, 1.0)


@pytest.mark.parametrize("ranks", [1, 2])
def test_large_forces(bench: Bench, ranks: int) -> None:
    deck = deck_with(bench, approaching("N2", 0.6), "")
    log = run_deck(deck.replace("box tilt large", "box tilt large\nprocessors * 1 1"), bench.folder, ranks=ranks)
    ((step, atom, symbol, force),) = re.findall(FORCE, log)
    assert (step, symbol) == ("0", "N") and atom in ("1", "2") and float(force) > FORCE_MARGIN * LARGEST_FORCE


def test_stop_ends_the_run(bench: Bench, gan_cell: Atoms, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(bench.folder)
    words = (
        r"step 0: atom \d+ .* A apart, nearer than 0.9 of .*train on such structures. To go on regardless: guard warn"
    )
    with lammps_instance() as instance, pytest.raises(Exception, match=words):
        instance.commands_string(deck_with(bench, crystal(gan_cell, 0.85), "guard stop"))
    with lammps_instance() as instance:  # none there
        instance.commands_string(deck_with(bench, crystal(gan_cell), "guard stop"))


@pytest.mark.parametrize("ranks", [1, 2])
def test_energies_beyond_physics_come_with_the_pair(
    guarded: Path, program_cache: Path, tmp_path: Path, gan_cell: Atoms, ranks: int
) -> None:
    """Of a potential with a deep hole: the error names the distance too."""
    manifest, tensors = toy_bundle(LADDER)
    deep = tmp_path / "deep.so3k"
    guard = read_bundle(guarded).manifest["guard"]
    write_bundle(deep, {**manifest, "guard": guard}, tensors | {"weights/depth": 1e9 * tensors["weights/depth"]})
    deck = Bench(deep, program_cache, tmp_path).deck(crystal(gan_cell, 0.8)) + "fix 1 all nve\nrun 5\n"
    words = r"step 0: energy .* beyond any physical value.* \d+ \(.*A apart, nearer than 0\.9 of the [12]\.\d+ A"
    with pytest.raises(Exception, match=words):
        run_deck(deck, tmp_path, ranks=ranks)


def test_stop_ends_all_ranks(bench: Bench) -> None:
    """Also of those that see nothing."""
    deck = deck_with(bench, approaching("GaN", 1.4), "guard stop")
    with pytest.raises(Exception, match=r"step 0: atom [12] .* A apart, nearer than 0.9 of the 1.8 A"):
        run_deck(deck.replace("box tilt large", "box tilt large\nprocessors * 1 1"), bench.folder, ranks=2)


def test_off_says_nothing(bench: Bench, gan_cell: Atoms) -> None:
    """But what thermo asks for."""
    atoms = crystal(gan_cell, 0.85)
    log = run_deck(deck_with(bench, atoms, "guard off", THERMO + "run 0\n"), bench.folder)
    assert "WARNING: pair_style so3krates" not in log and "  guard       off\n" in log
    assert read_log(bench.folder / "log.lammps")[0]["c_p[1]"][0] == nearest(atoms)[1] > 3


def test_a_potential_that_does_not_know_its_training_data(bench64: Bench, gan_cell: Atoms) -> None:
    log = run_deck(deck_with(bench64, crystal(gan_cell, 0.85), ""), bench64.folder)
    assert "  guard       none, as the file does not say how near atoms are in its training data: " in log
    assert "WARNING: pair_style so3krates" not in log


def test_another_word(bench: Bench, gan_cell: Atoms) -> None:
    with lammps_instance() as instance, pytest.raises(Exception, match="guard maybe: write off, warn or stop"):
        instance.commands_string(deck_with(bench, crystal(gan_cell), "guard maybe"))


def test_after_a_restart(bench: Bench, gan_cell: Atoms) -> None:
    """What the first run has said may be said again."""
    atoms = crystal(gan_cell, 0.85)
    file = bench.folder / "state.restart"
    deck = deck_with(bench, atoms, "", f'run 0\nwrite_restart "{file}"\nclear\nread_restart "{file}"\n')
    log = run_deck(deck + bench.pair() + "neighbor 1.0 bin\nrun 0\n", bench.folder)
    assert len(re.findall(PAIR, log)) == 2


@pytest.mark.parametrize(("potential", "is_taken"), [(-60, False), (60, True)])
def test_trials_of_monte_carlo_are_not_looked_at(bench: Bench, gan_cell: Atoms, potential: int, is_taken: bool) -> None:
    """Atoms are put anywhere: what matters is the one that stays."""
    run = f"group gas type 2\nfix mc gas gcmc 1 30 0 2 77 300 {potential} 0.0 full_energy\n"
    run += 'thermo_style custom step atoms f_mc[3] f_mc[4]\nrun 1\nprint "tried $(f_mc[3]), done $(f_mc[4])"\n'
    deck = deck_with(bench, crystal(gan_cell), "shifts no guard stop", run)
    if is_taken:
        with pytest.raises(Exception, match=r"step 1: atom \d+ .* and atom \d+ .* A apart, nearer than 0.9 of"):
            run_deck(deck, bench.folder)
        return
    log = run_deck(deck, bench.folder)
    tried, done = map(int, re.search(r"^tried (\d+), done (\d+)$", log, re.MULTILINE).groups())
    assert tried > 5 and done == 0 and "WARNING: pair_style" not in log


HEATED = "velocity all create 100 1\nfix move all nve\nfix heat all langevin 6000 6000 0.02 1\n"
SAYS = (
    r"step (\d+): the uncertainty of the force on atom (\d+) \((\w+), type \d\) is ([\d.]+) eV/A, more than the 2 eV/A"
)


@any_body
@pytest.mark.parametrize("ranks", [1, 2])
def test_uncertainty_ends_a_run_and_the_frame_is_written(bench64: Bench, gan_cell: Atoms, ranks: int) -> None:
    """The frame has ids, elements, forces and uncertainties, as Python computes them of it, and the reason."""
    deck = deck_with(bench64, crystal(gan_cell), "guard stop uncertainty 2.0 every 5", f"{HEATED}thermo 100\nrun 500\n")
    with pytest.raises(LammpsError, match=f"{SAYS}.*The frame is in guard-step-") as caught:
        run_deck(deck, bench64.folder, ranks=ranks)
    step, atom, symbol, value = re.search(SAYS, str(caught.value)).groups()
    (file,) = bench64.folder.glob("guard-step-*.extxyz")
    assert file.name == f"guard-step-{step}.extxyz" and int(step) % 5 == 0 and int(step) > 0
    frame = read(file)
    assert frame.arrays["id"].tolist() == list(range(1, len(frame) + 1))
    assert (
        frame.symbols[int(atom) - 1] == symbol
        and f"the uncertainty of the force on atom {atom}" in frame.info["reason"]
    )
    largest = frame.arrays["uncertainty"].max()
    assert largest == pytest.approx(float(value), rel=1e-3)
    assert frame.arrays["uncertainty"].argmax() == int(atom) - 1
    expected = Runtime(bench64.bundle, threads=1).evaluate(frame, ["forces", "uncertainty"])
    np.testing.assert_allclose(frame.get_forces(), expected["forces"], rtol=0, atol=1e-8)
    np.testing.assert_allclose(frame.arrays["uncertainty"], expected["uncertainty"], rtol=1e-8)
    assert np.abs(frame.get_forces()).max() > 1.0


def test_uncertainty_is_warned_of_once_in_a_run(bench64: Bench, gan_cell: Atoms) -> None:
    run = f"{HEATED}thermo 100\nrun 40\nrun 20\n"
    log = run_deck(deck_with(bench64, crystal(gan_cell), "guard warn uncertainty 2 every 10", run), bench64.folder)
    assert [int(found[0]) > 0 for found in re.findall(SAYS, log)] == [True, True]
    assert "uncertainties above 2 eV/A on every 10 steps" in log and not list(bench64.folder.glob("*.extxyz"))


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_close_pair_leaves_its_frame(bench: Bench, gan_cell: Atoms, ranks: int) -> None:
    atoms = crystal(gan_cell, 0.85)
    with pytest.raises(LammpsError, match=r"The frame is in guard-step-0.extxyz"):
        run_deck(deck_with(bench, atoms, "guard stop"), bench.folder, ranks=ranks)
    frame = read(bench.folder / "guard-step-0.extxyz")
    assert (frame.symbols == atoms.symbols).all() and frame.pbc.all() and "A apart" in frame.info["reason"]
    np.testing.assert_allclose(frame.cell.array, atoms.cell.array, atol=1e-9)
    expected = Runtime(bench.bundle, threads=1).evaluate(atoms)["forces"]
    assert np.abs(expected).max() > 1.0
    np.testing.assert_allclose(frame.get_forces(), expected, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("own", ["", "guard off"])
def test_a_deck_of_a_learning_loop_ends_there(bench32: Bench, gan_cell: Atoms, own: str) -> None:
    """With that frame as a candidate, and without an error; unless the deck's own line says otherwise."""
    bundle, folder = read_bundle(bench32.bundle), bench32.folder
    limits = {"distances": [[SEEN["Ga-Ga"], SEEN["Ga-N"]], [SEEN["Ga-N"], None]], "largest_force": None}
    write_bundle(folder / "limits.so3k", {**bundle.manifest, "guard": limits}, bundle.tensors)
    still = "timestep 1e-6\nfix 1 all nve\nrun 4\n"
    (folder / "in.deck").write_text(deck_with(bench32, crystal(gan_cell, 0.85), own, still))
    learn = LearnConfig(save=1e-6, stop=1e9, every=2)
    run = RunSettings(str(folder / "in.deck"))
    summary = explore(run, folder / "run-1", folder / "limits.so3k", learn, 1)
    frames = saved_frames(folder / "run-1")
    assert summary.error == "" and [atoms.info["guard"] for atoms in frames] == ([False] * 3 if own else [True])
    assert summary.looks == len(frames) and summary.ended.startswith("" if own else "step 0: atom ")
    assert (summary.ended == "") == bool(own)
    np.testing.assert_allclose(frames[0].cell.array, 0.85 * structure("crystal", gan_cell).cell.array, atol=1e-9)


REFUSALS = {
    "without uncertainty": ("guard stop uncertainty 1", "tells no uncertainties. Export the model without --no-unc"),
    "off": ("guard off uncertainty 1", "guard off uncertainty 1: write warn or stop, and a number above 0"),
    "negative": ("guard stop uncertainty -1", "guard stop uncertainty -1: write warn or stop, and a number above 0"),
    "no number": ("guard stop uncertainty x", "Expected floating point"),
    "every": ("guard stop uncertainty 1 every -5", "every -5: give a number of steps of at least 1"),
    "save without": ("save f.xyz hardness 1 2", "has no output hardness with a number for each atom. It has: "),
    "save order": ("save f.xyz uncertainty 2 1", "save f.xyz uncertainty 2 1: frames are kept above the first number"),
    "save words": ("save f.xyz uncertainty", "save f.xyz wants OUTPUT LOW HIGH"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_refusals_of_thresholds(bench: Bench, gan_cell: Atoms, case: str) -> None:
    options, words = REFUSALS[case]
    deck = re.sub(r"pair_style.*", f"pair_style so3krates {options}", deck_with(bench, crystal(gan_cell), ""))
    with lammps_instance() as instance, pytest.raises(Exception, match=words):
        instance.commands_string(deck)


@any_body
@pytest.mark.parametrize("ranks", [1, 2])
def test_uncertain_frames_are_saved_until_the_upper_threshold(bench64: Bench, gan_cell: Atoms, ranks: int) -> None:
    """`save`: the run ends without an error, later ones are left out, and the log says what was seen."""
    run = f"{HEATED}thermo 100\nrun 2000\nprint 'after'\nrun 5\n"
    options = "save kept.extxyz uncertainty 2.0 20.0 every 5 check 3"
    log = run_deck(deck_with(bench64, crystal(gan_cell), options, run), bench64.folder, ranks=ranks)
    frames = read(bench64.folder / "kept.extxyz", index=":")
    largest = [frame.arrays["uncertainty"].max() for frame in frames]
    assert [frame.info["largest_uncertainty"] for frame in frames] == pytest.approx(largest, rel=1e-8)
    above = [bool(frame.info["above"]) for frame in frames]
    assert above == [value > 2.0 for value in largest] and not above[0] and above[-1]
    assert largest[-1] > 20.0 > max(largest[:-1])
    assert all(frame.info["check"] == (frame.info["look"] % 3 == 0) for frame in frames)
    assert all(frame.info["step"] == 5 * (frame.info["look"] - 1) for frame in frames)
    last = frames[-1].info["step"]
    assert f"So3krates: step {last}: uncertainty is " in log and "after" in log
    words = f"uncertainty was above 2 eV/A in {sum(above)} of {last // 5 + 1} frames, at most "
    assert words in log and "Loop time" in log
    # Another run adds its own; a file of something else is left as it is.
    run_deck(deck_with(bench64, crystal(gan_cell), options, f"{HEATED}run 10\n"), bench64.folder, ranks=ranks)
    assert len(read(bench64.folder / "kept.extxyz", index=":")) > len(frames)
    write(bench64.folder / "kept.extxyz", gan_cell)
    before = (bench64.folder / "kept.extxyz").read_bytes()
    with pytest.raises(LammpsError, match=r"save kept\.extxyz: a file of this name is there, and it is none of frames"):
        run_deck(deck_with(bench64, crystal(gan_cell), options, run), bench64.folder, ranks=ranks)
    assert (bench64.folder / "kept.extxyz").read_bytes() == before
