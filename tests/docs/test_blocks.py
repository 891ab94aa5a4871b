"""Every block in README and docs that a reader may copy runs: shell, decks, Python, settings.

Shell commands run as they stand but for their sizes (`SMALLER`). What cannot run in a test (installing, a GPU, the test
suite itself) is checked as far as can be: `CHECKED` has a test for each such program.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import ase.io
import jax
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.singlepoint import SinglePointCalculator
from blocks import LANGUAGES, PAGES, ROOT, Block, blocks, lines_of, table_commands
from foreign import compressed, write_ml_ab, write_mtp, write_vasprun
from original import write_module
from original_so3lr import original_arrays, write_params
from quick import quick_generator
from so3krates.campaign import read_campaign
from so3krates.cli import app
from so3krates.comparison import CompareSettings
from so3krates.learning.config import LabelConfig
from so3krates.phonons import harmonic
from so3krates.physics import read_reference
from so3krates.planning import Machine, write_machine
from so3krates.storage import Model
from so3krates_export import read_bundle, write_bundle
from so3krates_export.export import export_model
from so3krates_export.ladder import Rung
from typer.testing import CliRunner

SMALL_NETWORK = ("model.features=12", "model.layers=1")
SMALL_RUN = ("training.epochs=1", "training.optimiser=adam", "data.n_train=4", "data.n_valid=2")
SMALL_TRAINING = " ".join(f"--set {setting}" for setting in (*SMALL_RUN, *SMALL_NETWORK))
SMALLER = {  # sizes that a reader wants and a test does not
    r"--frames \d+": "--frames 1",
    r"--temperatures [\d,]+": "--temperatures 300",
    r"--strains=[-\d.,]+": "--strains=0",
    r"--pressures [\d,]+": "--pressures 0",
    r"--equilibrate \d+": "--equilibrate 0.01 --every 0.01 --repeats 2,1,1",
    r"sample harmonic": "sample harmonic --repeats 2,1,1",
    r"--processes 4": "--processes 2",
    r"phonons (gan\S*)": r"phonons \1 --supercell 2,2,2",
    r"--meshes 20,30": "--meshes 3x3x3 --supercell-kappa 1,1,1 --pair-cutoff 2.1",
    r"-n 256": "-n 2",
    r"train (settings.toml|data.extxyz)": rf"train \1 {SMALL_TRAINING} --no-physics",
    r"train --from trained --data data.extxyz": r"\g<0> --no-physics --set training.optimiser=adam",
    r"training.epochs=20": "training.epochs=2",
    r"check model": "check model --steps 0",
    r"learn settings.toml -o learning": "learn --help",
    r"learn gan.toml -o gan": "learn --help",  # below, with `make torture`; loops: tests/python/test_learning.py
    r"(export model --platform cuda.*)": r"\1 --help",  # tests/python/test_export.py
    r"(export so3lr --platform cuda.*)": r"\1 --help",  # tests/python/test_so3lr_cuda.py
    r"(export so3lr -o anions.so3k.*)": r"\1 --help",  # tests/lammps/test_so3lr_in_lammps.py
    r"learn (water|sic).toml": r"learn --help #",  # needs pw.x; tests/python/test_learning_espresso.py runs one
    r"compare settings.toml -o compare": "compare --help",  # it makes environments; tests/python/test_comparison.py
    r"--amplitudes [\d.,]+": "--amplitudes 0.05,0.1",
    r"^run( +)\d+": r"run\g<1>2",
    r"--time \d+": "--time 1",
    r"equilibrate=\d+": "equilibrate=20",
    r"nz=12": "nz=6",
    r"nx=3 ny=2 nz=4": "nx=2 ny=2 nz=2",
    r"run in.green_kubo": "run in.green_kubo "
    + " ".join(f"--var {v}" for v in ("nx=2", "ny=2", "nz=2", "equilibrate=5", "produce=5")),
    r"kappa --run campaign.toml": "kappa --help",  # tests/python/test_campaign.py runs one
    r"gk.2.flux": "gk.2.flux --cutoff-time 0.1",
    r"block=\d+": "block=50",
    r"--skip 8 --margin 4": "--skip 2 --margin 2",
    r"repeats=\(3, 3, 2\)": "repeats=(2, 1, 1)",
    r"frames=50": "frames=1, equilibration=0.01, interval=0.01",
}
WIDEST = 120
LIMIT = 300  # seconds for one block: a guard against hanging
# What a page leaves out of a deck: the crystal, a third type of atoms, lines that stand on another page.
CRYSTAL = """
units metal
atom_style atomic
read_data gan.data extra/atom/types TYPES
mass 1 69.723
mass 2 14.007
mass 3 40.0
"""


def smaller(text: str) -> str:
    for pattern, replacement in SMALLER.items():
        text = re.sub(pattern, replacement, text, flags=re.MULTILINE)
    return text


def gan_frames(count: int) -> list[Atoms]:
    """Displaced GaN crystals with labels of the small potential's kind."""
    from so3krates.calculator import So3kratesCalculator

    calculator = So3kratesCalculator("gan.so3k")
    frames = []
    for seed in range(count):
        atoms = bulk("GaN", "wurtzite", a=3.19, c=5.19).repeat((2, 1, 1))
        atoms.positions += np.random.default_rng(seed).normal(0.0, 0.05, atoms.positions.shape)
        labels = {name: calculator.get_property(name, atoms) for name in ("energy", "forces", "stress")}
        labelled = Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=True)
        labelled.calc = SinglePointCalculator(labelled, **labels)
        frames.append(labelled)
    return frames


