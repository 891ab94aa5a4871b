"""Cost of an evaluation with per-atom virials (a heat-flux step) over one without, fused body, one thread.

The two take turns, so that whatever else the machine does meets both. Prints medians of each and of their ratios, in
time on the wall and of the processor.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

from so3krates.runtime import Runtime
from so3krates_export.export import export_model

from bench import model, structure


def times(runtime: Runtime, atoms, with_virials: bool) -> tuple[float, float]:
    """Seconds of one evaluation, wall and processor."""
    wall, processor = time.perf_counter(), time.process_time()
    runtime.evaluate(atoms, with_virials=with_virials)
    return time.perf_counter() - wall, time.process_time() - processor


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--atoms", type=int, nargs="*", default=[864, 4000])
    parser.add_argument("--pairs", type=int, default=40, help="evaluations of each kind")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        bundle = Path(folder) / "fused.so3k"
        export_model(model(), bundle, body="fused")
        runtime = Runtime(bundle, threads=1, cache="off")
        for count in options.atoms:
            atoms = structure(count)
            for with_virials in (False, True, False, True):
                times(runtime, atoms, with_virials)
            pairs = [(times(runtime, atoms, False), times(runtime, atoms, True)) for _ in range(options.pairs)]
            for clock, name in enumerate(("wall", "processor")):
                plain, virials = (statistics.median(pair[kind][clock] for pair in pairs) for kind in (0, 1))
                ratio = statistics.median(pair[1][clock] / pair[0][clock] for pair in pairs)
                fastest = min(p[1][clock] for p in pairs) / min(p[0][clock] for p in pairs)
                print(
                    f"{count:6} atoms, {name:9}: {1e6 * plain / count:7.1f} us/atom without, "
                    f"{1e6 * virials / count:7.1f} with; ratio of pairs {ratio:.2f}, of the fastest {fastest:.2f}"
                )


if __name__ == "__main__":
    main()
