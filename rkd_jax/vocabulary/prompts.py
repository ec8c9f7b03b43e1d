"""Prompts around class names: one template, and the two lists that papers average over.

A template has {} for the name, and may have {article} for the "a" or "an" that belongs to it.
"""

from collections.abc import Iterator

SINGLE = "a photo of a {}"

# The 80 prompts for ImageNet that CLIP's authors selected (arXiv 2103.00020, section 3.1.4).
_IMAGENET_80 = """\
a bad photo of a {}. | a photo of many {}. | a sculpture of a {}. | a photo of the hard to see {}. |
a low resolution photo of the {}. | a rendering of a {}. | graffiti of a {}. |
a bad photo of the {}. | a cropped photo of the {}. | a tattoo of a {}. | the embroidered {}. |
a photo of a hard to see {}. | a bright photo of a {}. | a photo of a clean {}. |
a photo of a dirty {}. | a dark photo of the {}. | a drawing of a {}. | a photo of my {}. |
the plastic {}. | a photo of the cool {}. | a close-up photo of a {}. |
a black and white photo of the {}. | a painting of the {}. | a painting of a {}. |
a pixelated photo of the {}. | a sculpture of the {}. | a bright photo of the {}. |
a cropped photo of a {}. | a plastic {}. | a photo of the dirty {}. |
a jpeg corrupted photo of a {}. | a blurry photo of the {}. | a photo of the {}. |
a good photo of the {}. | a rendering of the {}. | a {} in a video game. | a photo of one {}. |
a doodle of a {}. | a close-up photo of the {}. | a photo of a {}. | the origami {}. |
the {} in a video game. | a sketch of a {}. | a doodle of the {}. | a origami {}. |
a low resolution photo of a {}. | the toy {}. | a rendition of the {}. | a photo of the clean {}. |
a photo of a large {}. | a rendition of a {}. | a photo of a nice {}. | a photo of a weird {}. |
a blurry photo of a {}. | a cartoon {}. | art of a {}. | a sketch of the {}. | a embroidered {}. |
a pixelated photo of a {}. | itap of the {}. | a jpeg corrupted photo of the {}. |
a good photo of a {}. | a plushie {}. | a photo of the nice {}. | a photo of the small {}. |
a photo of the weird {}. | the cartoon {}. | art of the {}. | a drawing of the {}. |
a photo of the large {}. | a black and white photo of a {}. | the plushie {}. |
a dark photo of a {}. | itap of a {}. | graffiti of the {}. | a toy {}. | itap of my {}. |
a photo of a cool {}. | a photo of a small {}. | a tattoo of the {}.
"""

# The 63 prompts of ViLD (arXiv 2104.13921, appendix), less the "This is " of its published code.
# Each line is a template and the words that stand in its <>, in the order of the prompts.
_VILD = """\
There is <> {} in the scene.: {article}, the
a photo of <> {} in the scene.: {article}, the, one
itap of <> {}.: {article}, my, the
a photo of <> {}.: {article}, my, the, one, many
a good photo of <> {}.: {article}, the
a bad photo of <> {}.: {article}, the
a photo of <> nice {}.: a, the
a photo of <> cool {}.: a, the
a photo of <> weird {}.: a, the
a photo of <> small {}.: a, the
a photo of <> large {}.: a, the
a photo of <> clean {}.: a, the
a photo of <> dirty {}.: a, the
a bright photo of <> {}.: {article}, the
a dark photo of <> {}.: {article}, the
a photo of <> hard to see {}.: a, the
a low resolution photo of <> {}.: {article}, the
a cropped photo of <> {}.: {article}, the
a close-up photo of <> {}.: {article}, the
a jpeg corrupted photo of <> {}.: {article}, the
a blurry photo of <> {}.: {article}, the
a pixelated photo of <> {}.: {article}, the
a black and white photo of <> {}.: the, {article}
<> plastic {}.: a, the
<> toy {}.: a, the
<> plushie {}.: a, the
<> cartoon {}.: a, the
<> embroidered {}.: an, the
a painting of <> {}.: the, a
"""


def _vild() -> Iterator[str]:
  for line in _VILD.splitlines():
    template, words = line.split(": ")
    for word in words.split(", "):
      prompt = template.replace("<>", word)
      # As ViLD's published code embeds them: what is no sentence becomes one.
      yield prompt if prompt.startswith(("There ", "itap ")) else f"This is {prompt}"


ENSEMBLES = {
  "imagenet80": tuple(" ".join(_IMAGENET_80.split()).split(" | ")),
  "vild": tuple(_vild()),
}


def fill(template: str, name: str) -> str:
  """The prompt for a name; ValueError if the template has no {} for it."""
  if "{}" not in template:
    raise ValueError(f"template {template!r} has no {{}} for the class name")
  article = "an" if name[:1].lower() in set("aeiou") else "a"
  return template.replace("{article}", article).replace("{}", name)
