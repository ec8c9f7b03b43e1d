"""What travels between data, models, losses and evaluation.

One convention everywhere: boxes are XYXY in absolute pixels of the network input (float32), classes
are 0-based columns of the class-embedding matrix, images are NHWC RGB.  Every padded axis has a
`valid` mask; coordinates never say whether an entry is real.  Arrays have a leading batch axis.
"""

from typing import TYPE_CHECKING, Any

import numpy as np
from flax import struct
from jaxtyping import Array, Bool, Float, Int, UInt8

if TYPE_CHECKING:  # checkers have no name for both, and either is taken for the other
  Arr = Any
else:
  Arr = Array | np.ndarray


@struct.dataclass
class GroundTruth:
  """Annotated boxes of a batch of images, padded to G per image.

  For masks: the `vertices` of an instance's polygons and the polygon that each belongs to
  (`owners`, -1 is padding), as `ops.polygons.pack_polygons` makes them.  Rows that are `pseudo` are
  no annotations but pseudo labels, which only classification learns from, with the teacher's
  probabilities as their `scores` (1 for annotations); None where there are none.
  """

  boxes: Float[Arr, "b g 4"]
  classes: Int[Arr, "b g"]
  valid: Bool[Arr, "b g"]
  vertices: Float[Arr, "b g v 2"] | None = None
  owners: Int[Arr, "b g v"] | None = None
  pseudo: Bool[Arr, "b g"] | None = None
  scores: Float[Arr, "b g"] | None = None


@struct.dataclass
class Regions:
  """Teacher regions for RKD: class-agnostic proposals and their CLIP embeddings, not normalised."""

  boxes: Float[Arr, "b k 4"]
  embeddings: Float[Arr, "b k d"]
  valid: Bool[Arr, "b k"]


@struct.dataclass
class RegionQueue:
  """Teacher embeddings of regions of earlier batches, not normalised, the newest first.

  Rows that were never filled are zero, not `valid`, and last.
  """

  embeddings: Float[Arr, "q d"]
  valid: Bool[Arr, "q"]


@struct.dataclass
class PseudoBoxes:
  """One box per image-level label, for ILS."""

  boxes: Float[Arr, "b l 4"]
  classes: Int[Arr, "b l"]
  valid: Bool[Arr, "b l"]


@struct.dataclass
class Batch:
  """A batch for the detector.

  `images` are uint8 and padded at the bottom and right up to the canvas; `sizes` (height, width)
  says where the picture ends.  The model normalises and zeroes the padding on the device, so that
  padding equals the pixel mean.  `valid` is False for rows that only fill up the last batch of an
  evaluation.  `image_ids` are the lowest 31 bits of the records' ids: accelerators count in 32.
  """

  images: UInt8[Arr, "b h w 3"]
  sizes: Int[Arr, "b 2"]
  original_sizes: Int[Arr, "b 2"]
  image_ids: Int[Arr, "b"]
  valid: Bool[Arr, "b"]
  ground_truth: GroundTruth | None = None
  regions: Regions | None = None
  pseudo_boxes: PseudoBoxes | None = None


@struct.dataclass
class CaptionedImages:
  """A batch for contrastive training: image i belongs to text i."""

  images: UInt8[Arr, "b h w 3"]
  tokens: Int[Arr, "b t"]


@struct.dataclass
class Proposals:
  """Class-agnostic boxes from the RPN, best first; `logits` are objectness."""

  boxes: Float[Arr, "b p 4"]
  logits: Float[Arr, "b p"]
  valid: Bool[Arr, "b p"]


@struct.dataclass
class RpnOutputs:
  """Raw RPN head outputs over all A anchors (levels concatenated).

  `valid` anchors are those of the map that an image has without its canvas.
  """

  anchors: Float[Arr, "a 4"]
  logits: Float[Arr, "b a"]
  deltas: Float[Arr, "b a 4"]
  valid: Bool[Arr, "b a"]


@struct.dataclass
class RoiSamples:
  """RoIs chosen for the loss, with what each is matched to.

  Foreground comes first.  `classes` is C for background.  `gt_index` (the matched row of the
  ground truth) and `gt_boxes` are meaningful for foreground only.  `pseudo` says which are matched
  to a pseudo label, if the ground truth has such rows.
  """

  boxes: Float[Arr, "b r 4"]
  classes: Int[Arr, "b r"]
  gt_boxes: Float[Arr, "b r 4"]
  gt_index: Int[Arr, "b r"]
  valid: Bool[Arr, "b r"]
  pseudo: Bool[Arr, "b r"] | None = None


@struct.dataclass
class Outputs:
  """What the detector computes in a training step; losses read only this.

  `class_logits` have C + 1 columns, background last.  `region_embeddings` are the student's, from
  the distilled projection, not normalised.  `mask_logits` are of the first F RoIs, as many as can
  be foreground.  `label_valid` says which labels have a box to supervise, where that need not be
  their pseudo box.
  """

  rpn: RpnOutputs | None = None
  rois: RoiSamples | None = None
  class_logits: Float[Arr, "b r c"] | None = None
  box_deltas: Float[Arr, "b r 4"] | None = None
  region_embeddings: Float[Arr, "b k d"] | None = None
  pseudo_box_logits: Float[Arr, "b l c"] | None = None
  mask_logits: Float[Arr, "b f m m"] | None = None
  label_valid: Bool[Arr, "b l"] | None = None


@struct.dataclass
class Detections:
  """Final detections, best first; `rois` indexes the proposal of each.

  `masks` are probabilities in the frame of each box (`ops.masks.paste` brings them to an image).
  """

  boxes: Float[Arr, "b n 4"]
  scores: Float[Arr, "b n"]
  classes: Int[Arr, "b n"]
  rois: Int[Arr, "b n"]
  valid: Bool[Arr, "b n"]
  masks: Float[Arr, "b n m m"] | None = None


@struct.dataclass
class ScoredRois:
  """RoIs between the detector and CLIP: what is to be cut out, and what then becomes detections.

  `crops` are the boxes for CLIP, where `crop_valid`; `crop_of` is the crop that speaks for each
  RoI, or -1.  `features` are there for a mask head.
  """

  boxes: Float[Arr, "b r 4"]
  scores: Float[Arr, "b r c"]
  valid: Bool[Arr, "b r"]
  crops: Float[Arr, "b k 4"]
  crop_valid: Bool[Arr, "b k"]
  crop_of: Int[Arr, "b r"]
  features: tuple[Float[Arr, "b _h _w f"], ...] | None = None


@struct.dataclass
class Vocabulary:
  """The classes to detect: their text embeddings (rows of T), and which have training boxes.

  `image_counts` is the number of training images of each class, for the federated loss.
  `image_embeddings` are those of image steps, where their classes are others (strict setting).
  `has_pseudo_labels` says which have none, but pseudo labels in box batches; None if these have
  none.
  """

  embeddings: Float[Arr, "c e"]
  has_boxes: Bool[Arr, "c"]
  image_counts: Float[Arr, "c"] | None = None
  image_embeddings: Float[Arr, "d e"] | None = None
  has_pseudo_labels: Bool[Arr, "c"] | None = None
