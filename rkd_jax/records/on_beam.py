"""Work on Apache Beam: a function called for each element, on the workers of a cluster.

What it writes must be complete when it appears, since Beam may do an element twice or at several
places (`records.shards.PartWriter` sees to that).
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

try:
  import apache_beam as beam
  from apache_beam.options.pipeline_options import PipelineOptions
except ImportError as error:
  raise ImportError(
    "--beam needs the package apache-beam: pip install apache-beam, here and on the workers."
  ) from error


def _counted(write: Callable[[Any], int], element: Any) -> None:
  beam.metrics.Metrics.counter("rkd_jax", "images").inc(write(element))


def run(elements: Sequence[Any], write: Callable[[Any], int], flags: Sequence[str]) -> None:
  """Calls `write`, which returns the number of records written, for each element, and waits.

  Elements and `write` are sent to the workers; `flags` are those of Beam's own command line.
  """
  with beam.Pipeline(options=PipelineOptions(list(flags))) as pipeline:
    # Without a shuffle one worker would take all elements.
    _ = (
      pipeline
      | beam.Create(list(elements))
      | "Spread" >> beam.Reshuffle()
      | "Write" >> beam.Map(functools.partial(_counted, write))
    )
