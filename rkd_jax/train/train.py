"""The training loop: one for CLIP and for all stages of the detector."""

import contextlib
import dataclasses
import functools
import itertools
import math
import signal
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from absl import logging
from etils import epath

from rkd_jax.inputs.batching import train_batches
from rkd_jax.inputs.plan import Plan
from rkd_jax.inputs.sampler import Sampler
from rkd_jax.machine import chips, cluster, costs
from rkd_jax.machine.interruptions import short_collections, stop_signal
from rkd_jax.machine.target import Target, compiled_for, lower_for
from rkd_jax.runs.checkpoint import Checkpointer, CheckpointError, latest_step
from rkd_jax.runs.config import check_config, write_config
from rkd_jax.runs.lock import locked
from rkd_jax.runs.metrics import MetricWriter, Progress
from rkd_jax.runs.pace import Pace, traced
from rkd_jax.runs.restore import restore_state, set_aside
from rkd_jax.runs.state import TrainState, create_state
from rkd_jax.train.accumulation import parts_of
from rkd_jax.train.evaluating import Evaluations, MakeEvaluate
from rkd_jax.train.identity import identities
from rkd_jax.train.nonfinite import BadStep, NonFiniteLossError, allowed_in_a_row, dump
from rkd_jax.train.optimizer import frozen_mask, make_optimizer
from rkd_jax.train.packing import Packing
from rkd_jax.train.sharding import (
  check_batch,
  make_mesh,
  placed,
  replicated,
  shard_batch,
  split,
)
from rkd_jax.train.step import Metrics, make_step
from rkd_jax.train.summary import summary
from rkd_jax.train.tasks import Task, check_distillation, initialize, make_task


