"""The code blocks of README and docs, and the commands in README's table."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
LANGUAGES = ("bash", "json", "lammps", "python", "text", "toml")


@dataclass(frozen=True)
class Block:
    """One fenced block: its page, the line on which it begins, its language, its text."""

    page: str
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def blocks(language: str | None = None) -> list[Block]:
    """All blocks, or those in one language."""
    found = []
    for page in PAGES:
        content = page.read_text(encoding="utf-8")
        for match in re.finditer(r"^```(\w*)\n(.*?)^```", content, re.MULTILINE | re.DOTALL):
            line = content.count("\n", 0, match.start()) + 1
            found.append(Block(page.relative_to(ROOT).as_posix(), line, match[1], match[2]))
    return [block for block in found if language in (None, block.language)]


def table_commands() -> list[str]:
    """What README's table of commands shows in its first column."""
    rows = re.findall(r"^\| `(so3krates [^`]+)` \|", PAGES[0].read_text(encoding="utf-8"), re.MULTILINE)
    return [row.replace(r"\|", "|") for row in rows]


def lines_of(text: str) -> list[str]:
    """The commands of a shell block: no comments, continued lines joined."""
    joined = text.replace("\\\n", " ")
    commands = (re.sub(r"(^|\s)#.*$", "", line).strip() for line in joined.splitlines())
    return [command for command in commands if command]
