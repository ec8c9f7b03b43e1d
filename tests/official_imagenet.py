"""Small folders in the format of ImageNet-21K and of WordNet 3.0's nouns, for tests.

They fit the classes of `official_files.write_lvis`.
"""

import tarfile
from pathlib import Path

from official_files import write_image, write_lvis

LICENCE = "  1 This software and database is being provided to you, the LICENSEE, by"
INDEX_NOUN = (
  "aerosol n 1 2 @ + 1 0 13924052",
  "bat n 3 3 @ ~ #m 3 1 02139199 00131018 02806088",
  "cat n 2 4 @ ~ #m %p 2 1 02121620 10153414",
  "chiropteran n 1 3 @ ~ #m 1 0 02139199",
  "crane n 2 1 @ 2 0 03126707 02012849",
  "menagerie n 2 1 @ 2 0 08412749 03745146",
  "tench n 1 2 @ #m 1 0 01440764",
  "tinca_tinca n 1 2 @ #m 1 0 01440764",
  "true_cat n 1 4 @ ~ #m %p 1 0 02121620",
  "zoo n 1 1 @ 1 0 03745146",
)
DATA_NOUN = (
  "00131018 04 n 03 bat 0 at-bat 0 turn 8 001 @ 00731222 n 0000 | (baseball) a turn at the plate",
  "01440764 05 n 02 tench 0 Tinca_tinca 0 001 @ 01439121 n 0000 | freshwater dace-like game fish",
  "02012849 05 n 01 crane 1 001 @ 02000954 n 0000 | large long-necked wading bird",
  "02121620 05 n 02 cat 0 true_cat 0 001 @ 02120997 n 0000 | feline mammal",
  "02139199 05 n 02 bat 0 chiropteran 0 001 @ 01886756 n 0000 | nocturnal mouselike mammal",
  "03126707 06 n 01 crane 0 001 @ 03490884 n 0000 | lifts and moves heavy objects",
  "03745146 06 n 02 menagerie 0 zoo 0 001 @ 03574816 n 0000 | where wild animals are housed",
  "13924052 27 n 01 aerosol 0 001 @ 13920835 n 0000 | a cloud of particles in a gas",
)


def write_sources(root: Path) -> Path:
  """All that imagenet_lvis reads, in `root`, which is returned: lvis, dict and imagenet."""
  write_lvis(root / "lvis", root / "coco")
  write_wordnet(root)
  write_imagenet(root / "imagenet")
  return root


def write_wordnet(root: Path) -> None:
  """WordNet's dict/index.noun and data.noun in `root`; aerosol.n.02 is not among the senses."""
  (root / "dict").mkdir(parents=True, exist_ok=True)
  for name, lines in (("index.noun", INDEX_NOUN), ("data.noun", DATA_NOUN)):
    # Every line of the release ends in two spaces.
    text = "".join(f"{line}  \n" for line in (LICENCE, *lines))
    (root / "dict" / name).write_text(text)


def write_imagenet(root: Path) -> None:
  """ImageNet-21K in `root`: cats and tenches in folders, bats and both cranes in archives.

  Beside plain JPEGs there are a PNG that is called JPEG, a grey and a CMYK image.  The folder of
  synset 00131018 is empty; no folder has menageries.
  """
  modes = {2: ("RGB", "JPEG"), 10: ("L", "JPEG"), 111: ("RGB", "PNG")}
  for number, (mode, format) in modes.items():
    write_image(root / f"n02121620/n02121620_{number}.JPEG", mode, format)
  write_image(root / "n01440764/n01440764_10026.JPEG")
  (root / "n00131018").mkdir()
  for synset, modes in (
    ("n02139199", ("RGB", "CMYK")),
    ("n03126707", ("L",)),
    ("n02012849", ("RGB",)),
  ):
    with tarfile.open(root / f"{synset}.tar", "w") as archive:
      for number, mode in enumerate(modes, start=1):
        file = root / f"{synset}_{number * 7}.JPEG"
        write_image(file, mode)
        archive.add(file, file.name)
        file.unlink()