class Trainer:
  """The compiled steps of a task on a mesh, and its initial state.

  Attributes:
    frozen: see `optimizer.frozen_mask`.
    flops: of a step on a batch of each kind that there was, on all devices together, see
      `costs.matmul_flops`.
  """

  def __init__(
    self,
    config: ml_collections.ConfigDict,
    task: Task,
    devices: Sequence[jax.Device] | None = None,
  ):
    self.mesh = make_mesh(devices)
    self.parts_of = functools.partial(parts_of, config, self.mesh)
    abstract_params, _ = jax.eval_shape(task.init, jax.random.key(0))
    self.frozen = frozen = frozen_mask(abstract_params, config.frozen)
    optimizer = make_optimizer(config.optimizer, config.num_steps, frozen)
    create = functools.partial(create_state, task.init, optimizer, memory=task.memory)
    abstract = jax.eval_shape(create, jax.random.key(0))
    everywhere = replicated(self.mesh)
    self.abstract_state = placed(abstract, everywhere)
    abstract_leaves, self._tree = jax.tree.flatten(self.abstract_state)
    self._packing = Packing.of(abstract_leaves)
    packed = jax.eval_shape(self._packing.pack, abstract_leaves)
    self._abstract_packed = placed(packed, everywhere)
    self._create = jax.jit(create, out_shardings=everywhere)
    self._constants = task.constants

    skip = allowed_in_a_row(config.get("on_nonfinite", "stop")) > 0
    precision = config.get("model", {}).get("precision", "default")
    target = Target(self.mesh.devices.flat[0].platform, self.mesh.size, self.mesh, precision)
    of_state = make_step(task.loss, optimizer, frozen, self.parts_of, skip)

    def step(packed, constants, batch, seed_key, kind: str):
      state, metrics = of_state(self.state(packed), constants, batch, seed_key, kind)
      return self.packed(state), metrics

    self._update = jax.jit(
      compiled_for(step, target),
      static_argnames="kind",
      donate_argnames="packed",
      out_shardings=everywhere,
    )
    self._seed = config.seed
    self._programs: dict[tuple, jax.stages.Compiled] = {}
    self.flops: dict[str, int] = {}

  @functools.cached_property
  def constants(self):
    """The task's constants on the mesh; not needed to lower a program."""
    constants = jax.tree.map(jnp.asarray, self._constants)
    return jax.device_put(constants, replicated(self.mesh))

  @functools.cached_property
  def _seed_key(self):
    return jax.jit(jax.random.key, out_shardings=replicated(self.mesh))(self._seed)

  def create(self, seed: int) -> TrainState:
    return self._create(jax.random.key(seed))

  def place(self, batch):
    """This process's part of a batch, in NumPy arrays, as a global batch on the mesh."""
    return shard_batch(self.mesh, batch)

  def step(self, state: TrainState, batch, kind: str) -> tuple[TrainState, Metrics]:
    """One update on what `place` gave; the given state's buffers are donated."""
    packed, metrics = self.update(self.packed(state), batch, kind)
    return self.state(packed), metrics

  def update(self, packed: list[jax.Array], batch, kind: str) -> tuple[list[jax.Array], Metrics]:
    """`step` on a state as `packed` gives it, which `state` makes one again.

    To hand over every array of the state, in its dictionaries, would take the host twice as long as
    to start the step.
    """
    return self.program(batch, kind)(packed, self.constants, batch, self._seed_key)

  def packed(self, state: TrainState) -> list[jax.Array]:
    """Few arrays with all that a state holds; the large ones are its own."""
    return self._packing.pack(jax.tree.leaves(state))

  def state(self, packed: list[jax.Array]) -> TrainState:
    """The state again, to the last bit; the large arrays are shared."""
    return jax.tree.unflatten(self._tree, self._packing.unpack(packed))

  def program(self, batch, kind: str) -> jax.stages.Compiled:
    """That of `update` for a global batch of such shapes, compiled when it is first asked for.

    Raises:
      ValueError: it needs more memory than a device has.
    """
    # Of a kind only the images differ in their shapes, by the canvas.
    key = kind, getattr(batch, "images", batch).shape
    if key not in self._programs:
      args = self._abstract_packed, self.constants, batch, self._seed_key
      traced = self._update.trace(*args, kind=kind)
      self.flops[kind] = costs.matmul_flops(traced.jaxpr)
      self._programs[key] = _compile(traced.lower(), kind, len(jax.tree.leaves(batch)[0]))
    return self._programs[key]

  def lower_create(self) -> jax.stages.Lowered:
    """The program of `create`, for devices that need not be there."""
    return self._lower(self._create.trace(self._abstract_key()))

  def lower(self, batch, kind: str) -> jax.stages.Lowered:
    """The program of `update` for an abstract batch, for devices that need not be there."""
    constants = jax.eval_shape(lambda: jax.tree.map(jnp.asarray, self._constants))
    constants = placed(constants, replicated(self.mesh))
    return self._lower(
      self._update.trace(self._abstract_packed, constants, batch, self._abstract_key(), kind=kind)
    )

  def _abstract_key(self):
    key = jax.eval_shape(lambda: jax.random.key(self._seed))
    return placed(key, replicated(self.mesh))

  def _lower(self, traced):
    return lower_for(traced, self.mesh.devices.flat[0])


def _compile(lowered: jax.stages.Lowered, kind: str, images: int) -> jax.stages.Compiled:
  """The program of a step on so many images; a ValueError if a device is too small for it."""
  try:
    compiled = lowered.compile()
  except jax.errors.JaxRuntimeError as error:
    sizes = costs.refused_memory(error)
    if sizes is None:
      raise
  else:
    limit = costs.memory_limit()
    if limit is None:
      return compiled
    need = costs.needed_memory(compiled)
    if need <= limit:
      return compiled
    sizes = f"{need / 1e9:.2f} GB", f"{limit / 1e9:.2f} GB"
  raise ValueError(
    f"A step on {images} images (data.{kind}.batch_size) needs {sizes[0]} of each device, which "
    f"has {sizes[1]}: lower the batch size, set gradient_accumulation_steps to take a batch in "
    "parts, or use more devices."
  )


def _compiled(trainer: Trainer, plan: Plan, batches: Iterator) -> Iterator:
  """The same batches, once the programs for all canvases of their kinds are there."""
  first = list(itertools.islice(batches, len(plan.schedule)))
  for kind, batch in {kind: batch for _, kind, batch in first}.items():
    for canvas in plan.specs[kind].canvases:
      images = jax.ShapeDtypeStruct((len(batch.images), *canvas, 3), batch.images.dtype)
      alike = dataclasses.replace(batch, images=placed(images, split(trainer.mesh)))
      trainer.program(alike, kind)
  return itertools.chain(first, batches)


