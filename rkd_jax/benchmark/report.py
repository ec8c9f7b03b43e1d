"""The figures as an aligned table on the screen and as JSON, both complete after every row."""

import dataclasses
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_collections

from rkd_jax.benchmark.measure import Budget, Figures, machine, measure, measure_ceilings

_COLUMNS = (
  ("ms", "seconds", 1e3, ",.2f"),
  ("min ms", "min_seconds", 1e3, ",.2f"),
  ("images/s", "images_per_s", 1, ",.2f"),
  ("CPU s", "cpu_seconds", 1, ",.2f"),
  ("compile s", "compile_seconds", 1, ".1f"),
  ("temp MiB", "temp_bytes", 2**-20, ",.0f"),
  ("memory MiB", "memory_bytes", 2**-20, ",.0f"),
  ("peak MiB", "peak_bytes", 2**-20, ",.0f"),
  ("GFLOP", "flops", 1e-9, ",.1f"),
  ("GFLOP/s", "flops_per_s", 1e-9, ",.0f"),
  ("roofline", "roofline_share", 1, ".0%"),
  ("bound", "bound", None, "s"),
)
_NAME_WIDTH = 36
_SCOPE_WIDTH = 48


@dataclasses.dataclass(frozen=True)
class Options(Budget):
  """What is measured, and how long.

  Attributes:
    canvas: (height, width) of images for inference and box steps; image steps have half of it.
    inference_batches, box_batches, image_batches: batch sizes of inference and of the training
      steps; () of the latter is one group of `loss.images_per_group`.
    programs: some of `detector.PROGRAMS`; () is inference, the config's kinds of step, forms.
    num_classes: size of the vocabulary; 0 is LVIS' or COCO's, by the config's loss.
    kernels: how many of the heaviest kernels of inference and of each step are listed.
    torch: also measure PyTorch.
    output: JSON file, '' for none.
  """

  canvas: tuple[int, int] = (800, 1344)
  inference_batches: tuple[int, ...] = (1,)
  box_batches: tuple[int, ...] = ()
  image_batches: tuple[int, ...] = ()
  programs: tuple[str, ...] = ()
  num_classes: int = 0
  kernels: int = 0
  torch: bool = False
  output: str = ""


class Report:
  """Rows in sections.  Figures are in seconds, bytes and FLOP; missing ones stay blank."""

  def __init__(
    self,
    name: str,
    options: Options,
    config: ml_collections.ConfigDict | None = None,
    columns: tuple = _COLUMNS,
    **facts: Any,
  ):
    """Prints what is measured where; the JSON has it too, and the config.

    Args:
      name: of what is measured.
      options: `output` is the JSON file, whose folder is made.
      config: what else there is to know.
      columns: (heading, name of a figure, factor or None for text, format) of each.
      **facts: more to print.
    """
    self.options = options
    self._path = Path(options.output) if options.output else None
    self._section = ""
    self._columns = [(head, max(len(head), 8) + 2, *rest) for head, *rest in columns]
    if self._path:
      self._path.parent.mkdir(parents=True, exist_ok=True)
    header = {"arguments": " ".join(sys.argv[1:]), "name": name, **facts, "machine": machine()}
    for key, value in header.items():
      if isinstance(value, dict):
        value = ", ".join(
          f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in value.items()
        )
      print(f"{key}: {value}", flush=True)
    if config is not None:
      header["config"] = json.loads(config.to_json_best_effort())
    self.rows: list[dict] = []
    self._content = {**header, "rows": self.rows}

  def section(self, title: str) -> None:
    self._section = title
    heads = "".join(f"{head:>{width}}" for head, width, *_ in self._columns)
    print(f"\n{title}\n{'':{_NAME_WIDTH}}{heads}", flush=True)

  def row(self, name: str, figures: Figures, images: int = 0) -> None:
    """Prints a row and writes the JSON anew; with `images`, what a call handles, their rate too."""
    if images:
      figures = figures | {"images_per_s": images / figures["seconds"], "batch": images}
    line = f"{name:{_NAME_WIDTH}}"
    for _, width, key, factor, spec in self._columns:
      value = figures.get(key)
      if value is not None:
        value = format(value if factor is None else value * factor, spec)
      line += f"{value or '':>{width}}"
    print(line.rstrip(), flush=True)
    for kernel in figures.get("kernels", ()):
      text = f"  {kernel['name']:{_NAME_WIDTH - 2}}{1e3 * kernel['seconds']:10,.2f}"
      text += f"{kernel['share']:7.1%}  {kernel['source']:<42} {kernel['scope'][-_SCOPE_WIDTH:]}"
      print(text.rstrip(), flush=True)
    self._add({"section": self._section, "name": name, **figures})

  def attempt(self, library: str, function: Callable, *args: Any) -> Any:
    """What a function of an optional library returns; None and a line that says why if it fails."""
    try:
      return function(*args)
    except Exception as error:  # Libraries that do not fit each other raise errors of any kind.
      reason = f"{type(error).__name__}: {error}".splitlines()[0]
      self.note(f"{library} is not measured: {reason}")
      return None

  def note(self, text: str) -> None:
    """A line for what could not be measured."""
    print(text, flush=True)
    self._add({"section": self._section, "note": text})

  def _add(self, row: dict) -> None:
    self.rows.append(row)
    if self._path:
      # Replaced as a whole: a run that is interrupted leaves a file that can be read.
      partial = self._path.with_suffix(".partial")
      partial.write_text(json.dumps(self._content, indent=1))
      os.replace(partial, self._path)


class Bench(Report):
  """A report that measures its rows itself, and compares them to what the machine can reach."""

  def __init__(self, name: str, dtype: str, options: Options, config: Any = None):
    """Measures the ceilings in `dtype`; the rest is as for `Report`."""
    self.ceilings = measure_ceilings(dtype, options)
    super().__init__(name, options, config, dtype=dtype, ceilings=vars(self.ceilings))

  def measure(
    self, name: str, function: Callable, *args: Any, images: int = 0, **settings: Any
  ) -> tuple[Any, Figures]:
    """`measure.measure` with its settings, as a row (see there for `images`)."""
    outputs, figures = measure(function, args, self.options, self.ceilings, **settings)
    self.row(name, figures, images)
    return outputs, figures
