"""One page of what was measured, in Markdown, beside what was predicted; standard library only."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

NOT_YET = "-"


class Quantity(NamedTuple):
    """A row of the table of predictions; `measured` finds its value among a run's phases, or None."""

    what: str
    predicted: str  # of an H200
    measured: Callable[[dict[str, Any]], float | None]
    form: str


def results(known: dict[str, Any], phase: str) -> dict[str, Any]:
    """What a phase found, nothing where it did not run."""
    return known.get("phases", {}).get(phase, {}).get("results", {})


def _size(body: str, asked: int, key: str, scale: float = 1.0) -> Callable[[dict[str, Any]], float | None]:
    def find(known: dict[str, Any]) -> float | None:
        for row in results(known, "speed").get("sizes", ()):
            if (row["body"], row["asked"]) == (body, asked) and row.get(key) is not None:
                return float(row[key]) * scale
        return None

    return find


def _largest(known: dict[str, Any]) -> float | None:
    rows = [r for p in ("speed", "growth") for r in results(known, p).get("sizes", ()) if "bytes_per_atom" in r]
    return max((row["atoms"] for row in rows), default=None)


def _ceiling(key: str, scale: float) -> Callable[[dict[str, Any]], float | None]:
    return lambda known: results(known, "ceilings")[key] * scale if key in results(known, "ceilings") else None


def _worst(network: str) -> Callable[[dict[str, Any]], float | None]:
    return lambda known: (
        results(known, "cell").get("bundles", {}).get(network, {}).get("errors", {}).get("forces")
    )  # fmt: skip


QUANTITIES = (
    Quantity("kernels, 108 000 atoms: million atom-steps/s", "2.8 to 3.7",
             _size("kernels", 108_000, "atom_steps_per_second", 1e-6), "{:.2f}"),
    Quantity("kernels, a million atoms: ms/step", "270 to 360", _size("kernels", 1_000_000, "ms_per_step"), "{:.0f}"),
    Quantity("kernels, 864 atoms: ms/step", "0.5 to 1", _size("kernels", 864, "ms_per_step"), "{:.2f}"),
    Quantity("portable body, 108 000 atoms: million atom-steps/s", "0.2 to 0.4",
             _size("portable", 108_000, "atom_steps_per_second", 1e-6), "{:.2f}"),
    Quantity("kernels, 108 000 atoms: kB/atom", "14.0",
             _size("kernels", 108_000, "bytes_per_atom", 1e-3), "{:.1f}"),
    Quantity("kernels, a million atoms: kB/atom", "11.2",
             _size("kernels", 1_000_000, "bytes_per_atom", 1e-3), "{:.1f}"),
    Quantity("largest size that ran, atoms", "12 million", _largest, "{:.0f}"),
    Quantity("heat flux in every step, 108 000 atoms: times a step without", "2",
             _size("kernels", 108_000, "with_flux"), "{:.2f}"),
    Quantity("forces, float32, of the largest force", "below 2e-5", _worst("gan"), "{:.1e}"),
    Quantity("copy, GB/s", "4300", _ceiling("copy_bytes_per_second", 1e-9), "{:.0f}"),
    Quantity("matrix product, float32, TFLOP/s", "50", _ceiling("float32_flops", 1e-12), "{:.1f}"),
    Quantity("matrix product, TF32, TFLOP/s", "400", _ceiling("tf32_flops", 1e-12), "{:.0f}"),
)  # fmt: skip


def table(titles: Iterable[str], rows: Iterable[Iterable[str]]) -> list[str]:
    """A Markdown table."""
    titles = list(titles)
    return ["| " + " | ".join(line) + " |" for line in (titles, ["---"] * len(titles), *map(list, rows))]


def compared(runs: list[dict[str, Any]]) -> list[str]:
    """Predictions beside the measurements of any number of runs."""

    def cell(quantity: Quantity, known: dict[str, Any]) -> str:
        value = quantity.measured(known)
        return NOT_YET if value is None else quantity.form.format(value)

    titles = ["", "predicted for an H200", *(device_name(known) for known in runs)] + ([] if runs else ["measured"])
    empty = [] if runs else [NOT_YET]
    return table(titles, ([q.what, q.predicted, *(cell(q, known) for known in runs), *empty] for q in QUANTITIES))


def device_name(known: dict[str, Any]) -> str:
    """Of the GPU, or what stood in for it."""
    machine = known.get("machine", {})
    name = machine.get("gpu", {}).get("name") or results(known, "contact").get("device_kind")
    return str(name or known.get("device", "unknown"))


def page(known: dict[str, Any]) -> str:
    """Everything that a reader wants to know first."""
    lines = [f"### {device_name(known)}, {known['date'][:10]}", "", *_machine(known), ""]
    if "problem" in known:
        return "\n".join([*lines, f"Nothing was measured: {known['problem']}", ""])
    lines += [*compared([known]), "", *_phases(known), ""]
    for part in (_speed, _profile, _rest):
        if found := part(known):
            lines += [*found, ""]
    return "\n".join(lines)


