"""What orbax writes and reads: the last two states of a run, each whole, so that a kill loses neither; any folder."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import logging
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from so3krates.files import ADVICE, make_folder

KEPT = 2
DIGEST = "sha256"  # among a state's notes: of its arrays
# What orbax and its storage raise for damaged files; want of memory, say, is no damage.
DAMAGE = (OSError, ValueError, LookupError, TypeError, AttributeError, EOFError)
LONGEST_REASON = 200  # characters of what orbax says
CLOSED_LOOP = "Event loop is closed"


class CheckpointError(RuntimeError):
    """States that cannot be written or read; the message says what there is and what to do."""


class Stored(NamedTuple):
    """A state that was read."""

    step: int
    state: Any
    notes: dict[str, Any]  # as they were given to `save`
    warning: str | None  # of newer states that are damaged


class Checkpoints:
    """A folder of states by step; a state is a pytree of arrays whose structure the caller knows."""

    def __init__(self, folder: str | Path) -> None:
        """Opens a folder, which is made when missing. Raises WriteError, or CheckpointError for states of no use."""
        import orbax.checkpoint as ocp  # half a second of each start, here and below
        from orbax.checkpoint.options import MultiprocessingOptions

        self.folder = make_folder(folder).absolute()
        # One process writes, whichever it is, and waits for no other.
        alone = MultiprocessingOptions(primary_host=jax.process_index(), active_processes={jax.process_index()})
        options = ocp.CheckpointManagerOptions(
            max_to_keep=KEPT, enable_async_checkpointing=False, create=False, multiprocessing_options=alone
        )
        # With its handler named, orbax does not guess from the newest state, which may be damaged, what states are.
        handler = ocp.StandardCheckpointHandler()
        _hush_late_news()
        try:
            with _quiet():
                self._manager = ocp.CheckpointManager(self.folder, options=options, item_handlers=handler)
        except DAMAGE as error:  # it looks at notes of all states, and does not say whose are damaged
            raise CheckpointError(
                f"{self.folder}: the states cannot be listed: {_reason(error)}: move the newest of its folders out of "
                "it and --resume from an older state, or bring back a copy"
            ) from error

    def latest(self) -> int | None:
        """Step of the newest state, or None."""
        return self._manager.latest_step()

    def save(self, step: int, state: Any, notes: Mapping[str, Any] | None = None) -> None:
        """Writes a state and plain values beside it; returns when it is on disk.

        A step that is there already is left alone. Raises CheckpointError; older states are as they were.
        """
        if step == self.latest():
            return
        import orbax.checkpoint as ocp

        content = {**(notes or {}), DIGEST: _digest(state)}
        try:
            with _quiet():
                self._manager.save(step, args=ocp.args.StandardSave(state), custom_metadata=content)
        except Exception as error:
            for part in self.folder.glob("*orbax-checkpoint-tmp*"):
                shutil.rmtree(part, ignore_errors=True)
            self._manager.reload()
            older = self.latest()
            left = (
                "no older state is there"
                if older is None
                else f"that of step {older} is as it was, and --resume goes on from it"
            )
            raise CheckpointError(f"{self.folder}: step {step} could not be saved: {_reason(error)}; {left}") from error

    def load(self, like: Any) -> Stored | None:
        """The newest state that is whole, with the structure, shapes and dtypes of `like`; None where none was saved.

        Newer ones that are damaged are moved out of the way, and named. Raises CheckpointError where all are.
        """
        steps = sorted(self._manager.all_steps(), reverse=True)
        damaged: list[str] = []
        for step in steps:
            try:
                with _quiet():
                    state, notes = self._read(step, like)
            except DAMAGE as error:
                damaged.append(f"step {step} ({_reason(error)})")
                continue
            warning = None
            if damaged:
                for other in steps[: len(damaged)]:
                    self._put_away(other)
                self._manager.reload()
                warning = (
                    f"{self.folder}: the newest state cannot be read: {', '.join(damaged)}; the run goes on from step "
                    f"{step}, the damaged one is kept as {self._away(steps[0]).name}"
                )
            return Stored(step, state, notes, warning)
        if damaged:
            raise CheckpointError(
                f"{self.folder}: no state can be read: {'; '.join(damaged)}: begin in another folder (the best weights "
                "so far, where they were saved beside it, can be its training.initial_model), or bring back a copy"
            )
        return None

    def _read(self, step: int, like: Any) -> tuple[Any, dict[str, Any]]:
        import orbax.checkpoint as ocp

        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        state = self._manager.restore(step, args=ocp.args.StandardRestore(abstract))
        notes = dict(self._manager.metadata(step).custom_metadata or {})
        expected = notes.pop(DIGEST, None)
        # States of earlier versions have no digest.
        if expected is not None and expected != _digest(state):
            raise ValueError("its numbers are not those that were saved")
        return state, notes

    def _away(self, step: int) -> Path:
        return self.folder.with_name(f"damaged-checkpoint-{step}")

    def _put_away(self, step: int) -> None:
        away = self._away(step)
        shutil.rmtree(away, ignore_errors=True)
        os.replace(self.folder / str(step), away)

    def close(self) -> None:
        """Ends orbax's threads."""
        self._manager.close()


def read_orbax(folder: Path) -> Any:
    """The arrays of any checkpoint of orbax, of 2023 too, as it names them; raises what orbax and tensorstore do."""
    import orbax.checkpoint as ocp

    with _quiet(), ocp.PyTreeCheckpointer() as checkpointer:
        metadata = checkpointer.metadata(folder.resolve()).item_metadata
        if metadata is None:  # the first orbax versions wrote none, and no shardings either
            return checkpointer.restore(folder.resolve())
        # Arrays are read as numpy, so that the devices on which they were written do not matter.
        arguments = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), metadata.tree)
        return checkpointer.restore(folder.resolve(), restore_args=arguments)


def _digest(state: Any) -> str:
    """SHA-256 of all arrays in order."""
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(state):
        array = np.ascontiguousarray(leaf)
        digest.update(f"{array.dtype.str}{array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the log lines of orbax: what fails is raised, and said once; old folders lack metadata."""
    logger = logging.getLogger("absl")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(before)


def _hush_late_news() -> None:
    """Where one write fails, orbax closes the loop that its storage would tell of the others: a traceback for each."""
    if getattr(sys.unraisablehook, "func", None) is not _without_late_news:
        sys.unraisablehook = functools.partial(_without_late_news, sys.unraisablehook)


def _without_late_news(before: Callable[[Any], None], what: Any) -> None:
    if str(what.exc_value) != CLOSED_LOOP:
        before(what)


def _reason(error: Exception) -> str:
    """What went wrong in a few words; orbax and its storage speak at length."""
    for number, advice in ADVICE.items():
        if os.strerror(number) in str(error):
            return f"{os.strerror(number)} ({advice})"
    text = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, KeyError | TypeError):
        text = f"{type(error).__name__}: {text}"
    return text if len(text) <= LONGEST_REASON else text[:LONGEST_REASON] + "..."
