"""What CLIP alone gives where the boxes are right: how far a detector that trusts it can get.

The other ceiling, CLIP on the boxes that a detector finds, is evaluation with
`model.test.fusion.kind="crops"` and exponents of 1.
"""

from collections.abc import Iterator
from typing import Any

import ml_collections
import numpy as np
import scipy.special

from rkd_jax.evaluation.evaluate import measured
from rkd_jax.frozen.clip import FrozenClip, RegionEncoder
from rkd_jax.frozen.regions import crop_regions
from rkd_jax.models.clip.model import MAX_LOGIT_SCALE
from rkd_jax.ops.host import unit
from rkd_jax.records.sources import Source, decode_image
from rkd_jax.structures import Vocabulary
from rkd_jax.vocabulary.vocabulary import check_same_clip


def clip_on_annotated_boxes(
  config: ml_collections.ConfigDict, clip: FrozenClip, images: int | None = None
) -> dict[str, Any]:
  """AP of the annotated boxes themselves with CLIP's probabilities as their scores.

  Each box is found once for every class whose probability is above the config's score threshold, so
  that a box is missed, or found with a wrong name, as CLIP reads its crop.  Images without a box
  find nothing.  `images` are the first of the split; None is all.

  Raises:
    ValueError: see `evaluate.measured`; the CLIP is not the one of the class embeddings.
  """
  source, vocabulary, evaluator = measured(config)
  if clip.embedding_dim != vocabulary.embeddings.shape[1]:
    raise ValueError(
      f"The CLIP's embeddings are {clip.embedding_dim} wide, the class embeddings "
      f"{vocabulary.embeddings.shape[1]}: use the CLIP that made them."
    )
  check_same_clip(config, source, clip)
  count = len(source) if images is None else min(images, len(source))
  for index, found in _found(config, source, vocabulary, clip, count):
    evaluator.add(source[index], found)
  return evaluator.compute()


def _found(
  config: ml_collections.ConfigDict,
  source: Source,
  vocabulary: Vocabulary,
  clip: FrozenClip,
  count: int,
) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
  encoder, own = RegionEncoder(clip), config.model.test
  scale = float(np.exp(np.asarray(clip.variables["params"]["logit_scale"])))
  fusion = own.get("fusion") or {}
  temperature = fusion.get("temperature") or min(scale, MAX_LOGIT_SCALE)
  for index in range(count):
    record = source[index]
    kept = ~record.is_crowd
    boxes = record.boxes[kept]
    crops = crop_regions(
      decode_image(record), boxes, encoder.image_size, fusion.get("context", 0.12)
    )
    logits = temperature * unit(encoder.embed(crops)) @ unit(vocabulary.embeddings).T
    scores = scipy.special.softmax(logits, axis=1)
    rows, classes = np.nonzero(scores > own.score_threshold)
    order = np.argsort(-scores[rows, classes], kind="stable")[: own.detections]
    rows, classes = rows[order], classes[order]
    yield (
      index,
      {
        "boxes": boxes[rows].astype(np.float32),
        "scores": scores[rows, classes].astype(np.float32),
        "classes": classes.astype(np.int32),
      },
    )
