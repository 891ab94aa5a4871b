"""State of a run on disk through orbax: the last two states, each whole, so that a kill loses neither."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

KEPT = 2


class Checkpoints:
    """A folder of states by step; a state is a pytree of arrays whose structure the caller knows."""

    def __init__(self, folder: str | Path) -> None:
        options = ocp.CheckpointManagerOptions(max_to_keep=KEPT, enable_async_checkpointing=False)
        self._manager = ocp.CheckpointManager(Path(folder).absolute(), options=options)

    def latest(self) -> int | None:
        """Step of the newest state, or None."""
        return self._manager.latest_step()

    def save(self, step: int, state: Any) -> None:
        """Writes a state; returns when it is on disk. A step that is there already is left alone."""
        if step != self.latest():
            self._manager.save(step, args=ocp.args.StandardSave(state))

    def load(self, step: int, like: Any) -> Any:
        """The state of a step with the structure, shapes and dtypes of `like`."""
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        return self._manager.restore(step, args=ocp.args.StandardRestore(abstract))

    def close(self) -> None:
        """Ends orbax's threads."""
        self._manager.close()
