"""The figures as an aligned table on the screen and as JSON, both complete after every row."""

import dataclasses
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from rkd_jax.benchmark.measure import Budget, Figures, machine, measure, measure_ceilings

# (heading, figure, factor, format)
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


@dataclasses.dataclass(frozen=True)
class Options:
  """Sizes and repetitions.

  Attributes:
    canvas: (height, width) of images for inference and box steps; image steps have half of it.
    inference_batches: batch sizes of inference.
    box_batches, image_batches: of the training steps; () is one group of `loss.images_per_group`.
    programs: some of `run.PROGRAMS`; () is inference, the config's kinds of step, forms.
    num_classes: size of the vocabulary; 0 is LVIS' or COCO's, by the config's loss.
    torch: also measure PyTorch.
    output: JSON file, '' for none.
    steps, seconds: the `Budget` of each measurement; 0 seconds is 60, and 10 on a CPU.
  """

  canvas: tuple[int, int] = (800, 1344)
  inference_batches: tuple[int, ...] = (1,)
  box_batches: tuple[int, ...] = ()
  image_batches: tuple[int, ...] = ()
  programs: tuple[str, ...] = ()
  num_classes: int = 0
  torch: bool = False
  output: str = ""
  steps: int = 20
  seconds: float = 0.0

  def budget(self) -> Budget:
    seconds = self.seconds or (10.0 if jax.default_backend() == "cpu" else 60.0)
    return Budget(self.steps, seconds)


class Report:
  """Rows in sections.  Figures are in seconds, bytes and FLOP; missing ones stay blank."""

  def __init__(
    self, header: dict, path: str = "", hidden: dict | None = None, columns: tuple = _COLUMNS
  ):
    """Prints the header.

    Args:
      header: what was measured where; it goes into the JSON.
      path: the JSON file to write, '' for none; its folder is made.
      hidden: more for the JSON alone.
      columns: (heading, name of a figure, factor or None for text, format) of each.
    """
    self._path = Path(path) if path else None
    self._content = {**header, **(hidden or {}), "rows": []}
    self._section = ""
    self._columns = columns
    if self._path:
      self._path.parent.mkdir(parents=True, exist_ok=True)
    for name, value in header.items():
      if isinstance(value, dict):
        value = ", ".join(
          f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in value.items()
        )
      print(f"{name}: {value}", flush=True)

  def section(self, title: str) -> None:
    self._section = title
    heads = "".join(f"{head:>{_width(head)}}" for head, *_ in self._columns)
    print(f"\n{title}\n{'':{_NAME_WIDTH}}{heads}", flush=True)

  def row(self, name: str, figures: Figures, images: int = 0) -> None:
    """Prints a row and writes the JSON anew; with `images`, what a call handles, their rate too."""
    if images:
      figures = figures | {"images_per_s": images / figures["seconds"], "batch": images}
    cells = []
    for head, key, factor, spec in self._columns:
      value = figures.get(key)
      if value is not None:
        value = format(value if factor is None else value * factor, spec)
      cells.append(f"{value or '':>{_width(head)}}")
    print(f"{name:{_NAME_WIDTH}}{''.join(cells)}".rstrip(), flush=True)
    self._add({"section": self._section, "name": name, **figures})

  def note(self, text: str) -> None:
    """A line for what could not be measured."""
    print(text, flush=True)
    self._add({"section": self._section, "note": text})

  @property
  def rows(self) -> list[dict]:
    return self._content["rows"]

  def _add(self, row: dict) -> None:
    self.rows.append(row)
    if self._path:
      # Replaced as a whole: a run that is interrupted leaves a file that can be read.
      partial = self._path.with_suffix(".partial")
      partial.write_text(json.dumps(self._content, indent=1))
      os.replace(partial, self._path)


class Bench(Report):
  """A report that measures its rows itself, and compares them to what the machine can reach."""

  def __init__(self, name: str, dtype: str, options: Options, hidden: dict | None = None):
    """Measures the ceilings in `dtype` and prints the header; `hidden` as for `Report`."""
    self.budget = options.budget()
    self.ceilings = measure_ceilings(dtype, self.budget)
    header = {
      "arguments": " ".join(sys.argv[1:]),
      "name": name,
      "dtype": dtype,
      "machine": machine(),
      "ceilings": dataclasses.asdict(self.ceilings),
    }
    super().__init__(header, options.output, hidden)

  def measure(
    self, name: str, function: Callable, *args: Any, images: int = 0, **settings: Any
  ) -> tuple[Any, Figures]:
    """Measures `function(*args)` as a row; its last outputs and the figures.

    `images` are as for `row`, the settings those of `measure.measure`.
    """
    outputs, figures = measure(function, args, self.budget, self.ceilings, **settings)
    self.row(name, figures, images)
    return outputs, figures


def _width(head: str) -> int:
  return max(len(head), 8) + 2
