"""Sphinx' settings of the documentation site (tools/make_site.py)."""

import importlib.metadata
from typing import Any, ClassVar

from pygments.lexer import RegexLexer
from pygments.token import Comment, Keyword, Name, Number, String, Text


class LammpsLexer(RegexLexer):
    """Decks: a command and its words, variables, comments."""

    name = "LAMMPS"
    aliases: ClassVar = ["lammps"]
    tokens: ClassVar = {
        "root": [
            (r"#.*", Comment.Single),
            (r"(?m)^[ \t]*[a-z_]+", Keyword),
            (r"\$\{\w+\}|\$\([^)]*\)|\$\w|\b[vcf]_\w+", Name.Variable),
            (r'"[^"\n]*"|\'[^\'\n]*\'', String),
            (r"[-+]?\d+(\.\d*)?([eE][-+]?\d+)?\b", Number),
            (r"\s+|.", Text),
        ]
    }


def setup(app: Any) -> None:
    app.add_lexer("lammps", LammpsLexer)


project = "so3krates"
release = importlib.metadata.version("so3krates")
root_doc = "README"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton"]
myst_heading_anchors = 4
autodoc_default_options = {"members": True, "member-order": "bysource"}
napoleon_google_docstring = True
html_theme = "furo"
html_title = f"so3krates {release}"
