"""OWL-ViT as a source of proposals, through Google's Scenic where that is installed.

Scenic is no package of an index (the one called `scenic` there is another project), so it is
looked for when it is used: an installed `scenic` that has `scenic.projects`, or the folder of a
clone that the environment variable SCENIC_PATH names.
"""

import importlib
import os
import sys
import types
from collections.abc import Sequence
from typing import Any, ClassVar

import jax
import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from rkd_jax.files import checksums
from rkd_jax.frozen.mavl import RKD_QUERIES
from rkd_jax.machine.replicas import Replicas
from rkd_jax.models.clip.tokenizer import Tokenizer
from rkd_jax.ops.host import iou, suppress
from rkd_jax.teachers.proposals import Proposed, checked_images

_INSTALL = (
  "--proposals=owl_vit needs Google's Scenic, which is no package of an index: "
  "git clone https://github.com/google-research/scenic, set SCENIC_PATH to that folder, and "
  "pip install clu tensorflow git+https://github.com/google-research/big_vision.git "
  "git+https://github.com/openai/CLIP.git, which it imports"
)


def import_scenic() -> types.ModuleType:
  """Scenic's `models` of OWL-ViT.

  Raises:
    ImportError: it is not there, or something that it imports is not; says what to install.
  """
  path = os.environ.get("SCENIC_PATH")
  if path and path not in sys.path:
    sys.path.insert(0, path)
  try:
    importlib.import_module("scenic.projects.owl_vit")
    _stand_in_for_ott()
    return importlib.import_module("scenic.projects.owl_vit.models")
  except ImportError as error:
    raise ImportError(f"{_INSTALL}. ({error})") from error


def _stand_in_for_ott() -> None:
  """Scenic imports `ott` for its training alone, and the version that it asks for needs old jax."""
  try:
    importlib.import_module("ott.tools.transport")
  except (ImportError, AttributeError):
    for name, inner in (
      ("ott", "geometry"),
      ("ott.geometry", "geometry"),
      ("ott.tools", "transport"),
    ):
      sys.modules[name] = types.ModuleType(name)
      setattr(sys.modules[name], inner, None)


class OwlVit:
  """A `Proposer` and `Answerer` on an OWL-ViT checkpoint.

  Class-agnostic scores are those of the objectness head where the model has one (OWLv2), else the
  best over the queries of RKD.  A class is asked for as "a photo of a <name>".  The image is padded
  to a square at the bottom and right with grey and resized (PIL, antialiased bilinear); its
  embedding serves all queries.  Calls from several threads use all local devices.

  Args:
    checkpoint: of Scenic.
    config: module of scenic.projects.owl_vit.configs that describes it, such as clip_b32.
    top: most proposals per image.
    nms_threshold: greatest IoU between two proposals.

  Raises:
    ImportError: Scenic is not installed; says how to install it.
    FileNotFoundError: there is no such checkpoint.
  """

  in_workers: ClassVar[bool] = False

  def __init__(
    self,
    checkpoint: str,
    config: str = "clip_b32",
    top: int = 50,
    nms_threshold: float = 0.5,
  ):
    models = import_scenic()
    if not os.path.exists(checkpoint):
      raise FileNotFoundError(
        f"{checkpoint} is not there: expected an OWL-ViT checkpoint of Scenic, as its "
        "projects/owl_vit/README.md lists them."
      )
    settings = importlib.import_module(f"scenic.projects.owl_vit.configs.{config}").get_config(
      init_mode="canonical_checkpoint"
    )
    self._has_objectness = settings.model.get("objectness_head") is not None
    module = models.TextZeroShotDetectionModule(
      body_configs=settings.model.body,
      objectness_head_configs=settings.model.get("objectness_head"),
      normalize=settings.model.normalize,
      box_bias=settings.model.box_bias,
    )
    self._variables = module.load_variables(checkpoint)
    self._replicas = Replicas(self._variables)
    self._side = settings.dataset_configs.input_size
    self._tokenizer = Tokenizer(settings.dataset_configs.max_query_length)
    self._settings = {"config": config, "top": top, "nms_threshold": nms_threshold}
    self._texts: dict[str, np.ndarray] = {}

    @jax.jit
    def embed_image(variables, image):
      grid = module.apply(variables, image, False, method=module.image_embedder)
      tokens = grid.reshape(1, -1, grid.shape[-1])
      boxes = module.apply(
        variables, image_features=tokens, feature_map=grid, method=module.box_predictor
      )["pred_boxes"]
      objectness = None
      if self._has_objectness:
        objectness = module.apply(variables, tokens, method=module.objectness_predictor)
        objectness = objectness["objectness_logits"][0]
      return tokens, boxes[0], objectness

    @jax.jit
    def embed_texts(variables, tokens):
      return module.apply(variables, tokens[None], False, method=module.text_embedder)[0]

    @jax.jit
    def classify(variables, tokens, texts):
      found = module.apply(variables, tokens, texts[None], method=module.class_predictor)
      return found["pred_logits"][0]

    self._embed_image, self._embed_texts, self._classify = embed_image, embed_texts, classify

  def propose(self, images: UInt8[np.ndarray, "n h w 3"]) -> list[Proposed]:
    """At most `top` boxes per image, best first, not clipped to the image."""
    return [self.answer(image, ())[0] for image in checked_images(images)]

  def answer(
    self, image: UInt8[np.ndarray, "h w 3"], names: Sequence[str]
  ) -> tuple[Proposed, Proposed]:
    """Proposals, and the best box for each name."""
    queries = () if self._has_objectness else RKD_QUERIES
    queries = [*queries, *(f"a photo of a {name}" for name in names)]
    general = len(queries) - len(names)
    square = self._square(image)
    with self._replicas.lease() as variables:
      tokens, boxes, logits = self._embed_image(variables, square)
      scores = np.zeros((boxes.shape[0], 0))
      if queries:
        scores = _sigmoid(self._classify(variables, tokens, self._encoded(variables, queries)))
      boxes, logits = jax.device_get((boxes, logits))
    objectness = _sigmoid(logits) if self._has_objectness else scores[:, :general].max(1)
    named = scores[:, general : len(queries)]
    boxes = _corners(boxes, max(image.shape[:2]))
    kept = suppress(iou(boxes, boxes), objectness, self._settings["nms_threshold"])
    kept = kept[: self._settings["top"]]
    best = named.argmax(0)
    answers = boxes[best], named[best, np.arange(len(names))].astype(np.float32)
    return (boxes[kept], objectness[kept].astype(np.float32)), answers

  def describe(self) -> dict[str, Any]:
    digest = checksums.of_arrays(self._variables)
    return {"name": type(self).__name__, "checkpoint": digest, **self._settings}

  def _square(self, image: UInt8[np.ndarray, "h w 3"]) -> Float[np.ndarray, "1 s s 3"]:
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


def _corners(boxes: Float[np.ndarray, "n 4"], side: int) -> Float[np.ndarray, "n 4"]:
  """Centre and size, as parts of a square, to XYXY pixels."""
  centre, half = boxes[:, :2], boxes[:, 2:] / 2
  return np.concatenate([centre - half, centre + half], 1).astype(np.float32) * np.float32(side)