def _machine(known: dict[str, Any]) -> list[str]:
    machine, versions = known.get("machine", {}), known["kit"]["versions"]
    packages = ", ".join(f"{name} {version}" for name, version in sorted(machine.get("packages", {}).items()))
    driver = machine.get("cuda_of_driver")
    words = [
        f"{machine.get('processor', 'unknown processor')}, {machine.get('cores', '?')} cores",
        f"driver for CUDA {driver // 1000}.{driver % 1000 // 10}" if driver else "no driver",
        f"Python {machine.get('python', '?')}",
        packages,
    ]
    kit = f"so3krates {versions['so3krates']} ({known['kit']['commit'][:10]}), kit of {known['kit']['made'][:10]}"
    return ["; ".join(word for word in words if word) + f". {kit}."]


def _phases(known: dict[str, Any]) -> list[str]:
    rows = [
        [name, entry["what"], entry["state"], f"{entry.get('seconds', 0):.0f}", _cell(entry.get("problem", ""))]
        for name, entry in known["phases"].items()
    ]
    return table(["phase", "", "state", "s", ""], rows)


def _cell(text: str) -> str:
    """Text that a table's cell may hold."""
    return " ".join(text.replace("|", "/").split())


SPEED = {
    "body": ("body", "{}"),
    "atoms": ("atoms", "{}"),
    "atom_steps_per_second": ("atom-steps/s", "{:.3g}"),
    "ms_per_step": ("ms/step", "{:.3f}"),
    "ms_device": ("device", "{:.3f}"),
    "ms_start_programs": ("starting", "{:.3f}"),
    "ms_results": ("results", "{:.3f}"),
    "ms_lists": ("lists", "{:.3f}"),
    "ms_lammps": ("LAMMPS", "{:.3f}"),
    "with_flux": ("flux, x", "{:.2f}"),
    "bytes_per_atom": ("bytes/atom", "{:.0f}"),
    "start_seconds": ("start, s", "{:.1f}"),
}


def _speed(known: dict[str, Any]) -> list[str]:
    sizes = [row for phase in ("speed", "growth") for row in results(known, phase).get("sizes", ())]
    rows: list[dict[str, Any]] = [{"body": "kernels", **row} for row in sizes]
    done = [row for row in rows if "ms_per_step" in row]
    if not done:
        return []
    cells = ([form.format(row[key]) if key in row else "" for key, (_, form) in SPEED.items()] for row in done)
    lines = table([title for title, _ in SPEED.values()], cells)
    return lines + [f"\n{row['asked']} atoms: {row['ended']}" for row in rows if "ended" in row]


def _profile(known: dict[str, Any]) -> list[str]:
    """Programs by time, with their arrays' bytes as a share of the copy's rate: where to look next."""
    ceiling = results(known, "ceilings").get("copy_bytes_per_second")
    lines = []
    for name, found in results(known, "profile").get("schedules", {}).items():
        total = sum(found["ms"].values())
        rows = []
        for program, ms in sorted(found["ms"].items(), key=lambda item: -item[1]):
            rate = found["least_bytes"][program] / (1e-3 * ms) if ms else 0.0
            share = f"{rate / ceiling:.0%}" if ceiling else NOT_YET
            calls, part = found["calls"][program], ms / total
            rows.append([program, str(calls), f"{ms:.3f}", f"{part:.0%}", f"{rate / 1e9:.0f}", share])
        lines += [f"{name}, {found['rows']} atoms, each program awaited:", ""]
        lines += [*table(["program", "calls", "ms", "of all", "GB/s of its arrays", "of a copy's"], rows), ""]
    return lines


def _rest(known: dict[str, Any]) -> list[str]:
    lines = []
    cold = results(known, "cell").get("equal_after_two_cold_starts")
    if cold is not None:
        lines.append(f"Forces after two cold starts are {'equal to the bit' if cold else 'not equal to the bit'}.")
    for word, row in results(known, "speed").get("choices", {}).items():
        compiled, step = row["compile_seconds"], row["ms_per_step"]
        lines.append(f"deterministic {word}, {row['atoms']} atoms: compiled in {compiled:.1f} s, {step:.3f} ms/step.")
    for row in results(known, "copies").get("sizes", ()):
        lines.append(f"{row['atoms']} atoms as copies of one cell: forces within {row['error']:.1e} of the largest.")
    if run := results(known, "million").get("run"):
        lines.append(
            f"{run['atoms']} atoms, heat flux every {run['flux_every']} steps: {run['flux_ms_per_step']:.0f} ms/step."
        )
    if errors := results(known, "so3lr").get("errors"):
        lines.append(f"SO3LR on water: forces within {errors['forces']:.1e} of the largest.")
    for row in (row for row in results(known, "so3lr").get("sizes", ()) if "ms_per_step" in row):
        rate, step, size = (row[key] for key in ("atom_steps_per_second", "ms_per_step", "bytes_per_atom"))
        lines.append(
            f"SO3LR, {row['atoms']} atoms of water: {rate:.3g} atom-steps/s, {step:.2f} ms, {size:.0f} bytes/atom."
        )
    for name, peer in results(known, "peers").get("peers", {}).items():
        rate, ratio = peer["atom_steps_per_second"], peer["ours_over_theirs"]
        lines.append(f"{name}: {rate:.3g} atom-steps/s; ours are {ratio:.2f} times that.")
    for name, run in results(known, "ranks").get("runs", {}).items():
        speed = f"{run['ms_per_step']:.2f} ms/step" if "ms_per_step" in run else run.get("problem", "")
        lines.append(f"{name}: {speed}.")
    return [f"* {line}" for line in lines]
