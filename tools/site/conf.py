"""Sphinx' settings of the documentation site (tools/make_site.py)."""

import importlib.metadata
from typing import Any, ClassVar

import latex2mathml.converter
from docutils import nodes
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


def as_mathml(translator: Any, node: Any) -> None:
    """A formula as MathML, which browsers show by themselves: no script, no font, no network."""
    display = "block" if isinstance(node, nodes.math_block) else "inline"
    translator.body.append(latex2mathml.converter.convert(node.astext(), display=display))
    raise nodes.SkipNode


def setup(app: Any) -> None:
    app.add_lexer("lammps", LammpsLexer)
    app.add_html_math_renderer("mathml", (as_mathml, None), (as_mathml, None))


project = "so3krates"
release = importlib.metadata.version("so3krates")
root_doc = "README"
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton"]
myst_heading_anchors = 4
myst_enable_extensions = ["dollarmath"]
html_math_renderer = "mathml"
nb_execution_mode = "off"  # notebooks hold what they found: make notebooks
autodoc_default_options = {"members": True, "member-order": "bysource"}
napoleon_google_docstring = True
html_theme = "furo"
html_title = f"so3krates {release}"
