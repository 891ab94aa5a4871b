"""Ways in which a deck makes its steps, and the boxes, ranks and styles that they are drawn with."""

import random
from dataclasses import dataclass

from cases import MD, Case, kind

BOXES = ("crystal", "orthorhombic", "triclinic", "tiny", "slab", "wire", "cluster")
PERIODIC = BOXES[:4]
SEED = 20250722
HOT = "velocity all create 1500 7 loop geom\nneigh_modify every 1 delay 0 check yes\n"
SHAKE = "displace_atoms all random 0.05 0.05 0.05 77 units box\n"


@dataclass(frozen=True)
class Way:
    """Lines of a deck, the last of which computes the forces that are there in the end and nothing else. PAIR stands
    for the lines of the pair style."""

    run: str
    before: str = ""  # the box is read
    boxes: tuple[str, ...] = BOXES
    most_ranks: int = 2
    is_alone: bool = False  # without other styles


WAYS = {
    "nve": Way(MD + "run 15"),
    "nvt": Way(HOT + "fix 1 all nvt temp 600 600 0.05\nrun 15"),
    "langevin": Way(HOT + "fix 1 all nve\nfix 2 all langevin 600 600 0.1 77 zero yes\nrun 15\nunfix 2\nrun 0"),
    "csvr": Way(HOT + "fix 1 all nve\nfix 2 all temp/csvr 600 600 0.1 77\nrun 15"),
    "npt iso": Way(HOT + "fix 1 all npt temp 600 600 0.05 iso 0 0 0.2\nrun 15", boxes=PERIODIC),
    "npt aniso": Way(HOT + "fix 1 all npt temp 600 600 0.05 aniso 0 1e4 0.2\nrun 15", boxes=PERIODIC),
    "npt tri": Way(HOT + "fix 1 all npt temp 600 600 0.05 tri 0 0 0.2\nrun 15", boxes=("triclinic",)),
    "nph, berendsen": Way(
        HOT + "fix 1 all nve\nfix 2 all press/berendsen iso 0 0 0.05 modulus 2e6\nrun 15\nunfix 2\nrun 0",
        boxes=("orthorhombic",),
    ),
    "respa": Way(
        HOT + "run_style respa 2 3 pair 2\nfix 1 all nve\nrun 8\nunfix 1\nrun_style verlet\nrun 0", is_alone=True
    ),
    "minimize cg": Way("min_style cg\nminimize 0 1e-3 3 20"),
    "minimize fire": Way("min_style fire\nminimize 0 1e-3 15 40"),
    "minimize sd": Way("min_style sd\nmin_modify dmax 0.05\nminimize 0 1e-3 8 40"),
    "box/relax": Way("fix 1 all box/relax iso 1e4 vmax 0.005\nminimize 0 1e-3 8 40", boxes=PERIODIC),
    "deform": Way(
        HOT + "fix 1 all nve\nfix 2 all deform 1 x erate 4 z erate -3 remap x\nrun 15\nunfix 2\nrun 0", boxes=PERIODIC
    ),
    "flip": Way(HOT + "fix 2 all deform 1 xy erate 60 remap x flip yes\nrun 15\nunfix 2\nrun 0", boxes=("triclinic",)),
    "nvt/sllod": Way(
        HOT
        + "fix 2 all deform 1 xy erate 2 remap v\nfix 1 all nvt/sllod temp 600 600 0.1\nrun 12\nunfix 1\n"
        + "unfix 2\nrun 0",
        boxes=("triclinic",),
    ),
    "atom/swap": Way("fix 1 all atom/swap 1 5 77 1e9 ke no types 1 2\nneigh_modify delay 1000\nrun 3"),
    "gcmc exchanges": Way(
        "group g type 2\nfix 1 g gcmc 1 20 0 2 77 900 -6.0 0.0 full_energy overlap_cutoff 1.3\nrun 3"
    ),
    "gcmc moves": Way(
        "group g type 2\nfix 1 g gcmc 1 8 8 2 77 900 -6.0 0.3 full_energy overlap_cutoff 1.3\nrun 3", most_ranks=1
    ),
    "widom": Way("group g type 2\nfix 1 g widom 1 6 2 77 900 full_energy\nrun 3"),
    "deposit": Way(
        HOT + "region top block 1 4 1 4 14 17 units box\nfix 1 all nve\n"
        "fix 2 all deposit 3 2 2 77 region top near 1.5 vz -20 -20\nrun 12",
        boxes=("slab",),
    ),
    "evaporate": Way(
        HOT + "fix 1 all nve\nregion top block INF INF INF INF 12 INF\nfix 2 all evaporate 4 3 top 49\nrun 12",
        boxes=("slab", "crystal"),
    ),
    "created": Way("create_atoms 2 random 3 77 NULL overlap 1.4 maxtry 500\nrun 1\nfix 1 all nve\nrun 3"),
    "deleted": Way("delete_atoms random fraction 0.2 yes all NULL 77 compress yes\nrun 1\nfix 1 all nve\nrun 3"),
    "types": Way("run 1\nset group all type/ratio 2 0.4 77\nrun 1"),
    "displaced": Way(SHAKE + f'run 9 every 3 "{SHAKE.strip()}"\nrun 0'),
    "replicated": Way("replicate 1 1 2\nfix 1 all nve\nrun 3", boxes=PERIODIC),
    "scaled box": Way("change_box all x scale 0.97 y scale 1.02 remap\nfix 1 all nve\nrun 3", boxes=PERIODIC),
    "tilted box": Way("change_box all triclinic\nchange_box all xy delta 0.4 remap\nrun 1", boxes=("orthorhombic",)),
    "pieces": Way(HOT + "fix 1 all nve\nrun 3\nrun 0\nrun 3 pre no post no\nrun 3 post no\nrun 2"),
    "new style": Way(HOT + "fix 1 all nve\nrun 3\nPAIRrun 3\nPAIRrun 3", is_alone=True),
    "restart": Way(
        HOT + "fix 1 all nve\nrun 4\nwrite_restart at.restart\nclear\nread_restart at.restart\nPAIR"
        "neighbor 1.0 bin\ntimestep 0.001\nfix 1 all nve\ncompute virial all pressure NULL virial\n"
        "compute energies all pe/atom pair\nthermo_style custom step pe c_virial[1]\nthermo_modify norm no\nrun 4",
        is_alone=True,
    ),
    "rerun": Way(
        HOT + "fix 1 all nve\ndump 1 all custom 4 again.dump id type x y z\ndump_modify 1 format float %.17g\n"
        "run 8\nundump 1\nunfix 1\nrerun again.dump dump x y z"
    ),
    "sorted": Way(MD + "run 12", before="atom_modify sort 1 2.0"),
    "omp": Way(MD + "run 10", before="package omp 1\nsuffix omp"),
    "nsq lists": Way(MD + "neighbor 0.7 nsq\nrun 10"),
    "wide skin": Way(MD + "neighbor 2.5 bin\nrun 10"),
    "no skin": Way(MD + "neighbor 0.01 bin\nneigh_modify every 1 delay 0 check no\nrun 5"),
    "once": Way("neigh_modify once yes\nfix 1 all nve\nrun 5"),
    "wide ghosts": Way(MD + "comm_modify cutoff 9\nrun 8"),
    "velocities of ghosts": Way(MD + "comm_modify vel yes\nrun 8"),
    "tiled": Way(
        MD + "fix 2 all balance 4 1.0 rcb\nrun 10", before="comm_style tiled", boxes=("crystal", "orthorhombic")
    ),
    "balanced": Way(MD + "fix 2 all balance 4 1.0 shift xyz 5 1.05\nrun 10", boxes=("slab", "cluster", "wire")),
    "frozen": Way(HOT + "group f id <= 5\nfix 1 all nve\nfix 2 f setforce 0 0 0\nrun 8\nunfix 2\nrun 0"),
    "spring": Way(HOT + "fix 1 all nve\nfix 2 all spring/self 2.0\nrun 8\nunfix 2\nrun 0"),
}


def draws(number: int, seed: int = SEED) -> list[tuple[str, Case, int]]:
    """Cases with a name and a number of ranks: every way in turn, with everything else at random."""
    choose = random.Random(seed)
    found = []
    names = list(WAYS)
    for k in range(number):
        name = names[k % len(names)]
        way = WAYS[name]
        box, ranks = choose.choice(way.boxes), choose.randint(1, way.most_ranks)
        newton = choose.choice(("on", "off"))
        others = "" if way.is_alone else choose.choice(("", "", " zero 3.0\npair_coeff * * zero\n"))
        case = Case(kind(box), way.before, way.run, newton=newton, others=others)
        label = f"{k} {name}, {box}, {ranks} ranks, newton {newton}{', hybrid' if others else ''}"
        found.append((label, case, ranks))
    return found
