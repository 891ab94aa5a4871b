"""A training that is killed again and again, at any time, ends with the weights of one that is left alone."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from long_tables import Many
from so3krates.storage import Model
from training_runs import assert_same

SEED = 20250722
KILLS = 4
STEPS = 24  # of the whole run
PROGRAM = """
import sys
from pathlib import Path
from training_runs import make_frames, settings
from so3krates.training import train
config = settings(epochs=6, ema_decay=0.9, eval_every=3, checkpoint_minutes=float(sys.argv[2]))
frames, folder = make_frames(10, repeat=(1, 2)), Path(sys.argv[1])
tell = lambda status: print(status.step, flush=True)
train(config, frames[:8], frames[8:], folder, tell, resume=folder.exists())
"""
pytestmark = pytest.mark.torture


def start(folder: Path, checkpoint_minutes: float) -> subprocess.Popen[str]:
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent)}
    command = [sys.executable, "-c", PROGRAM, str(folder), str(checkpoint_minutes)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)


def test_a_training_killed_at_any_time(tmp_path: Path, many: Many) -> None:
    """SIGKILL shortly after some step: while the next is made, the network is tested, or a checkpoint is written."""
    choose = random.Random(SEED)
    straight = start(tmp_path / "straight", 60.0)
    straight.communicate()
    assert straight.returncode == 0
    firsts = []
    for _ in range(many(KILLS)):
        run, reached = start(tmp_path / "killed", 1e-6), 0
        last = choose.randint(1, STEPS - 1)
        steps = map(int, run.stdout)
        firsts.append(next(steps, STEPS))
        while max(reached, firsts[-1]) < last:
            reached = next(steps, STEPS)
        time.sleep(choose.uniform(0.0, 0.2))
        run.kill()
        run.communicate()
        assert run.returncode in (-signal.SIGKILL, 0)  # 0: it was at its end
    last_run = start(tmp_path / "killed", 1e-6)
    last_run.communicate()
    assert last_run.returncode == 0
    assert max(firsts) > 1  # some went on from a checkpoint
    whole, killed = (Model.load(tmp_path / name) for name in ("straight", "killed"))
    assert_same(killed.params, whole.params)