def molecules(path: Path) -> None:
    """Molecules and ions with the forces of SO3LR's original code."""
    reference = ROOT / "tests" / "reference" / "so3lr"
    frames = ase.io.read(reference / "molecules.extxyz", ":")
    with np.load(reference / "expected.npz") as archive:
        for atoms in frames:
            labels = {key: archive[f"{atoms.info['name']}/{key}"] for key in ("energy", "forces")}
            atoms.calc = SinglePointCalculator(atoms, energy=float(labels["energy"]), forces=labels["forces"])
    ase.io.write(path, frames)


def small_loop(folder: Path) -> None:
    """The example of learning, with fewer and shorter trainings and runs."""
    shutil.copytree(ROOT / "examples" / "learning", folder)
    settings = folder / "gan.toml"
    text = settings.read_text()
    for key, value in {"steps": 20, "retrain_steps": 10, "labels_per_round": 2, "checks_per_round": 1}.items():
        text, found = re.subn(rf"^{key} = \d+", f"{key} = {value}", text, flags=re.MULTILINE)
        assert found == 1
    text = re.sub(r"^max_rounds = \d+", "max_rounds = 1", text, flags=re.MULTILINE)
    settings.write_text(text + "\n[model]\nfeatures = 16\nlayers = 1\n")
    deck = folder / "in.gan"
    deck.write_text(re.sub(r"index 4000", "index 40", deck.read_text()))


def flux_log(path: Path, seed: int) -> None:
    """A log of a run at constant energy, its flux a noise that forgets itself."""
    path.parent.mkdir(exist_ok=True)
    rng = np.random.default_rng(seed)
    flux = np.zeros((4000, 3))
    for k in range(1, len(flux)):
        flux[k] = 0.8 * flux[k - 1] + rng.standard_normal(3)
    names = ("c_flux[1]", "c_flux[2]", "c_flux[3]")
    rows = [f"{10 * k} {0.01 * k:.2f} 300 5000 {x:.8f} {y:.8f} {z:.8f}" for k, (x, y, z) in enumerate(flux)]
    head = f"   Step          Time           Temp         Volume     {'   '.join(names)}"
    path.write_text("units metal\n" + "\n".join([head, *rows]) + "\nLoop time of 1.0 on 1 procs\n")


