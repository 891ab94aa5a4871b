"""Builds wheel and sdist, has auditwheel say for which systems the wheel is, and tries both: `make wheel`."""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import make_venv

ROOT = Path(__file__).resolve().parents[1]
AUDITWHEEL = ROOT / ".venv" / "auditwheel"
DIST = ROOT / "build" / "dist"
DECK = """units metal
atom_style atomic
read_data gan.data
mass 1 69.723
mass 2 14.007
pair_style so3krates
pair_coeff * * gan-pbesol Ga N
velocity all create 600 1
fix 1 all nvt temp 300 300 0.1
run 20
"""
CRYSTAL = """
from ase.build import bulk
bulk('GaN', 'wurtzite', a=3.19, c=5.19, orthorhombic=True).repeat(2).write(
    'gan.data', format='lammps-data', specorder=['Ga', 'N'])
"""


def build() -> Path:
    """The wheel as pip builds it."""
    folder = ROOT / "build" / "wheel"
    shutil.rmtree(folder, ignore_errors=True)
    words = ["wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder), str(ROOT)]
    words += ["--config-settings", "cmake.define.SO3KRATES_OLD_SYSTEMS=ON"]
    # In a folder of its own: the environment's build has other settings.
    words += ["--config-settings", "build-dir=build/wheel-{wheel_tag}"]
    subprocess.run([sys.executable, "-m", "pip", *words], check=True)
    (wheel,) = folder.glob("*.whl")
    return wheel


def audit(wheel: Path) -> Path:
    """The same with the tag of the oldest systems that it runs on, in build/dist; nothing is put into it."""
    environment = os.environ | {
        "PYTHONPATH": str(AUDITWHEEL),
        "PATH": f"{AUDITWHEEL / 'bin'}{os.pathsep}{os.environ['PATH']}",
    }
    command = [sys.executable, "-m", "auditwheel"]
    shown = subprocess.run([*command, "show", str(wheel)], env=environment, check=True, capture_output=True, text=True)
    (tag,) = re.findall(r'following platform tag:\s+"(manylinux_\w+)"', shown.stdout)
    shutil.rmtree(DIST, ignore_errors=True)
    words = ["repair", "--plat", tag, "--wheel-dir", str(DIST), str(wheel)]
    subprocess.run([*command, *words], env=environment, check=True, capture_output=True)
    (repaired,) = DIST.glob("*.whl")
    return repaired


def build_sdist() -> Path:
    """The source as an archive, in build/dist."""
    code = f"import scikit_build_core.build as backend; print(backend.build_sdist({str(DIST)!r}))"
    said = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    return DIST / said.splitlines()[-1]


def attempt(package: Path) -> str:
    """Installs it with all that it asks for into an empty environment, and runs the deck of README there."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        make_venv.make(folder / "env")
        programs = folder / "env" / "bin"
        lock = ROOT / "constraints.txt"
        subprocess.run(
            [programs / "python", "-m", "pip", "install", "--quiet", "--no-compile", "--constraint", lock, package],
            check=True,
        )
        subprocess.run([programs / "python", "-c", CRYSTAL], cwd=folder, check=True)
        (folder / "in.gan").write_text(DECK)
        done = subprocess.run([programs / "lmp", "-in", "in.gan"], cwd=folder, capture_output=True, text=True)
        found = re.search(r"^Loop time of \S+ on \d+ procs for 20 steps with 64 atoms", done.stdout, re.MULTILINE)
        if done.returncode != 0 or found is None:
            raise RuntimeError(f"the deck did not run: {done.stdout[-1000:]}{done.stderr[-1000:]}")
        return found[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--build-only", action="store_true", help="without trying them, which downloads all of JAX")
    arguments = parser.parse_args()
    wheel = audit(build())
    print(f"{wheel}: {wheel.stat().st_size / 1e6:.1f} MB")
    source = build_sdist()
    print(f"{source}: {source.stat().st_size / 1e6:.1f} MB")
    if not arguments.build_only:
        for package in (wheel, source):
            print(f"{package.name} in an empty environment: {attempt(package)}")


if __name__ == "__main__":
    main()
