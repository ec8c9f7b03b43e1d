"""What is said of published weights: in the table, in the documents, and in messages."""

import re
import shlex
from pathlib import Path

import pytest

from rkd_jax import cli, configs, precompute
from rkd_jax.weights import published

REPOSITORY = Path(__file__).parents[2]
DOCUMENT = (REPOSITORY / "docs" / "weights.md").read_text()
FILES = [file for entry in published.TABLE for file in entry.files]


def test_names_and_files_are_there_once():
  assert len(published.BY_NAME) == len(published.TABLE)
  assert len({file.path for file in FILES}) == len({file.address for file in FILES}) == len(FILES)
  ovd = [entry.name for entry in published.TABLE if re.match("(coco|lvis)-ovd-", entry.name)]
  assert len(ovd) == 12


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.path)
def test_an_address_ends_in_its_file_and_sums_are_sums(file):
  assert file.address.startswith("https://")
  if not file.by_hand:
    name = file.address.rpartition("/")[2].replace("%2B", "+")
    assert name == file.path.rpartition("/")[2]
  assert file.sha256 is None or re.fullmatch("[0-9a-f]{64}", file.sha256)
  if "openaipublic" in file.address:
    assert f"/{file.sha256}/" in file.address


@pytest.mark.parametrize(
  "name, expected",
  [
    ("clip-vit-b-32", "clip-vit-b-32"),
    ("ViT-B-32.pt", "clip-vit-b-32"),
    ("coco_ovd_rkd", "coco-ovd-rkd"),
    ("coco_ovd_rkd.pth", "coco-ovd-rkd"),
    ("MDef_DETR_r101_epoch20.pth", "mavl"),
    ("vocab.json", "roberta-base"),
  ],
)
def test_an_entry_is_found_by_its_name_and_its_files(name, expected):
  assert published.find(name).name == expected


def test_a_name_that_is_not_there_gets_the_nearest():
  with pytest.raises(ValueError, match=r"Did you mean .*\bclip-vit-b-32\b.*--list shows all"):
    published.find("vit-b-32")
  with pytest.raises(ValueError, match=r"published weights\. rkd-jax download --list"):
    published.find("xyz")


@pytest.mark.parametrize("entry", published.TABLE, ids=lambda entry: entry.name)
def test_the_command_that_reads_an_entry_is_one(entry):
  """The verb and its flags exist, so does the config, and the files are the table's."""
  _check(entry.reader)
  read = set(re.findall(r"weights/([^\s']+)", entry.reader))
  own, others = ({part for f in files for part in _ways(f)} for files in (entry.files, FILES))
  assert read & own and read <= others


@pytest.mark.parametrize("document", ["weights.md", "scenic.md"])
def test_commands_of_the_documents_are_ours(document):
  blocks = re.findall("```\n(.*?)```", (REPOSITORY / "docs" / document).read_text(), re.DOTALL)
  lines = "".join(blocks).replace("\\\n", " ").splitlines()
  commands = [line for line in lines if line.startswith("rkd-jax")]
  assert commands
  for command in commands:
    _check(command.partition("  #")[0])


def _check(command: str) -> None:
  """Fails unless the verb, its flags and the config of a command are there."""
  program, verb, *arguments = shlex.split(command)
  assert program == "rkd-jax"
  if verb == "precompute":
    precompute.make_parser("").parse_args(arguments)
  code = (REPOSITORY / "rkd_jax" / f"{cli.VERBS[verb][0].replace('.', '/')}.py").read_text()
  for argument in arguments:
    flag, _, value = argument.partition("=")
    if verb != "precompute" and flag.startswith("--"):
      name = flag.removeprefix("--")
      assert f'"{flag}"' in code or re.search(rf'DEFINE_\w+\(\s*"{name}"', code), flag
    if flag == "--config":
      configs.locate(value)


def _ways(file: published.File) -> set[str]:
  """How a command may name a file: itself, or its folder."""
  return {file.path, file.path.partition("/")[0]}


@pytest.mark.parametrize("entry", published.TABLE, ids=lambda entry: entry.name)
def test_the_document_says_what_the_table_says(entry):
  section = _sections()[entry.name]
  facts = [entry.what, entry.licence, entry.source, entry.reader]
  for file in entry.files:
    facts += [file.path, file.address, *filter(None, (file.size, file.sha256))]
  assert not [fact for fact in facts if fact not in section]
  stated = re.findall(r"\b[0-9a-f]{64}\b", section)
  assert set(stated) <= {file.sha256 for file in entry.files} | set(
    re.findall(r"\b[0-9a-f]{64}\b", " ".join(file.address for file in entry.files))
  )


def test_the_document_has_no_other_names():
  assert list(_sections()) == [entry.name for entry in published.TABLE]


def _sections() -> dict[str, str]:
  parts = re.split(r"^### `(.+)`$", DOCUMENT, flags=re.MULTILINE)
  return {name: body.partition("\n## ")[0] for name, body in zip(parts[1::2], parts[2::2])}


def test_messages_and_documents_name_weights_that_are_there():
  texts = {path: path.read_text() for path in (REPOSITORY / "rkd_jax").rglob("*.py")}
  texts |= {path: path.read_text() for path in (REPOSITORY / "docs").glob("*.md")}
  named = {
    name
    for text in texts.values()
    for name in re.findall(r"rkd-jax download ((?!-)[\w.-]+\w)", text)
    if name not in ("NAME",)
  }
  assert {"clip-vit-b-32", "mavl", "roberta-base"} <= named
  assert {published.find(name).name for name in named} == {n.replace("_", "-") for n in named}


@pytest.mark.parametrize(
  "path, said",
  [
    ("x/coco_ovd_rkd.pth", "x/coco_ovd_rkd.pth is not there. `rkd-jax download coco-ovd-rkd`"),
    ("x/mine.pth", "x/mine.pth is not there. `rkd-jax download --list` shows"),
  ],
)
def test_a_missing_file_gets_its_command(tmp_path, path, said):
  published.check_there(tmp_path)
  with pytest.raises(FileNotFoundError, match=re.escape(said)):
    published.check_there(path)
