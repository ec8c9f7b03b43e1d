"""Flags, and what a project's `main` is given: as in Scenic, with a writer of JSON lines."""

import json
from pathlib import Path

import jax
from absl import app, flags
from ml_collections import config_flags

config_flags.DEFINE_config_file("config", None, "Settings.", lock_config=False)
flags.DEFINE_string("workdir", None, "Folder.")
flags.mark_flags_as_required(["config", "workdir"])


class Writer:
  def __init__(self, workdir):
    self.file, self.lines = Path(workdir) / "scenic.jsonl", []

  def write_scalars(self, step, scalars):
    self.lines.append(json.dumps({"step": step, **scalars}) + "\n")

  def flush(self):
    self.file.write_text("".join(self.lines))


def run(main):
  def started(_):
    config, workdir = flags.FLAGS.config, flags.FLAGS.workdir
    rng = jax.random.PRNGKey(config.rng_seed)
    main(rng=rng, config=config, workdir=workdir, writer=Writer(workdir))

  app.run(started)
