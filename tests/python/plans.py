"""The programs of a plan, compiled, and run on ranks that are all in this process."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from so3krates_export.ladder import Rung
from so3krates_export.plan import Call, Plan, Reduce


def specs(plan: Plan, weights: dict[str, np.ndarray], rung: Rung) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes of a plan's arrays and weights."""
    sizes = rung._asdict()
    arrays = {n: jax.ShapeDtypeStruct(tuple(sizes.get(d, d) for d in a.shape), a.dtype) for n, a in plan.arrays.items()}
    return arrays | {name: jax.ShapeDtypeStruct(value.shape, value.dtype) for name, value in weights.items()}


def compile_plan(plan: Plan, shapes: dict[str, jax.ShapeDtypeStruct]) -> dict[str, jax.stages.Compiled]:
    """Compiled programs by name."""
    programs = {}
    for call in plan.steps:
        if isinstance(call, Call) and call.program not in programs:
            jitted = jax.jit(plan.programs[call.program], donate_argnums=plan.donated(call), keep_unused=True)
            programs[call.program] = jitted.lower(*[shapes[name] for name in call.inputs]).compile()
    return programs


def run_plan(
    plan: Plan,
    shapes: dict[str, jax.ShapeDtypeStruct],
    programs: dict[str, jax.stages.Compiled],
    ranks: list[dict[str, np.ndarray]],
    ids: list[np.ndarray],
) -> list[dict[str, np.ndarray]]:
    """All arrays of every rank after one pass; what no stage writes holds NaN or -1.

    ranks: weights and inputs of each. ids: atom of each rank's row.
    """
    states = []
    for inputs in ranks:
        arrays = {
            n: np.full(s.shape, np.nan if np.issubdtype(s.dtype, np.floating) else -1, s.dtype)
            for n, s in shapes.items()
        }
        states.append({n: jnp.asarray(v) for n, v in (arrays | inputs).items()})
    for step in plan.steps:
        if isinstance(step, Call):
            for arrays in states:
                results = programs[step.program](*[arrays[n] for n in step.inputs])
                arrays |= dict(zip(step.outputs, results, strict=True))
            continue
        for name in step.arrays:
            if isinstance(step, Reduce):
                total = sum(arrays[name] for arrays in states)
                for arrays in states:
                    arrays[name] = total
                continue
            owned = [int(arrays["owned_count"]) for arrays in states]
            values = [np.array(arrays[name]) for arrays in states]
            by_atom = {atom: values[r][k] for r in range(len(states)) for k, atom in enumerate(ids[r][: owned[r]])}
            for r, arrays in enumerate(states):
                for k in range(owned[r], len(ids[r])):
                    values[r][k] = by_atom[ids[r][k]]
                arrays[name] = jnp.asarray(values[r])
    return [{name: np.asarray(value) for name, value in arrays.items()} for arrays in states]