@pytest.fixture(scope="module")
def folder(small_model_folder: Path, gan_bundle32: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the files that the pages name."""
    folder = tmp_path_factory.mktemp("docs")
    model = Model.load(small_model_folder)
    # As of a model that was trained today.
    limits = {"distances": {"Ga-Ga": 1.6, "Ga-N": 1.6, "N-N": 1.6}, "largest_force": 100.0}
    model = dataclasses.replace(model, training={**(model.training or {}), **limits})
    model.save(folder / "trained")
    bundle = read_bundle(gan_bundle32)
    guard = {"distances": [[1.6, 1.6], [1.6, 1.6]], "largest_force": 100.0}
    write_bundle(folder / "gan.so3k", {**bundle.manifest, "guard": guard}, bundle.tensors)
    other = dataclasses.replace(model, params=jax.tree.map(lambda p: 1.01 * p, model.params))
    for seed, member in enumerate((model, other)):
        member.save(folder / "models" / f"seed-{seed}")
    export_model(model, folder / "committee.so3k", others=[other], ladder=[Rung(256, 4608, 192, 64)])
    before = Path.cwd()
    os.chdir(folder)
    try:
        frames = gan_frames(8)
    finally:
        os.chdir(before)
    for name in ("data", "test", "pool"):
        ase.io.write(folder / f"{name}.extxyz", frames)
    crystal = bulk("GaN", "wurtzite", a=3.19, c=5.19).repeat((3, 3, 2))
    ase.io.write(folder / "gan.data", crystal, format="lammps-data", specorder=["Ga", "N"])
    ase.io.write(folder / "gan.extxyz", bulk("GaN", "wurtzite", a=3.19, c=5.19))
    ase.io.write(folder / "nacl.xyz", bulk("NaCl", "rocksalt", a=5.64), format="extxyz")
    write_module(folder / "module")
    so3lr = ROOT / "examples" / "models" / "so3lr"
    write_params(folder / "params.pkl", original_arrays(Model.load(so3lr)))
    shutil.copytree(so3lr, folder / "so3lr")
    molecules(folder / "molecules.extxyz")
    water = Atoms(molecule("H2O"), cell=[4.6, 4.4, 4.5], pbc=True)
    ase.io.write(folder / "water.data", water, format="lammps-data", specorder=["O", "H"])
    for file in (ROOT / "examples" / "lammps" / "gan_kappa").iterdir():
        shutil.copyfile(file, folder / file.name)
    (settings,) = (block.text for block in blocks("toml") if block.page == "docs/training.md")
    (folder / "settings.toml").write_text(settings)
    (folder / "vasp-runs").mkdir()
    write_vasprun(folder / "vasp-runs", [compressed()])
    for write in (write_ml_ab, write_mtp):
        write(folder, [compressed()])
    small_loop(folder / "examples" / "learning")
    shutil.copyfile(ROOT / "examples" / "lammps" / "in.gan", folder / "in.gan")
    write_machine(folder / "node.json", Machine(4, 16e9, 2e-4, 4e-5, 4e-5, 1e-5, 0.95, 2e-6, 0.1, 1e8, 12e3, 7e3))
    for seed, name in enumerate(("log.1", "log.2", "seed1/log.lammps", "seed2/log.lammps")):
        flux_log(folder / name, seed)
    return folder


@pytest.fixture(scope="module", autouse=True)
def _coarse() -> Iterator[None]:
    """Densities of states of phonons are of few points: nobody looks at them here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(harmonic, "PARTS_MESH", 10.0)
        yield


def shell(command: str, folder: Path) -> str:
    """Runs a command with this environment's programs first; its output."""
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", command],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=LIMIT,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
    return done.stdout


def is_plain(line: str) -> bool:
    """Whether a line is one command of ours, with nothing in it that a shell would see to."""
    return line.startswith("so3krates ") and not re.search(r"[$`;&|<>*?#~\\\n]", line)


def run_lines(lines: str, folder: Path) -> None:
    """Runs a block. Where a shell has nothing to do, in this process: a start and what JAX traces once cost seconds."""
    if not all(is_plain(line) for line in lines.splitlines()):
        shell(lines, folder)
        return
    for line in lines.splitlines():
        with contextlib.chdir(folder):
            done = CliRunner().invoke(app, shlex.split(line)[1:])
        assert done.exit_code == 0, f"{line}\n{done.output[-2000:]}"


def a_make_target(command: str, folder: Path) -> None:
    shell(f"make -n -C {shlex.quote(str(ROOT))} {' '.join(command.split()[1:])}", folder)


def an_extra(command: str, folder: Path) -> None:
    """Installing would take gigabytes; that the extra exists can be seen."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for extra in re.findall(r"\.\[([\w,]+)\]", command):
        assert set(extra.split(",")) <= project["optional-dependencies"].keys()


def options_of_the_kit(command: str, folder: Path) -> None:
    """Has tests of its own; here its options are looked for in its help."""
    text = shell(shlex.join([sys.executable, str(ROOT / "bench" / "gpu"), "--help"]), folder)
    for option in re.findall(r"--[\w-]+", command):
        assert option in text


def options_of_the_builder(command: str, folder: Path) -> None:
    """Needs another LAMMPS; `make matrix` runs it where there is one."""
    text = shell("so3krates build-plugin --help", folder)
    for option in re.findall(r" (--?[a-z]+)", command):
        assert option in text


def a_program_of_the_system(command: str, folder: Path) -> None:
    """Of another build than this package's: nothing can be said here."""


CHECKED: dict[str, Callable[[str, Path], None]] = {
    "apt-get": a_program_of_the_system,
    # Of what apt-get has brought.
    "for package in archives/*.deb; do": a_program_of_the_system,
    "libraries=$(echo": a_program_of_the_system,
    'export ESPRESSO_COMMAND="env': a_program_of_the_system,
    "export ESPRESSO_PSEUDO=$PWD/usr/share/espresso/pseudo": a_program_of_the_system,
    "cmake": a_program_of_the_system,
    "so3krates build-plugin": options_of_the_builder,
    "make": a_make_target,
    "pip": an_extra,
    "bench/gpu": options_of_the_kit,
}


def checked(command: str) -> Callable[[str, Path], None] | None:
    """What is done in place of running the command, if anything."""
    program = command.removeprefix(".venv/bin/")
    return next((check for name, check in CHECKED.items() if program == name or program.startswith(f"{name} ")), None)


_succeeded: set[str] = set()


def run_command(command: str, folder: Path) -> None:
    """Runs a command once: pages repeat what others show."""
    if command in _succeeded:
        return
    _run_command(command, folder)
    _succeeded.add(command)


def _run_command(command: str, folder: Path) -> None:
    check = checked(command)
    if check:
        check(command, folder)
        return
    for made in ("model", "kappa", "data.extxyz", "selected.extxyz", "harmonic.extxyz", "hot.extxyz", "rattled.extxyz"):
        if re.search(rf"-o {made}\b", command):
            shell(f"rm -rf {made} {made}.parts", folder)
    if re.search(r"\bmodel\b", command) and "-o model" not in command:
        shell("rm -rf model; cp -r trained model", folder)
    run_lines(smaller(command), folder)


def test_every_block_names_its_language() -> None:
    assert [f"{block}: '{block.language}'" for block in blocks() if block.language not in LANGUAGES] == []


@pytest.mark.parametrize("block", blocks("bash"), ids=str)
def test_shell(block: Block, folder: Path) -> None:
    commands = lines_of(block.text)
    assert commands
    if any(checked(command) for command in commands):
        for command in commands:
            run_command(command, folder)
    else:
        run_command("\n".join(commands), folder)


@pytest.mark.torture
def test_the_example_of_learning(folder: Path) -> None:
    shell("cd examples/learning; so3krates learn gan.toml -o gan", folder)


@pytest.mark.parametrize("command", table_commands())
def test_table_of_commands(command: str, folder: Path) -> None:
    run_command(command, folder)


def whole_deck(block: Block) -> str:
    """The block with what its page leaves out before it, and a run of two steps."""
    deck = block.text
    if "pair_style" not in deck:
        (flux,) = (b.text for b in blocks("lammps") if b.page == "docs/heat_flux.md" and "heat/flux" in b.text)
        deck = flux + deck
    if "read_data" not in deck:
        third = re.search(r"^pair_coeff.* NULL", deck, re.MULTILINE) is not None
        crystal = CRYSTAL if third else CRYSTAL.replace(" extra/atom/types TYPES", "").replace("mass 3 40.0\n", "")
        deck = crystal.replace("TYPES", "1") + deck.replace("units           metal\n", "")
    deck = re.sub(r" device (cuda|rocm)|(?<=gan)\.(cuda|rocm)(?=\.so3k)", "", deck)
    return smaller(deck) if re.search(r"^run ", deck, re.MULTILINE) else deck + "\nrun 2\n"


@pytest.mark.parametrize("block", blocks("lammps"), ids=str)
def test_deck(block: Block, folder: Path) -> None:
    if "so3lr.so3k" in block.text and not (folder / "so3lr.so3k").exists():
        export_model(Model.load(folder / "so3lr"), folder / "so3lr.so3k", ladder=[Rung(256, 17408, 1536, 64)])
    (folder / "in.block").write_text(whole_deck(block))
    assert "Loop time" in shell("lmp -in in.block -log none", folder)


@pytest.mark.parametrize("block", blocks("toml"), ids=str)
def test_settings(block: Block, folder: Path) -> None:
    from so3krates.training import RunConfig

    content = tomllib.loads(block.text)
    if "crystals" in content:
        (folder / "campaign.toml").write_text(block.text)
        assert read_campaign(folder / "campaign.toml").crystals
        return
    if content.keys() == {"label"}:  # a part of a loop's settings
        assert LabelConfig(**content["label"])
        return
    (folder / "block.toml").write_text(block.text)
    if "compare" in content:
        assert CompareSettings.load(folder / "block.toml").families
        return
    config = RunConfig.load(folder / "block.toml")
    assert config.baseline if content.keys() == {"baseline"} else config.data.file


@pytest.mark.parametrize("block", blocks("json"), ids=str)
def test_reference_values(block: Block, folder: Path) -> None:
    (folder / "block.json").write_text(block.text)
    assert read_reference(folder / "block.json")


@pytest.mark.parametrize("block", blocks("python"), ids=str)
def test_python(block: Block, folder: Path) -> None:
    start = (
        "import ase.build\n"
        "atoms = ase.build.bulk('GaN', 'wurtzite', a=3.19, c=5.19)\n"
        "atoms.set_velocities([[0.01, 0, 0], [0, 0, 0], [-0.01, 0, 0], [0, 0, 0]])\n"
    )
    (folder / "block.py").write_text(start + smaller(block.text))
    shell(f"rm -rf hot.extxyz*; XLA_FLAGS={shlex.quote(quick_generator())} python block.py", folder)


def test_prose_fits_a_screen() -> None:
    """A sentence begins on a line of its own; only tables and code may be wider than 120."""
    wide = []
    for page in PAGES:
        code = False
        for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
            code ^= line.lstrip().startswith("```")
            if not code and len(line) > WIDEST and not line.startswith("|"):
                wide.append(f"{page.name}:{number}: {len(line)}")
    assert wide == []
