"""CLIP alone on the annotated boxes, with an encoder that knows the classes or mistakes them."""

import types

import numpy as np
import pytest
import tiny

from rkd_jax.evaluation import ceilings
from rkd_jax.records.sources import open_source

WIDTH = tiny.EMBEDDING_DIM


@pytest.fixture(scope="module")
def root(tmp_path_factory):
  root = tmp_path_factory.mktemp("root")
  tiny.build_data(root)
  return root


def _measured(root, monkeypatch, read_as):
  """AP when the crop of an object of class c is embedded as class `read_as(c)`."""
  config = tiny.get_config(str(root))
  source = open_source(config.data.dir, config.data.name, "validation")
  rows = np.eye(len(source.class_names), dtype=np.float32)
  objects = iter(np.concatenate([source[i].classes for i in range(len(source))]))

  class Encoder:
    image_size = 8

    def __init__(self, clip):
      pass

    def embed(self, crops):
      return rows[[read_as(next(objects)) for _ in crops]]

  monkeypatch.setattr(ceilings, "RegionEncoder", Encoder)
  load = ceilings.measured

  def measured(config):
    source, vocabulary, evaluator = load(config)
    return source, vocabulary.replace(embeddings=rows), evaluator

  monkeypatch.setattr(ceilings, "measured", measured)
  clip = types.SimpleNamespace(
    embedding_dim=rows.shape[1],
    variables={"params": {"logit_scale": np.log(20.0)}},
    embed_texts=lambda texts: load(config)[1].embeddings[: len(texts)],
  )
  return ceilings.clip_on_annotated_boxes(config, clip)


def test_a_clip_that_reads_all_crops_rightly_finds_everything(root, monkeypatch):
  found = _measured(root, monkeypatch, lambda label: label)
  assert found["AP50_all"] == pytest.approx(100)


def test_one_that_takes_each_class_for_another_finds_nothing(root, monkeypatch):
  found = _measured(root, monkeypatch, lambda label: 79 - label)
  assert found["AP50_all"] < 1


def test_a_clip_of_another_width_is_refused(root):
  clip = types.SimpleNamespace(embedding_dim=WIDTH + 1)
  with pytest.raises(ValueError, match=f"are {WIDTH + 1} wide, the class embeddings {WIDTH}"):
    ceilings.clip_on_annotated_boxes(tiny.get_config(str(root)), clip)


def test_another_clip_is_refused(root):
  config = tiny.get_config(str(root))
  _, vocabulary, _ = ceilings.measured(config)
  clip = types.SimpleNamespace(
    embedding_dim=WIDTH, embed_texts=lambda texts: -vocabulary.embeddings[: len(texts)]
  )
  with pytest.raises(ValueError, match=r"The CLIP is not the one .* cosine of -1\.000"):
    ceilings.clip_on_annotated_boxes(config, clip)
