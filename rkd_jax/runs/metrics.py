"""Training metrics: JSON lines, TensorBoard and a progress bar.

`metrics.jsonl` holds an object per step and kind, `{"step": 12, "kind": "box", "loss": 1.25, ...}`.
Floats are written in full, so that two runs can be compared to the last bit.
"""

import contextlib
import json
import math
import os
import sys
import time
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tensorboardX
import tqdm
from absl import logging
from tensorboardX import record_writer

from rkd_jax.files import storage
from rkd_jax.files.patient import PatientFile

METRICS_FILE = "metrics.jsonl"
TENSORBOARD_FOLDER = "tensorboard"
_TENSORBOARD_FLUSH_S = 30
_PREFIX = "patient"  # of the paths of files that errors do not stop
_PROGRESS_LINE_S = 10


class MetricWriter(contextlib.AbstractContextManager):
  """Writes scalars to `workdir/metrics.jsonl` and `workdir/tensorboard`.

  Every line reaches the operating system at once, so that a killed process loses at most part of
  its last line; what a full disk does not take is kept and tried again.  TensorBoard is flushed
  every 30 seconds, by `flush` and at the end.  An object store cannot append: files for a remote
  workdir grow on this machine, and go there with `flush` and at the end.

  Args:
    workdir: folder of the run, perhaps remote; made if absent.
    start_step: the first step that this process will write.  Lines of this step and later ones,
      left by a killed run that got further than its last checkpoint, are removed, so that each step
      appears once.

  Raises:
    ValueError: an existing metrics file has a malformed line before its last.
  """

  def __init__(self, workdir: str | os.PathLike, start_step: int):
    self._workdir = storage.path(workdir)
    self._path = storage.work_folder(workdir) / METRICS_FILE
    storage.local_copy(workdir, lambda name: name == METRICS_FILE, missing_ok=True)
    if self._path.exists():
      lines = (
        json.dumps(r) + "\n" for r in read_metrics(self._path, pace=True) if r["step"] < start_step
      )
      # A kill in the middle leaves the old file.
      storage.write(self._path, "".join(lines))
    self._lines = PatientFile(self._path)
    self._events = storage.work_folder(self._workdir / TENSORBOARD_FOLDER)
    self._tensorboard = tensorboardX.SummaryWriter(
      f"{_PREFIX}:{self._events}", purge_step=start_step, flush_secs=_TENSORBOARD_FLUSH_S
    )

  def write(self, step: int, kind: str, scalars: Mapping[str, Any]) -> None:
    """Writes the scalars of one step; `kind` says of what ('box', 'image', 'eval', 'pace').

    Values are numbers, 0-d arrays (a device array is waited for) or None, for a
    metric that is not defined, which is null in the file and not in TensorBoard.

    Raises:
      ValueError: a value is not finite or not a scalar, or a name is reserved.
    """
    record = {"step": int(step), "kind": kind}
    for name, value in scalars.items():
      if name in ("step", "kind"):
        raise ValueError(f"a metric cannot be called {name!r}; rename it")
      record[name] = _number(value, f"step {step}, kind {kind!r}: metric {name!r}")
    self._lines.write(f"{json.dumps(record)}\n".encode())
    for name in scalars:
      if record[name] is not None:
        self._tensorboard.add_scalar(f"{kind}/{name}", record[name], int(step))

  def flush(self) -> None:
    """Puts everything written so far on disk; call it before saving a checkpoint."""
    self._lines.flush()
    self._tensorboard.flush()
    try:
      self._send()
    except OSError as error:
      logging.error("Metrics could not be sent to %s: %s. It is tried again.", self._workdir, error)

  def __exit__(self, kind: type[BaseException] | None, *exception: object) -> None:
    try:
      self._tensorboard.close()
      self._lines.close()
      self._send()
    except OSError:
      # Nothing may hide why the block ended.
      if kind in (None, SystemExit):
        raise

  def _send(self) -> None:
    for file in (self._path, *self._events.iterdir()):
      storage.put(file, self._workdir / file.relative_to(self._path.parent))


