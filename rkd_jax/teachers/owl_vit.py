"""OWL-ViT as a source of proposals, through Google's Scenic where that is installed.

Scenic is looked for when it is used, see `machine.scenic`.
"""

import functools
import importlib
import os
import sys
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import jax
import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from rkd_jax.files import checksums
from rkd_jax.files.untrusted.reading import opening, refuse_head
from rkd_jax.frozen.mavl import RKD_QUERIES, corners
from rkd_jax.frozen.regions import reduced
from rkd_jax.machine.replicas import Replicas
from rkd_jax.machine.scenic import import_from_scenic
from rkd_jax.models.clip.tokenizer import Tokenizer
from rkd_jax.ops.host import iou, suppress
from rkd_jax.teachers.proposals import Proposed, check_image
from rkd_jax.weights import published


def import_scenic() -> types.ModuleType:
  """Scenic's `models` of OWL-ViT; an ImportError says what to install."""
  who, package = "--proposals=owl_vit", "scenic.projects.owl_vit"
  import_from_scenic(package, who)
  _stand_in("ott.tools.transport", {"ott": "geometry", "ott.geometry": "geometry"})
  _stand_in("clip.simple_tokenizer", {})
  return import_from_scenic(f"{package}.models", who)


def _stand_in(module: str, others: Mapping[str, str]) -> None:
  """Makes empty modules where what Scenic imports, and is not used here, cannot be imported.

  Its matching for training is by a version of `ott` that needs an old jax; its tokenizer, whose
  place ours takes, is that of OpenAI's `clip`, which needs torch.
  """
  try:
    importlib.import_module(module)
  except (ImportError, AttributeError):
    package, _, last = module.rpartition(".")
    for name, inner in {**others, package: last}.items():
      sys.modules[name] = types.ModuleType(name)
      setattr(sys.modules[name], inner, types.SimpleNamespace(SimpleTokenizer=None))


class OwlVit:
  """A `Proposer` and `Answerer` on an OWL-ViT checkpoint.

  Class-agnostic scores are those of the objectness head where the model has one (OWLv2), else the
  best over the queries of RKD.  A class is asked for as "a photo of a <name>".  The image is padded
  to a square at the bottom and right with grey and resized (PIL, antialiased bilinear); its
  embedding serves all queries.  Calls from several threads use all local devices.

  Args:
    config: module of scenic.projects.owl_vit.configs that describes the checkpoint.
    top: most proposals per image.
    nms_threshold: greatest IoU between two proposals.

  Raises:
    ImportError: see `import_from_scenic`.
    FileNotFoundError: there is no such checkpoint.
    ReadError: a web page, a pointer of Git LFS or an empty file stands in its place.
  """

  in_workers: ClassVar[bool] = False

  def __init__(
    self, checkpoint: str, config: str = "clip_b32", top: int = 50, nms_threshold: float = 0.5
  ):
    models = import_scenic()
    published.check_there(checkpoint)
    if os.path.isfile(checkpoint):
      with opening(checkpoint, "an OWL-ViT checkpoint of Scenic") as (_, head, _):
        refuse_head(checkpoint, head)
    settings = importlib.import_module(f"scenic.projects.owl_vit.configs.{config}").get_config(
      init_mode="canonical_checkpoint"
    )
    objectness_head = settings.model.get("objectness_head")
    module = models.TextZeroShotDetectionModule(
      body_configs=settings.model.body,
      objectness_head_configs=objectness_head,
      normalize=settings.model.normalize,
      box_bias=settings.model.box_bias,
    )
    self._variables = module.load_variables(checkpoint)
    self._replicas = Replicas(self._variables)
    self._side = settings.dataset_configs.input_size
    self._tokenizer = Tokenizer(settings.dataset_configs.max_query_length)
    self._settings = {"config": config, "top": top, "nms_threshold": nms_threshold}
    self._queries = RKD_QUERIES if objectness_head is None else ()
    self._texts: dict[str, np.ndarray] = {}

    def jit(method: Callable) -> Callable:
      return jax.jit(functools.partial(module.apply, method=method))

    def embed_image(module, image):
      grid = module.image_embedder(image, False)
      tokens = grid.reshape(1, -1, grid.shape[-1])
      boxes = module.box_predictor(image_features=tokens, feature_map=grid)["pred_boxes"]
      if objectness_head is None:
        return tokens, boxes[0], None
      return tokens, boxes[0], module.objectness_predictor(tokens)["objectness_logits"][0]

    self._embed_image = jit(embed_image)
    self._embed_texts = jit(lambda module, tokens: module.text_embedder(tokens[None], False)[0])
    self._classify = jit(lambda module, *found: module.class_predictor(*found)["pred_logits"][0])

  def propose(self, image: UInt8[np.ndarray, "h w 3"]) -> Proposed:
    """At most `top` boxes, best first, not clipped to the image; raises what `answer` does."""
    return self.answer(image, ())[0]

  def answer(
    self, image: UInt8[np.ndarray, "h w 3"], names: Sequence[str]
  ) -> tuple[Proposed, Proposed]:
    """Proposals, and the best box for each name; refuses what `check_image` does."""
    check_image(image)
    queries = [*self._queries, *(f"a photo of a {name}" for name in names)]
    general = len(self._queries)
    square = self._square(image)
    with self._replicas.lease() as variables:
      tokens, boxes, logits = self._embed_image(variables, square)
      scores = np.zeros((boxes.shape[0], 0))
      if queries:
        texts = self._encoded(variables, queries)[None]
        scores = _sigmoid(self._classify(variables, tokens, texts))
      boxes, logits = jax.device_get((boxes, logits))
    objectness = scores[:, :general].max(1) if logits is None else _sigmoid(logits)
    named = scores[:, general : len(queries)]
    side = max(image.shape[:2])
    boxes = corners(boxes, side, side)
    kept = suppress(iou(boxes, boxes), objectness, self._settings["nms_threshold"])
    kept = kept[: self._settings["top"]]
    best = named.argmax(0)
    answers = boxes[best], named[best, np.arange(len(names))].astype(np.float32)
    return (boxes[kept], objectness[kept].astype(np.float32)), answers

  def describe(self) -> dict[str, Any]:
    digest = checksums.of_arrays(self._variables)
    return {"name": type(self).__name__, "checkpoint": digest, **self._settings}

  def _square(self, image: UInt8[np.ndarray, "h w 3"]) -> Float[np.ndarray, "1 s s 3"]:
    image, _ = reduced(image, max(image.shape[:2]))
    height, width = image.shape[:2]
    square = np.full((max(height, width), max(height, width), 3), 128, np.uint8)
    square[:height, :width] = image
    size = (self._side, self._side)
    resized = Image.fromarray(square).resize(size, Image.Resampling.BILINEAR)
    return np.asarray(resized, np.float32)[None] / 255

  def _encoded(self, variables: Any, queries: Sequence[str]) -> Float[np.ndarray, "q d"]:
    """Embedded queries, in rows rounded up to a power of two; those beyond are zero."""
    for query in queries:
      if query not in self._texts:
        tokens = self._tokenizer([query])
        self._texts[query] = np.asarray(self._embed_texts(variables, tokens))[0]
    rows = np.stack([self._texts[query] for query in queries])
    return np.pad(rows, [(0, (1 << (len(rows) - 1).bit_length()) - len(rows)), (0, 0)])


def _sigmoid(logits: Any) -> np.ndarray:
  return 1 / (1 + np.exp(-np.asarray(logits, np.float64)))