def train(
  config: ml_collections.ConfigDict, workdir: str, evaluator: MakeEvaluate | None = None
) -> TrainState:
  """Trains to `config.num_steps`, from the newest checkpoint in `workdir` that can be read.

  The batch and the random numbers of step t depend on (seed, t) only, so a run that was killed and
  started again repeats its steps to the last bit.  SIGTERM saves and exits with code 143.
  `evaluator` measures the parameters every `config.evaluation.every` steps, if it is given.

  Raises:
    WorkdirInUseError: another process trains there.
    NonFiniteLossError: names the step, its terms and its images, and where to find its state.
    CheckpointError: the workdir or the initial checkpoint belongs to another config; no checkpoint
      can be read; or, at the end, the last state could not be saved.
    ValueError: a batch needs more memory than a device has, or records do not fit the config;
      nothing was trained then.
  """
  with contextlib.ExitStack() as stack:
    check = None
    with cluster.together():
      if cluster.is_first():
        check = stack.enter_context(locked(workdir))
    try:
      return _train(config, workdir, evaluator, check or (lambda: None))
    except _BadStepError as error:
      bad, state = error.bad, error.state
    try:
      folder = dump(workdir, config, state, bad)
      kept = f"`python -m rkd_jax.main --replay={folder}` runs the step again"
    except (OSError, CheckpointError) as error:
      kept = f"its state could not be written ({error})"
    with cluster.together():
      raise NonFiniteLossError(
        f"{bad} Lower optimizer.learning_rate, set optimizer.clip_norm, or look at these records; "
        f"the newest checkpoint is from before, and {kept}."
      )


class _BadStepError(Exception):
  """Ends the loop with a step that was not finite, and the state before it."""

  def __init__(self, bad: BadStep, state: TrainState):
    super().__init__(f"{bad}")
    self.bad, self.state = bad, state


def _train(
  config: ml_collections.ConfigDict,
  workdir: str,
  evaluator: MakeEvaluate | None,
  check_lock: Callable[[], None],
) -> TrainState:
  first = cluster.is_first()
  with cluster.together():
    if latest_step(workdir) == 0:
      # Training saves after a step at the earliest.
      raise CheckpointError(
        f"{workdir} holds converted parameters, which have no optimiser state to resume. Start "
        f"from them: --config.init.checkpoint={workdir} and another --workdir."
      )
    check_config(workdir, config)
    task = make_task(config, workdir)
    if first:
      write_config(workdir, config, identities(config, task.plan))
    task.plan.check()
    check_distillation(config, task.plan)
    trainer = Trainer(config, task)
    for kind in dict.fromkeys(task.plan.schedule):
      check_batch(trainer.mesh, task.plan.specs[kind].batch_size)
      trainer.parts_of(kind, task.plan.specs[kind].batch_size)
  with cluster.together():
    every = config.get("evaluation", {}).get("every", 0)
    evaluate = evaluator(config, workdir) if evaluator and every else None
    if not (epath.Path(workdir) / "config.json").exists():
      raise CheckpointError(
        f"Process {jax.process_index()} does not see in --workdir={workdir} what process 0 wrote "
        "there: give a folder that all hosts share, such as gs://BUCKET/RUN."
      )
    state = restore_state(workdir, trainer.abstract_state, config.checkpoint.verify)
    if state is None:
      state = initialize(config, trainer.create(config.seed))
    start = int(state.step)
    logging.info("%s goes on at step %d.", workdir, start)
  cluster.check_same({"the newest checkpoint that can be read": start})
  if first:
    params = trainer.abstract_state.params
    print(summary(config, task.plan, params, trainer.frozen, start), flush=True)
  checkpointer = Checkpointer(workdir, config.checkpoint.keep, config.checkpoint.best)
  with cluster.together():
    if first:
      set_aside(workdir, start)
    checkpointer.check_room(trainer.abstract_state)
  loaded = train_batches(
    task.plan,
    start,
    config.num_steps,
    host_index=jax.process_index(),
    host_count=jax.process_count(),
    threads=config.data.threads,
    cache=config.data.cache,
    skip_bad_images=config.skip_bad_images,
    place=trainer.place,
  )
  # What is placed by another thread must not outlive the devices' runtime.
  with checkpointer, contextlib.closing(loaded):
    with cluster.together():
      batches = _compiled(trainer, task.plan, loaded)
      pace = Pace(chips.peak_flops(trainer.mesh.devices.flat))
      batches = traced(pace.timed(batches), start, config.get("profile_steps"), workdir)
    stopping = False
    with (
      contextlib.closing(batches),
      short_collections(),
      stop_signal() as stop,
      MetricWriter(workdir, start) if first else contextlib.nullcontext() as writer,
      Progress(config.num_steps, start, description=config.name)
      if first
      else contextlib.nullcontext() as progress,
    ):
      results = _Results(config, task.plan.sampler, trainer.state, writer, progress)
      evaluations = Evaluations(config, workdir, evaluate, writer)
      if not evaluations.begin(start, state.params, functools.partial(stop, start)):
        raise SystemExit(128 + signal.SIGTERM)
      packed = trainer.packed(state)
      trainer.state(packed)  # compiled now, as the steps are, and not when the first is saved
      del state  # its buffers are given to the first step
      for step, kind, batch in batches:
        packed, metrics = trainer.update(packed, batch, kind)
        # The previous step is read while this one runs: the device never waits for the host.
        results.read(packed)
        results.pending = (step, kind, batch, metrics)
        pace.count(task.plan.specs[kind].batch_size, trainer.flops[kind])
        if writer and step > start and step % config.log_every == 0:
          writer.write(step, "pace", pace.figures())
        done = step + 1
        stopping = stop(done)
        due = evaluations.due(done)
        saving = due or stopping or done % config.checkpoint.every == 0 or done == config.num_steps
        if saving or results.bad_in_a_row:
          # A state is saved only after its own loss and update were seen to be finite.
          results.read(packed)
        if saving:
          if writer:
            writer.flush()
          with cluster.together():
            check_lock()
          checkpointer.save(trainer.state(packed))
        if due and not stopping:
          # Its checkpoint is written meanwhile, so that the best one can be kept.
          with pace.paused():
            params = trainer.state(packed).params
            stopping = not evaluations.measure(done, params, functools.partial(stop, done))
        if stopping:
          break
    if stopping or stop(config.num_steps):
      raise SystemExit(128 + signal.SIGTERM)
  return trainer.state(packed)


