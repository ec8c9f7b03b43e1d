"""Trains RKD under Scenic's `app.run`, into a folder that all commands of rkd_jax read.

  python -m rkd_jax.scenic.main --config=rkd_jax/scenic/config.py:coco/rkd --workdir=DIR
  rkd-jax eval --config=coco/rkd --workdir=DIR

Steps, checkpoints and their order are those of `rkd-jax train`, to the bit: either goes on with
what the other began.  What happens to a run besides (SIGTERM, hosts that die, a state that is kept
when the loss is not finite, programs compiled ahead) is `rkd-jax train`'s alone.
"""

import dataclasses
from typing import Any

import jax
import ml_collections
import scenic.app

from rkd_jax.runs.checkpoint import Checkpointer
from rkd_jax.runs.config import check_config, write_config
from rkd_jax.runs.lock import locked
from rkd_jax.runs.restore import restore_state, set_aside
from rkd_jax.runs.state import TrainState
from rkd_jax.scenic.config import own_settings
from rkd_jax.scenic.dataset import get_dataset
from rkd_jax.scenic.model import RKDModel
from rkd_jax.train.identity import identities
from rkd_jax.train.nonfinite import NonFiniteLossError
from rkd_jax.train.step import detector_loss
from rkd_jax.train.tasks import check_distillation, detector_task, initialize
from rkd_jax.train.train import Trainer, is_logged


def main(
  rng: jax.Array, config: ml_collections.ConfigDict, workdir: str, writer: Any
) -> TrainState:
  """Trains to `config.num_steps`, from the newest checkpoint in `workdir` if there is one.

  Args:
    rng: Scenic's key of `config.rng_seed`.  That is `config.seed`, from which each step makes its
      own keys, so that a run which goes on repeats them.
    writer: a metric writer of `clu`; a step's loss is there as 'box/loss' or 'image/loss'.

  Raises:
    NonFiniteLossError: after a step whose loss or update was not finite.
    ValueError: what `rkd-jax train` raises for configs, data and folders that do not fit.
  """
  del rng
  config = own_settings(config)
  if config.task != "detector":
    raise ValueError(f"config.task is {config.task!r}: CLIP is trained by `rkd-jax train`.")
  if config.compilation_cache:
    jax.config.update("jax_compilation_cache_dir", config.compilation_cache)
  with locked(workdir) as check_lock:
    check_config(workdir, config)
    task = detector_task(config)
    write_config(workdir, config, identities(config, task.plan))
    task.plan.check()
    check_distillation(config, task.plan)
    model = RKDModel(config, {"vocabulary": task.constants})
    task = dataclasses.replace(task, loss=detector_loss(model.flax_model, config.loss))
    trainer = Trainer(config, task)
    state = restore_state(workdir, trainer.abstract_state, config.checkpoint.verify)
    if state is None:
      state = initialize(config, trainer.create(config.seed))
    start = int(state.step)
    set_aside(workdir, start)
    dataset = get_dataset(config, task, trainer.place, start)
    with Checkpointer(workdir, config.checkpoint.keep, config.checkpoint.best) as checkpointer:
      checkpointer.check_room(trainer.abstract_state)
      for step, batch in enumerate(dataset.train_iter, start):
        state, metrics = trainer.step(state, batch["inputs"], batch["kind"])
        done = step + 1
        saving = done % config.checkpoint.every == 0 or done == config.num_steps
        if not saving and not is_logged(config, step):
          continue
        values = metrics.read()
        if int(state.step) < 0:
          raise NonFiniteLossError(
            f"Step {-int(state.step) - 1} gave {values}, which is not finite. Lower "
            "optimizer.learning_rate or set optimizer.clip_norm; `rkd-jax train` on the same "
            "--workdir says which images it read, and keeps its state."
          )
        writer.write_scalars(done, {f"{batch['kind']}/{k}": v for k, v in values.items()})
        if saving:
          check_lock()
          checkpointer.save(state)
    writer.flush()
  return state


if __name__ == "__main__":
  scenic.app.run(main)
