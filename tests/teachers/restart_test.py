"""A run that is killed again and again ends with the same bytes as one that is left alone."""

import multiprocessing
import os
import random
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tiny_clip

from rkd_jax.frozen.clip import RegionEncoder, load_clip
from rkd_jax.records.results import FIELDS, TeacherReader
from rkd_jax.records.results_writer import TeacherWriter
from rkd_jax.teachers import pipeline
from rkd_jax.teachers.region_growing import RegionGrowing
from tests import colours

IMAGES, BAD, KILLS = 48, 17, 5


class SlowSource(colours.MemorySource):
  """So slow that most of the time there is something to be killed."""

  def __getitem__(self, index):
    time.sleep(0.04)
    return super().__getitem__(index)


def run(clip_folder, output, connection):
  """The work of a process; says when it is about to begin and how long it took."""
  records = [colours.record(i) for i in range(IMAGES)]
  records[BAD] = colours.damaged(records[BAD])
  clip = load_clip(clip_folder)
  encoder = RegionEncoder(clip, 8)
  encoder.embed(np.zeros((8, 32, 32, 3), np.uint8))
  classes = np.random.default_rng(0).normal(size=(3, clip.embedding_dim))
  connection.send("ready")
  start = time.monotonic()
  writer = TeacherWriter(output, "train", clip.embedding_dim, {}, records_per_shard=3)
  pipeline.GROUP = 4
  with ThreadPoolExecutor(2) as executor:
    pipeline.precompute(
      SlowSource(records),
      RegionGrowing(),
      encoder,
      classes,
      writer,
      colours.OPTIONS,
      executor,
    )
  connection.send(time.monotonic() - start)


@pytest.fixture(scope="module")
def start(tmp_path_factory):
  """Starts `run` in a process; returns it when it is about to begin, and its messages."""
  clip_folder = tiny_clip.write_run(tmp_path_factory.mktemp("clip"))
  # A server that has the imports done, from which processes are cheap.
  context = multiprocessing.get_context("forkserver")
  context.set_forkserver_preload([__name__])

  def call(output):
    mine, theirs = context.Pipe()
    process = context.Process(target=run, args=(clip_folder, output, theirs))
    process.start()
    theirs.close()
    assert mine.recv() == "ready"
    return process, mine

  return call


@pytest.mark.faults
def test_killed_at_five_random_moments(start, tmp_path):
  process, messages = start(tmp_path / "straight")
  seconds = messages.recv()
  process.join()
  rng = random.Random(0)
  for _ in range(KILLS):
    process, _ = start(tmp_path / "killed")
    time.sleep(rng.uniform(0, 0.3 * seconds))
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert process.exitcode == -signal.SIGKILL
    with pytest.raises(ValueError, match=r"only \d+ results are there"):
      TeacherReader(tmp_path / "killed", "train")
  # The killed ones left something to go on from.
  assert list((tmp_path / "killed" / "train").glob("part-*.json"))
  process, messages = start(tmp_path / "killed")
  messages.recv()
  process.join()
  expected, results = (TeacherReader(tmp_path / name, "train") for name in ("straight", "killed"))
  assert len(expected) == len(results) == IMAGES
  for image_id in range(IMAGES):
    for key in FIELDS:
      ours, theirs = results[image_id][key], expected[image_id][key]
      assert ours.dtype == theirs.dtype and ours.shape == theirs.shape
      assert ours.tobytes() == theirs.tobytes(), (image_id, key)
  for path in (tmp_path / "straight" / "train").iterdir():
    assert path.read_bytes() == (tmp_path / "killed" / "train" / path.name).read_bytes(), path
  assert results.notes == expected.notes
  assert list(results.notes) == [BAD]