def is_logged(config: ml_collections.ConfigDict, step: int) -> bool:
  """Whether a step's metrics are written: the last one's, and every `log_every` steps those of one
  round of the schedule, so that no kind of batch is left out.
  """
  return step % config.log_every < len(config.data.schedule) or step + 1 == config.num_steps


@dataclasses.dataclass
class _Results:
  """What the steps gave, read a step later: checked, and on process 0 written if `is_logged`.

  Attributes:
    pending: step, kind, batch and metrics of the step that was started last.
    bad_in_a_row: how many of the last steps that were read were not finite, and passed over.
  """

  config: ml_collections.ConfigDict
  sampler: Sampler
  state_of: Callable[[list[jax.Array]], TrainState]
  writer: MetricWriter | None
  progress: Progress | None
  pending: tuple[int, str, Any, Metrics] | None = None
  bad_in_a_row: int = 0

  def read(self, packed: list[jax.Array]) -> None:
    """Reads the pending step; _BadStepError if it is one too many that is not finite."""
    if self.pending is None:
      return
    step, kind, batch, metrics = self.pending
    self.pending, values = None, metrics.read()
    good = all(map(math.isfinite, values.values()))
    self.bad_in_a_row = 0 if good else self.bad_in_a_row + 1
    if not good:
      bad = BadStep(step, kind, self.sampler.indices(step), batch, values)
      if self.bad_in_a_row > allowed_in_a_row(self.config.on_nonfinite):
        raise _BadStepError(bad, self.state_of(packed))
      logging.warning("%s It is passed over (on_nonfinite=%s).", bad, self.config.on_nonfinite)
      values = {name: value if np.isfinite(value) else None for name, value in values.items()}
    if self.writer and (not good or is_logged(self.config, step)):
      self.writer.write(step, kind, values)
    if self.progress:
      shown = {name: value for name, value in values.items() if value is not None}
      self.progress.update(self.sampler.sizes[kind][1], shown)
