"""What labels molten NaCl in study.py: the lines of tosi_fumi.in beside this file, which is that of ../nacl."""

from pathlib import Path

from so3krates.sampling import LammpsCalculator


def teacher() -> LammpsCalculator:
    """The calculator of the study's settings."""
    lines = Path(__file__).with_name("tosi_fumi.in").read_text().splitlines()
    charged = ["fix q all property/atom q ghost yes", *(line for line in lines if line and not line.startswith("#"))]
    return LammpsCalculator(charged, ("Na", "Cl"))
