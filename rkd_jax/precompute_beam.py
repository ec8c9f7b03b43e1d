"""The offline step on Apache Beam, for data sets that want a cluster.

  python -m rkd_jax.precompute_beam --data_dir=DIR --dataset=NAME --splits=train --clip=FILE \\
    --output=DIR --runner=DirectRunner --direct_num_workers=4 \\
    --direct_running_mode=multi_processing

Takes the flags of `rkd_jax.precompute`; all others go to Beam, which runs on Dataflow, Spark, Flink
or the machine itself.  Results are those of `rkd_jax.precompute`, in the same folder: either
command carries on where the other was stopped.  Data, weights and output must be at paths that all
workers share.
"""

from collections.abc import Sequence

from rkd_jax import precompute
from rkd_jax.offline.teachers import open_teachers


def main(arguments: Sequence[str] | None = None):
  """Command line of the module's docstring."""
  args, beam_flags = precompute.make_parser(__doc__).parse_known_args(arguments)
  try:
    # Here, since it needs a package that only this command does.
    from rkd_jax.offline import beam

    settings = precompute.settings_of(args)
    for split in args.splits.split(","):
      teachers = open_teachers(settings, split)
      count = len(teachers.source)
      writer = precompute.open_writer(teachers, args, split)
      ranges = beam.missing_ranges(count, writer.positions, args.records_per_shard)
      beam.run(ranges, settings, split, args.output, beam_flags)
      with precompute.open_writer(teachers, args, split) as writer:
        if len(writer) != count:
          raise ValueError(f"{split}: {len(writer)} of {count} records are there; run it again.")
      precompute.write_report(teachers, args, split)
  except (ValueError, ImportError, OSError) as error:
    raise SystemExit(str(error)) from error


if __name__ == "__main__":
  main()
