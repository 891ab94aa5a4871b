"""Lines of a deck for a potential and its baselines (docs/baselines.md), as the pair style itself says them."""

from __future__ import annotations

from collections.abc import Sequence

from .baselines import Baseline, Coefficients


def overlay_lines(
    baselines: Sequence[Baseline], potential: str, elements: Sequence[str], options: str = ""
) -> list[str]:
    """Of a periodic box whose atom types are these elements; words `options` of pair_style follow so3krates.

    Baselines for which LAMMPS has no style are left out.
    """
    decks = [(part.elements, part.deck()) for part in baselines if part.deck().pair_style]
    own = f"so3krates {options}".rstrip()
    if not decks:
        return [f"pair_style {own}", f"pair_coeff * * {potential} {' '.join(elements)}"]
    charged = [dict(deck.charges) for _, deck in decks if deck.charges]
    lines = ["fix charges all property/atom q ghost yes"] if charged else []
    for charges in charged:
        lines += [f"set type {k} charge {charges[e]:.15g}" for k, e in enumerate(elements, 1) if e in charges]
    lines.append(" ".join(["pair_style hybrid/overlay", own, *(deck.pair_style for _, deck in decks)]))
    lines.append(f"pair_coeff * * so3krates {potential} {' '.join(elements)}")
    for theirs, deck in decks:
        for given in deck.pair_coeff:
            if set(given.pair) <= set(elements):
                first, second, *words = _named(given, theirs, elements).line(elements).split()[1:]
                lines.append(" ".join(["pair_coeff", first, second, deck.pair_style.split()[0], *words]))
    return lines + [f"kspace_style {deck.kspace_style}" for _, deck in decks if deck.kspace_style]


def _named(given: Coefficients, theirs: Sequence[str], elements: Sequence[str]) -> Coefficients:
    """Words that end with the elements of all types: with those of this deck."""
    words = given.words.split()
    if given.pair or not theirs or words[-len(theirs) :] != list(theirs):
        return given
    return given._replace(words=" ".join([*words[: -len(theirs)], *elements]))
