"""OV-COCO's vocabulary: the 48 / 17 split of the 80 classes, and the words that captions use.

The split is that of Bansal et al. (Zero-Shot Object Detection, 2018), as all of OV-COCO uses it.
The synonyms are those that LVIS v1 gives for the synset that corresponds to each COCO class.
"""

from collections.abc import Sequence

# fmt: off
CLASSES = (
  "person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat",
  "traffic light", "fire hydrant", "stop sign", "parking meter", "bench", "bird", "cat", "dog",
  "horse", "sheep", "cow", "elephant", "bear", "zebra", "giraffe", "backpack", "umbrella",
  "handbag", "tie", "suitcase", "frisbee", "skis", "snowboard", "sports ball", "kite",
  "baseball bat", "baseball glove", "skateboard", "surfboard", "tennis racket", "bottle",
  "wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana", "apple", "sandwich", "orange",
  "broccoli", "carrot", "hot dog", "pizza", "donut", "cake", "chair", "couch", "potted plant",
  "bed", "dining table", "toilet", "tv", "laptop", "mouse", "remote", "keyboard", "cell phone",
  "microwave", "oven", "toaster", "sink", "refrigerator", "book", "clock", "vase", "scissors",
  "teddy bear", "hair drier", "toothbrush",
)
NOVEL = (
  "airplane", "bus", "cat", "dog", "cow", "elephant", "umbrella", "tie", "snowboard",
  "skateboard", "cup", "knife", "cake", "couch", "keyboard", "sink", "scissors",
)
_NEITHER = (
  "traffic light", "fire hydrant", "stop sign", "parking meter", "sports ball", "baseball bat",
  "baseball glove", "tennis racket", "wine glass", "hot dog", "potted plant", "dining table",
  "cell phone", "teddy bear", "hair drier",
)
# fmt: on
BASE = tuple(name for name in CLASSES if name not in NOVEL + _NEITHER)

# As LVIS writes them: underscores for spaces, in brackets what kind is meant.  The other classes
# have no name but their own.
_SYNONYMS = {
  "person": ("person", "baby", "child", "boy", "girl", "man", "woman", "human"),
  "bicycle": ("bicycle", "bike_(bicycle)"),
  "car": ("car_(automobile)", "auto_(automobile)", "automobile"),
  "airplane": ("airplane", "aeroplane"),
  "bus": ("bus_(vehicle)", "autobus", "charabanc", "double-decker", "motorbus", "motorcoach"),
  "train": ("train_(railroad_vehicle)", "railroad_train"),
  "boat": ("boat", "ship_(boat)"),
  "fire hydrant": ("fireplug", "fire_hydrant", "hydrant"),
  "backpack": ("backpack", "knapsack", "packsack", "rucksack", "haversack"),
  "handbag": ("handbag", "purse", "pocketbook"),
  "tie": ("necktie", "tie_(necktie)"),
  "suitcase": ("suitcase", "baggage", "luggage"),
  "skis": ("ski",),
  "sports ball": ("ball",),
  "baseball glove": ("baseball_glove", "baseball_mitt"),
  "wine glass": ("wineglass",),
  "orange": ("orange_(fruit)",),
  "hot dog": ("sausage",),
  "donut": ("doughnut", "donut"),
  "couch": ("sofa", "couch", "lounge"),
  "potted plant": ("flowerpot",),
  "tv": ("television_set", "tv", "tv_set"),
  "laptop": ("laptop_computer", "notebook_computer"),
  "mouse": ("mouse_(computer_equipment)", "computer_mouse"),
  "remote": ("remote_control",),
  "keyboard": ("computer_keyboard", "keyboard_(computer)"),
  "cell phone": (
    "cellular_telephone",
    "cellular_phone",
    "cellphone",
    "mobile_phone",
    "smart_phone",
  ),
  "microwave": ("microwave_oven",),
  "clock": ("clock", "timepiece", "timekeeper"),
  "hair drier": ("hair_dryer",),
}
SYNONYMS = {name: _SYNONYMS.get(name, (name.replace(" ", "_"),)) for name in CLASSES}


def spoken(synonym: str) -> str:
  """An LVIS synonym as it stands in a caption: 'tie_(necktie)' is 'tie'."""
  return synonym.replace("_", " ").split("(")[0].strip().lower()


def tags(captions: Sequence[str]) -> list[str]:
  """The classes of which a synonym stands between spaces in the joined captions, in lower case.

  The beginning and the end count as spaces, unless the synonym is all there is; a tab, a full
  stop or a comma does not count.  This is the rule of the reference's `tools/get_cc_tags.py` with
  all captions of an image, as they are in the file: simple enough to miss plurals and words before
  a comma.  The published models were trained on it.
  """
  text = " ".join(captions).lower()
  return [
    name
    for name, words in SYNONYMS.items()
    if any(f" {word} " in f" {text} " and word != text for word in map(spoken, words))
  ]
