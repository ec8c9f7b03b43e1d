"""The offline step as an Apache Beam transform: for data sets that want a cluster.

    ranges = missing_ranges(len(source), writer.positions, records_per_shard=512)
    with beam.Pipeline() as pipeline:
      pipeline | beam.Create(ranges) | TeacherShards(settings, split, output)

Every element is a range of positions, its result a shard beside those of `rkd_jax.precompute`,
equal to them record by record.  Workers open data and teachers by path once per process, so both
must be where all of them can read, and the output where they can write.
"""

from collections.abc import Container, Iterator, Sequence

from etils import epath

from rkd_jax.teachers.pipeline import GROUP, write_shard
from rkd_jax.teachers.settings import Settings, open_teachers

try:
  import apache_beam as beam
  from apache_beam.options.pipeline_options import PipelineOptions
except ImportError as error:
  raise ImportError(
    "the offline step on Beam needs the package apache-beam: pip install apache-beam, "
    "here and on the workers."
  ) from error

# First and end position, and those in between that are done.
Range = tuple[int, int, tuple[int, ...]]


def missing_ranges(count: int, done: Container[int], records_per_shard: int) -> list[Range]:
  """What is to be done of `count` images, in ranges that begin at multiples of `GROUP`."""
  size = -(-records_per_shard // GROUP) * GROUP
  ranges = []
  for start in range(0, count, size):
    stop = min(start + size, count)
    there = tuple(position for position in range(start, stop) if position in done)
    if len(there) < stop - start:
      ranges.append((start, stop, there))
  return ranges


class WriteShard(beam.DoFn):
  """A range to a shard; yields the number of records."""

  def __init__(self, settings: Settings, split: str, output: str):
    self._settings, self._split, self._output = settings, split, output

  def setup(self):
    self._teachers = open_teachers(self._settings, self._split)

  def process(self, element: Range) -> Iterator[int]:
    start, stop, done = element
    teachers = self._teachers
    written = write_shard(
      epath.Path(self._output) / self._split,
      range(start, stop),
      frozenset(done),
      teachers.source,
      teachers.proposer,
      teachers.encoder,
      teachers.class_embeddings,
      teachers.embedding_dim,
      self._settings.options,
    )
    beam.metrics.Metrics.counter("rkd_jax", "images").inc(written)
    yield written


class TeacherShards(beam.PTransform):
  """Ranges of positions to shards of results; the output has the number of records of each."""

  def __init__(self, settings: Settings, split: str, output: str):
    super().__init__()
    self._do = WriteShard(settings, split, output)

  def expand(self, ranges):
    # Without a shuffle one worker would take all ranges.
    return ranges | "Spread" >> beam.Reshuffle() | "Write" >> beam.ParDo(self._do)


def run(
  ranges: Sequence[Range], settings: Settings, split: str, output: str, flags: Sequence[str]
) -> None:
  """Runs the transform with Beam's own command-line flags, and waits for it."""
  with beam.Pipeline(options=PipelineOptions(list(flags))) as pipeline:
    _ = pipeline | beam.Create(list(ranges)) | TeacherShards(settings, split, output)
