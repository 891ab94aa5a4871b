"""Families: folders with a runner, what it needs, and the environment that is made of it on demand."""

from __future__ import annotations

import dataclasses
import fcntl
import hashlib
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

from so3krates.files import make_folder, write_text
from so3krates.model.config import ConfigError
from so3krates.training.checks import require

SHIPPED = Path(__file__).resolve().parent.parent / "families"
SETTINGS, RUNNER = "family.toml", "run.py"
# What pip installs, and what it installs without looking at what that needs.
REQUIREMENTS, BARE = "requirements.txt", "requirements-no-deps.txt"
MADE = "made"  # file in an environment that was made to its end: the digest of its requirements


class FamilyError(RuntimeError):
    """A family that cannot be used; its row says so, and the others go on."""


@dataclasses.dataclass(frozen=True)
class Family:
    """A family as its family.toml has it."""

    name: str
    folder: Path  # of the runner and its requirements
    title: str
    cutoff: float = 6.0  # A, up to which pairs of atoms are examined; an option of that name has the last word
    base: str = ""  # the family whose runner and environment it has, with other options
    options: dict[str, Any] = dataclasses.field(default_factory=dict)  # with their defaults

    def __post_init__(self) -> None:
        place = f"{self.name}/{SETTINGS}"
        require(isinstance(self.options, dict), place, "options", self.options, "a section of keys")

    @property
    def runner(self) -> Path:
        return self.folder / RUNNER

    @property
    def environment_name(self) -> str:
        return self.base or self.name

    def environment(self, folder: Path) -> Path:
        """The Python that runs it: of an environment in `folder`, made where it is missing; without requirements ours.

        Raises FamilyError with the last words of pip where it cannot be made.
        """
        file = self.folder / REQUIREMENTS
        if not file.is_file():
            return Path(sys.executable)
        place = folder / self.environment_name
        bare = self.folder / BARE
        needs = file.read_bytes() + (bare.read_bytes() if bare.is_file() else b"")
        digest = hashlib.sha256(needs + sys.version.encode()).hexdigest()
        python, made = place / "bin" / "python", place / MADE
        make_folder(folder)
        log = folder / f"{self.environment_name}.log"
        # By the pip of this environment: Debian's Python cannot give a new one its own.
        install = [sys.executable, "-m", "pip", "--python", str(python), "install", "--disable-pip-version-check"]
        commands = [[sys.executable, "-m", "venv", "--without-pip", str(place)], [*install, "-r", str(file)]]
        commands += [[*install, "--no-deps", "-r", str(bare)]] if bare.is_file() else []
        with open(folder / f"{self.environment_name}.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # another comparison may be making it
            if python.exists() and made.is_file() and made.read_text() == digest:
                return python
            shutil.rmtree(place, ignore_errors=True)
            with open(log, "w") as words:
                for command in commands:
                    done = subprocess.run(command, stdout=words, stderr=words, stdin=subprocess.DEVNULL)
                    if done.returncode:
                        raise FamilyError(f"its environment cannot be made: {_last_error(log)} (all of it: {log})")
            write_text(made, digest)
        return python

    def versions(self, python: Path) -> dict[str, str]:
        """Versions of the packages that its requirements name."""
        files = [file for file in (self.folder / REQUIREMENTS, self.folder / BARE) if file.is_file()]
        if not files:
            return {}
        program = (
            "import sys, re, importlib.metadata as m\n"
            "for line in [line for file in sys.argv[1:] for line in open(file)]:\n"
            "    name = re.match(r'[\\w.-]*', line)[0]\n"
            "    if name and not name.startswith('-'): print(name, m.version(name))"
        )
        found = subprocess.run([python, "-c", program, *files], capture_output=True, text=True).stdout
        return dict(line.split(" ", 1) for line in found.splitlines())


def families(further: str | None = None) -> dict[str, Family]:
    """Families that come with the package, and those of another folder, by name. Raises ConfigError."""
    places = [SHIPPED] + ([] if further is None else [Path(further)])
    found: dict[str, Family] = {}
    contents: dict[str, tuple[Path, dict[str, Any]]] = {}
    for place in places:
        for file in sorted(place.glob(f"*/{SETTINGS}")):
            try:
                contents[file.parent.name] = file.parent, tomllib.loads(file.read_text(encoding="utf-8"))
            except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
                raise ConfigError(f"{file}: {error}") from error
    if not contents:
        raise ConfigError(
            f"no family of potentials in {' or '.join(map(str, places))}: each is a folder with {SETTINGS}"
        )
    known = [field.name for field in dataclasses.fields(Family) if field.name not in ("name", "folder")]
    for name, (folder, content) in contents.items():
        base = content.get("base", "")
        if base and base not in contents:
            raise ConfigError(f"{folder / SETTINGS}: base = {base!r} is no family")
        if base:
            folder, lower = contents[base]
            content = {**lower, **content, "options": {**lower.get("options", {}), **content.get("options", {})}}
        for key in content:
            if key not in known:
                raise ConfigError(f"{folder / SETTINGS}: unknown key {key}: known are {', '.join(known)}")
        found[name] = Family(name, folder, **{"title": name, **content})
        if not found[name].runner.is_file():
            raise ConfigError(f"{found[name].runner} is missing: it trains and predicts")
    return found


def _last_error(log: Path) -> str:
    """What pip said last of an error."""
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith(("ERROR", "error", "Error"))]
    return (errors or lines or ["no word was said"])[-1][:300]