class _PatientFiles:
  """What tensorboardX opens its files with: an error would end its thread, and then hang ours."""

  def directory_check(self, path: str) -> None:
    Path(path.removeprefix(f"{_PREFIX}:")).mkdir(parents=True, exist_ok=True)

  def open(self, path: str) -> PatientFile:
    return PatientFile(path.removeprefix(f"{_PREFIX}:"))


record_writer.register_writer_factory(_PREFIX, _PatientFiles())


def read_metrics(path: str | os.PathLike, pace: bool = False) -> list[dict[str, Any]]:
  """The records of a metrics file, in order; those of kind 'pace' only if `pace` says so.

  How fast a run went is the only thing that differs where it is done again.
  A last line that was cut off by a kill (no newline at its end) is left out.

  Raises:
    ValueError: any other line is not a JSON object with a step.
  """
  text = Path(path).read_text(encoding="utf-8")
  records = []
  for number, line in enumerate(text.splitlines(keepends=True), start=1):
    try:
      record = json.loads(line)
      record["step"] = int(record["step"])
    except (ValueError, KeyError, TypeError) as error:
      if not line.endswith("\n"):
        break
      raise ValueError(
        f"{os.fspath(path)}, line {number}: expected a JSON object with a 'step', "
        f"got {line.strip()[:80]!r}; remove the line"
      ) from error
    if pace or record.get("kind") != "pace":
      records.append(record)
  return records


def _number(value: Any, what: str) -> int | float | None:
  if value is None or isinstance(value, int):
    return value
  try:
    number = float(value)
  except TypeError as error:
    raise ValueError(f"{what} is {value!r}, expected a scalar") from error
  if not math.isfinite(number):
    raise ValueError(
      f"{what} is {number}; lower the learning rate or clip gradients, and check the inputs"
    )
  return number


class Progress(contextlib.AbstractContextManager):
  """Progress of a loop on standard error: losses, images per second and time left.

  A bar on a terminal; elsewhere (a log file) one line every 10 seconds and one at the end.  Rates
  are over the last 50 steps, hence soon free of the time that compilation took.

  Args:
    total: the step after the last one.
    start: the first step, above 0 on resume.
    description: short name of the stage.
  """

  def __init__(self, total: int, start: int, description: str):
    self._total, self._step, self._description = total, start, description
    self._last_line, self._printed_step = time.monotonic(), -1
    # Times and images of steps; the first entry only marks the start of the window.
    self._recent = deque([(self._last_line, 0)], maxlen=51)
    self._losses: Mapping[str, Any] = {}
    # None: disabled where there is no terminal.
    self._bar = tqdm.tqdm(
      total=total, initial=start, desc=description, unit="step", dynamic_ncols=True, disable=None
    )

  def update(self, images: int, losses: Mapping[str, Any]) -> None:
    """Counts one step of so many images."""
    self._step += 1
    self._recent.append((time.monotonic(), images))
    self._losses = losses
    if not self._bar.disable:
      self._bar.set_postfix_str(self._figures()[0], refresh=False)
      self._bar.update()
    elif self._recent[-1][0] - self._last_line >= _PROGRESS_LINE_S:
      self._print_line()

  def __exit__(self, *exception: object) -> None:
    if self._bar.disable and self._step != self._printed_step:
      self._print_line()
    self._bar.close()

  def _figures(self) -> tuple[str, float]:
    """Losses and images per second, and the expected seconds until the end, at the recent pace."""
    (start, _), *steps = self._recent
    seconds = self._recent[-1][0] - start
    rate = sum(images for _, images in steps) / seconds if seconds > 0 else 0.0
    # Only here, so that where nothing is shown no device array is waited for.
    losses = " ".join(f"{name} {float(value):.4g}" for name, value in self._losses.items())
    return f"{losses} {rate:.1f} img/s", (self._total - self._step) * seconds / max(len(steps), 1)

  def _print_line(self) -> None:
    self._last_line, self._printed_step = time.monotonic(), self._step
    figures, seconds = self._figures()
    place, left = f"{self._step}/{self._total}", tqdm.tqdm.format_interval(seconds)
    print(f"{self._description} {place} {figures} {left} left", file=sys.stderr, flush=True)
