"""Folders and archives of ImageNet-21K: names, numbers, and what is wrong with damaged ones."""

import io
import tarfile

import official_imagenet
import pytest

from rkd_jax.data.imagenet_lvis import synsets

CAT, BAT = 2121620, 2139199


@pytest.fixture
def folder(tmp_path):
  official_imagenet.write_imagenet(tmp_path)
  return tmp_path


def _add(path, *names, size=2000):
  with tarfile.open(path, "a" if path.exists() else "w") as archive:
    for name in names:
      member = tarfile.TarInfo(name)
      member.size = size
      archive.addfile(member, io.BytesIO(bytes([7]) * size))


def test_folders_and_archives_mix(folder):
  (folder / "README.txt").write_text("")
  found = synsets.find(folder)
  assert sorted(found) == [131018, 1440764, 2012849, CAT, BAT, 3126707]
  names = {
    offset: [(image.image_id, image.filename) for image in synset.images()]
    for offset, synset in found.items()
  }
  assert names[CAT] == [
    (21216200000002, "n02121620/n02121620_2.JPEG"),
    (21216200000010, "n02121620/n02121620_10.JPEG"),
    (21216200000111, "n02121620/n02121620_111.JPEG"),
  ]
  assert names[BAT] == [
    (21391990000007, "n02139199/n02139199_7.JPEG"),
    (21391990000014, "n02139199/n02139199_14.JPEG"),
  ]
  assert names[131018] == []


def test_an_archive_gives_the_bytes_of_its_members(folder):
  path = folder / "n00000001.tar"
  _add(path, "./n00000001_1.JPEG", size=2000)
  _add(path, "n00000001/n00000001_2.JPEG", "n00000001/._n00000001_2.JPEG", size=1024)
  images = synsets.find(folder)[1].images()
  assert [image.place.read(image.filename) for image in images] == [
    bytes([7]) * 2000,
    bytes([7]) * 1024,
  ]


@pytest.mark.parametrize("length", [100, 512 + 700, 512 + 2048, 512 + 2048 + 200, 3 * 2560 - 512])
def test_an_archive_that_is_cut_off_is_an_error_that_names_it(tmp_path, length):
  path = tmp_path / "n00000001.tar"
  _add(path, *(f"n00000001_{number}.JPEG" for number in range(1, 4)))
  path.write_bytes(path.read_bytes()[:length])
  with pytest.raises(ValueError, match=r"n00000001\.tar is damaged, cut off"):
    list(synsets.find(tmp_path)[1].images())


def test_a_damaged_header_is_not_taken_for_the_end(tmp_path):
  path = tmp_path / "n00000001.tar"
  _add(path, *(f"n00000001_{number}.JPEG" for number in range(1, 4)))
  data = bytearray(path.read_bytes())
  data[2560:2570] = b"\xff" * 10
  path.write_bytes(data)
  with pytest.raises(ValueError, match=r"n00000001\.tar is damaged.*no end behind its first 2560"):
    list(synsets.find(tmp_path)[1].images())


def test_a_compressed_archive_is_refused(tmp_path):
  with tarfile.open(tmp_path / "n00000001.tar", "w:gz"):
    pass
  with pytest.raises(ValueError, match="no uncompressed tar archive"):
    list(synsets.find(tmp_path)[1].images())


@pytest.mark.parametrize(
  "name, message",
  [
    ("n02121620_0002.png", r"n02121620_2\.JPEG and n02121620_0002\.png have the same number"),
    ("n02139199_5.JPEG", r"'n02139199_5\.JPEG' is no image of this synset"),
    ("n02121620_10000000.JPEG", "is no image of this synset, expected.*below 10000000"),
    ("thumbs.db", r"'thumbs\.db' is no image of this synset"),
  ],
)
def test_files_without_an_id_of_their_own_are_refused(folder, name, message):
  (folder / "n02121620" / name).write_bytes(b"")
  with pytest.raises(ValueError, match=f"n02121620: .*{message}"):
    list(synsets.find(folder)[CAT].images())


def test_the_same_member_twice_is_refused(tmp_path):
  _add(tmp_path / "n00000001.tar", "n00000001_1.JPEG", "n00000001_1.JPEG")
  with pytest.raises(ValueError, match=r"n00000001\.tar: .* have the same number"):
    list(synsets.find(tmp_path)[1].images())


def test_a_folder_is_refused_that_is_none_of_imagenet(tmp_path):
  with pytest.raises(ValueError, match=r"holds no folder nXXXXXXXX and no archive"):
    synsets.find(tmp_path)
  with pytest.raises(ValueError, match=r"Cannot read .*nowhere: No such file"):
    synsets.find(tmp_path / "nowhere")


def test_a_synset_has_a_folder_or_an_archive(folder):
  (folder / "n02139199").mkdir()
  with pytest.raises(ValueError, match="n02139199 as a folder and as an archive"):
    synsets.find(folder)
