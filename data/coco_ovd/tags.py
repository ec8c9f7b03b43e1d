"""Image-level labels from captions: the classes that an image's captions name.

The rule is that of the reference's `tools/get_cc_tags.py` with all captions of an image: simple
enough to miss plurals and words before a comma.  The published models were trained on it.
"""

from collections.abc import Mapping, Sequence


def spoken(synonym: str) -> str:
  """An LVIS synonym as it stands in a caption: 'tie_(necktie)' is 'tie'."""
  return synonym.replace("_", " ").split("(")[0].strip().lower()


def tags(captions: Sequence[str], synonyms: Mapping[str, Sequence[str]]) -> list[str]:
  """The classes of which a synonym stands between spaces in the joined captions, in lower case.

  The beginning and the end count as spaces, unless the synonym is all there is; a tab, a full
  stop or a comma does not count.

  Args:
    captions: of one image, as they are in the file.
    synonyms: class -> LVIS synonyms.

  Returns:
    Classes in the order of `synonyms`.
  """
  text = " ".join(captions).lower()
  padded = f" {text} "
  found = []
  for name, words in synonyms.items():
    spellings = map(spoken, words)
    if any(f" {spelling} " in padded and spelling != text for spelling in spellings):
      found.append(name)
  return found
