"""Files that ask for too much, lie, or are none: by name, who reads them, and what is said."""

import copy
import io
import json
import pickle
import struct
import zipfile

import numpy as np

from rkd_jax.files.torch_writer import _global, _plain

CASES = {}


def case(reader, message):
  """Registers a function that gives a file's bytes; `message` is searched in the error."""

  def register(function):
    CASES[function.__name__] = (reader, message, function)
    return function

  return register


def archive(content, storages=None, compression=zipfile.ZIP_STORED, more=()):
  """A file of torch.save, given the opcodes of its pickle."""
  buffer = io.BytesIO()
  with zipfile.ZipFile(buffer, "w", compression) as file:
    file.writestr("m/data.pkl", pickle.PROTO + b"\2" + content + pickle.STOP)
    for key, data in (storages or {}).items():
      file.writestr(f"m/data/{key}", data)
    for name, data in more:
      file.writestr(name, data)
  return buffer.getvalue()


def storage(key="0", numel=1, kind="FloatStorage", device="cpu"):
  parts = (_plain("storage"), _global("torch", kind), _plain(key), _plain(device), _plain(numel))
  return pickle.MARK + b"".join(parts) + pickle.TUPLE + pickle.BINPERSID


def tensor(shape, strides, offset=0, name="_rebuild_tensor_v2", more=b"", **of_storage):
  function = _global("torch._utils", name)
  layout = b"".join(map(_plain, (offset, shape, strides)))
  return b"".join(
    (function, pickle.MARK, storage(**of_storage), layout, b"\x89}", more, pickle.TUPLE, b"R")
  )


def state(*values):
  """A dict of these values, as w0, w1, ..."""
  items = b"".join(_plain(f"w{i}") + value for i, value in enumerate(values))
  return pickle.EMPTY_DICT + pickle.MARK + items + pickle.SETITEMS


def whole(content):
  return pickle.PROTO + b"\4" + content + pickle.STOP


FOUR = b"\0\0\x80\x3f"


@case("checkpoint", "an expanded tensor|more than 16 times")
def a_stride_of_zero():
  return archive(state(tensor((2**33,), (0,))), {"0": FOUR})


@case("checkpoint", "an expanded tensor|more than 16 times")
def strides_of_zero_in_a_small_tensor():
  return archive(state(tensor((300, 300), (0, 0))), {"0": FOUR})


@case("checkpoint", "an expanded tensor")
def overlapping_strides():
  return archive(state(tensor((999, 2), (1, 1), numel=1000)), {"0": bytes(4000)})


@case("checkpoint", "impossible layout")
def a_negative_stride():
  return archive(state(tensor((2,), (-1,), 1, numel=2)), {"0": bytes(8)})


@case("checkpoint", "impossible layout")
def an_offset_below_zero():
  return archive(state(tensor((2,), (1,), -1, numel=2)), {"0": bytes(8)})


@case("checkpoint", "reaches element")
def an_offset_beyond_the_storage():
  return archive(state(tensor((2,), (1,), 1, numel=2)), {"0": bytes(8)})


@case("checkpoint", "impossible layout")
def a_number_beyond_64_bits():
  return archive(state(tensor((1,), (1,), 2**70, numel=2)), {"0": bytes(8)})


@case("checkpoint", "impossible layout")
def a_million_dimensions():
  ones = b"(" + b"K\1" * 200_000 + b"t"
  content = _global("torch._utils", "_rebuild_tensor_v2") + b"(" + storage() + b"K\0" + ones + ones
  return archive(state(content + b"\x89}tR"), {"0": FOUR})


@case("checkpoint", "more than 16 times")
def an_empty_tensor_with_a_huge_dimension():
  return archive(state(tensor((2**50, 0), (1, 1))), {"0": FOUR})


@case("checkpoint", "more than 16 times")
def one_storage_under_very_many_names():
  views = (tensor((250_000,), (1,), numel=250_000) for _ in range(3000))
  return archive(state(*views), {"0": bytes(1_000_000)})


@case("checkpoint", "more than 16 times")
def transposed_views_without_end():
  views = (tensor((500, 500), (1, 500), numel=250_000) for _ in range(3000))
  return archive(state(*views), {"0": bytes(1_000_000)})


@case("checkpoint", "more than 16 times")
def a_deflated_storage_of_zeros():
  content = state(tensor((2**27,), (1,), numel=2**27))
  return archive(content, {"0": bytes(2**29)}, zipfile.ZIP_DEFLATED)


@case("checkpoint", "more than 16 times|truncated or corrupt")
def a_deflated_storage_that_says_to_be_small():
  data = archive(state(tensor((9,), (1,), numel=9)), {"0": bytes(2**28)}, zipfile.ZIP_DEFLATED)
  return data.replace(struct.pack("<I", 2**28), struct.pack("<I", 36))


@case("checkpoint", "more than 16 times")
def a_deflated_pickle():
  return archive(b"0" * 2**27, compression=zipfile.ZIP_DEFLATED)


@case("checkpoint", "unusual compression")
def a_storage_packed_by_bzip2():
  content = state(tensor((2**26,), (1,), numel=2**26))
  return archive(content, {"0": bytes(2**28)}, zipfile.ZIP_BZIP2)


@case("checkpoint", "is there twice")
def an_entry_twice():
  # As zipfile would not write without a warning.
  data = archive(state(tensor((1,), (1,))), {"0": FOUR, "1": FOUR})
  return data.replace(b"m/data/1", b"m/data/0")


@case("checkpoint", "lies outside the archive")
def an_entry_outside_the_archive():
  return archive(state(tensor((1,), (1,))), {"0": FOUR}, more=[("../../etc/passwd", b"x")])


@case("checkpoint", "lies outside the archive")
def an_entry_from_the_root():
  return archive(state(tensor((1,), (1,))), {"0": FOUR}, more=[("/etc/passwd", b"x")])


@case("checkpoint", "no entry")
def a_key_that_climbs():
  return archive(state(tensor((1,), (1,), key="../../../../etc/hostname")), {"0": FOUR})


@case("checkpoint", "is a link")
def a_link():
  entry = zipfile.ZipInfo("m/data/1")
  entry.external_attr = 0o120777 << 16
  return archive(state(tensor((1,), (1,))), {"0": FOUR}, more=[(entry, b"/dev/zero")])


@case("checkpoint", "encrypted")
def an_encrypted_entry():
  data = bytearray(archive(state(tensor((1,), (1,))), {"0": FOUR}))
  for at in (data.index(b"PK\3\4") + 6, data.index(b"PK\1\2") + 8):
    data[at] |= 1
  return bytes(data)


@case("checkpoint", "beyond the file|truncated")
def an_entry_of_four_gigabytes():
  data = archive(state(tensor((1,), (1,), numel=9)), {"0": bytes(36)})
  return data.replace(struct.pack("<II", 36, 36), struct.pack("<II", 2**32 - 2, 2**32 - 2))


@case("checkpoint", "directory of")
def a_directory_of_a_gigabyte():
  data = bytearray(archive(state(tensor((1,), (1,))), {"0": FOUR}))
  at = data.rindex(b"PK\5\6")
  data[at + 12 : at + 16] = struct.pack("<I", 2**30)
  return bytes(data)


@case("checkpoint", "more than 16 times|truncated or corrupt")
def entries_that_share_their_bytes():
  """A directory that lists one compressed entry 2,000 times, under as many names."""
  buffer = io.BytesIO()
  with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
    names = [f"{i:04}.npy" for i in range(2000)]
    file.writestr(names[0], npy((500_000,), "<f4", bytes(2_000_000)))
    for name in names[1:]:
      entry = copy.copy(file.filelist[0])
      entry.filename = name
      file.filelist.append(entry)
  return buffer.getvalue()


@case("checkpoint", "a sparse tensor")
def a_sparse_tensor():
  return archive(state(_global("torch._utils", "_rebuild_sparse_tensor") + b")R"))


@case("checkpoint", "a quantised tensor")
def a_quantised_tensor():
  return archive(state(tensor((1,), (1,), name="_rebuild_qtensor")), {"0": FOUR})


@case("checkpoint", "a quantised tensor")
def a_quantised_storage():
  return archive(state(tensor((1,), (1,), kind="QInt8Storage")), {"0": b"\0"})


@case("checkpoint", "without numbers")
def a_tensor_without_numbers():
  name = "_rebuild_meta_tensor_no_storage"
  return archive(state(_global("torch._utils", name) + b")R"))


@case("checkpoint", "without numbers")
def a_storage_without_numbers():
  return archive(state(tensor((1,), (1,), device="meta")), {"0": FOUR})


@case("checkpoint", "with the settings")
def the_negative_of_what_is_stored():
  return archive(state(tensor((1,), (1,), more=b"}X\3\0\0\0neg\x88s")), {"0": FOUR})


@case("checkpoint", "byte order")
def an_unknown_byte_order():
  return archive(state(tensor((1,), (1,))), {"0": FOUR}, more=[("m/byteorder", b"middle")])


@case("checkpoint", "torch before 1.6")
def a_legacy_file():
  return pickle.dumps(0x1950A86A20F9469CFC6C, protocol=2) + pickle.dumps(1001, protocol=2)


@case("checkpoint", "too deeply")
def modules_in_modules():
  start = b"c__torch__\nNet\n)\x81}X\1\0\0\0a"
  return archive(start * 50_000 + b"N" + b"sb" * 50_000)


@case("checkpoint", "too deeply")
def modules_with_long_names():
  name = b"X" + struct.pack("<I", 900_000) + b"a" * 900_000 + b"q\1"
  inner = b"c__torch__\nNet\n)\x81}h\1" + b"".join([b"c__torch__\nNet\n)\x81}h\1"] * 500)
  return archive(name + b"0" + inner + tensor((1,), (1,)) + b"sb" * 501, {"0": FOUR})


# Pickles, read as checkpoints and as objects.


@case("objects", "expected plain|holds a")
def a_memo_index_of_32_bits():
  return whole(b"]r" + struct.pack("<I", 2**32 - 1) + b"}" + b"}" + b"\x86" + b"\x8f0\x8f")


@case("objects", "nothing remembered")
def a_memo_index_that_is_not_there():
  return whole(b"j" + struct.pack("<I", 2**32 - 1))


@case("objects", "too deeply")
def tuples_in_tuples():
  return whole(b")" + b"\x85" * 200_000)


@case("objects", "too deeply")
def lists_in_lists():
  return whole(b"]" * 200_000 + b"a" * 199_999)


@case("objects", "for a key|the key")
def a_deep_tuple_as_a_key():
  return whole(b"})" + b"\x85" * 900_000 + b"K\1s")


@case("objects", "for a key|the key")
def a_tuple_that_doubles_as_a_key():
  return whole(b"})" + b"2\x86" * 60 + b"K\1s")


@case("objects", "for a key|the key")
def a_tuple_that_doubles_in_a_set():
  return whole(b"\x8f()" + b"2\x86" * 60 + b"\x90")


@case("objects", "for a key")
def integers_that_collide():
  keys = (b"\x8a\x0b" + (i * (2**61 - 1)).to_bytes(11, "little") + b"N" for i in range(1, 60_000))
  return whole(b"}(" + b"".join(keys) + b"u")


@case("objects", "more than 100000 objects")
def tuples_that_double():
  return whole(b")" + b"2\x86" * 60)


@case("checkpoint", "holds a tuple")
def tuples_that_double_in_a_checkpoint():
  return whole(b")" + b"2\x86" * 60)


@case("checkpoint", "impossible layout")
def a_shape_that_doubles():
  doubled = b")" + b"2\x86" * 60
  content = _global("torch._utils", "_rebuild_tensor_v2") + b"(" + storage() + b"K\0"
  return archive(state(content + doubled + b"K\1\x85\x89}tR"), {"0": FOUR})


@case("checkpoint", "the persistent id")
def an_identifier_that_doubles():
  return archive(b")" + b"2\x86" * 60 + b"Q")


@case("checkpoint", "is a tuple")
def a_value_that_doubles():
  return whole(state(b")" + b"2\x86" * 60))


def lengths(opcode, format, count):
  return whole(opcode + struct.pack(format, count) + b"abc")


@case("objects", "announced")
def bytes_of_an_exabyte():
  return lengths(b"\x8e", "<Q", 2**60)


@case("objects", "announced")
def a_text_of_an_exabyte():
  return lengths(b"\x8d", "<Q", 2**60)


@case("objects", "announced")
def a_bytearray_of_an_exabyte():
  return lengths(b"\x96", "<Q", 2**63)


@case("objects", "announced")
def an_integer_of_two_gigabytes():
  return lengths(b"\x8b", "<i", 2**31 - 1)


@case("objects", "announced")
def an_integer_of_negative_length():
  return lengths(b"\x8b", "<i", -1)


@case("objects", "no opcode|ends|announced")
def a_frame_of_an_exabyte():
  return lengths(b"\x95", "<Q", 2**62)


@case("objects", "no readable")
def an_integer_of_a_million_digits():
  return whole(b"L" + b"9" * 1_000_000 + b"L\n")


@case("objects", "more than 100000 objects|more than 1,000,000 steps")
def millions_of_containers():
  return whole(b"(" + b"\x8f" * 3_000_000 + b"t")


@case("objects", "more than 1,000,000 steps")
def millions_of_steps():
  return whole(b"N0" * 3_000_000 + b"N")


@case("objects", "more than 16 times")
def lists_copied_again_and_again():
  items = b"(" + b"N" * 200_000 + b"tq\1"
  return whole(items + (b"c__builtin__\nlist\nh\1\x85R") * 10_000 + b"\x85")


@case("objects", "more than 16 times")
def texts_encoded_again_and_again():
  text = b"X" + struct.pack("<I", 10**6) + b"a" * 10**6 + b"q\1X\6\0\0\0latin1q\2"
  return whole(text + (b"c_codecs\nencode\nh\1h\2\x86R") * 20_000)


@case("objects", "more than 16 times")
def arrays_turned_again_and_again():
  memo = b"r\xff\0\0\0"
  data = b"B" + struct.pack("<I", 10**6) + bytes(10**6) + memo
  make = b"cnumpy.core.multiarray\n_reconstruct\n)R(K\1J\x90\xd0\x03\0\x85cnumpy\ndtype\n"
  make += (
    b"X\2\0\0\0f4\x85R(K\3X\1\0\0\0>NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\0tb\x89j\xff\0\0\0tb"
  )
  return whole(data + make * 5_000)


@case("objects", "an array of shape|bytes for an array")
def an_array_with_a_huge_shape():
  return whole(_reconstructed((2**40,), bytes(8)))


@case("objects", "an array of shape")
def an_array_with_a_shape_below_zero():
  return whole(_reconstructed((-1,), bytes(8)))


@case("objects", "dtype")
def an_array_of_objects():
  return whole(_reconstructed((1,), bytes(8), "O8"))


def _reconstructed(shape, data, dtype="f4"):
  kind = _global("numpy", "dtype") + _plain(dtype) + b"\x85R(K\3X\1\0\0\0<NNNJ\xff\xff\xff\xff"
  kind += b"J\xff\xff\xff\xffK\0tb"
  content = b"B" + struct.pack("<I", len(data)) + data
  make = _global("numpy.core.multiarray", "_reconstruct") + b")R"
  return make + b"(K\1" + _plain(shape) + kind + b"\x89" + content + b"tb"


@case("objects", "no part of an array")
def a_storage_inside_a_storage_inside_a_storage():
  data = b"x"
  for _ in range(50):
    call = _global("torch.storage", "_load_from_bytes") + b"B" + struct.pack("<I", len(data))
    data = whole(call + data + b"\x85R")
  return data


@case("objects", "more than 16 times|more than 1,000,000 steps")
def a_storage_read_again_and_again():
  from rkd_jax.files.torch_writer import _storage_bytes

  data = _storage_bytes(np.zeros(100_000, np.float32))
  call = _global("torch.storage", "_load_from_bytes") + b"h\1\x85R"
  return whole(b"B" + struct.pack("<I", len(data)) + data + b"q\1" + call * 3_000)


@case("objects", "is in no archive")
def a_tensor_without_an_archive():
  return whole(tensor((1,), (1,)))


@case("checkpoint", "is a text that begins with 'Not Found'")
def a_message_of_a_site():
  return b"Not Found"


@case("objects", "asks for")
def a_name_of_a_megabyte():
  return whole(b"c" + b"a" * 1_000_000 + b"\nb\n")


@case("objects", "twice in one dict")
def a_key_twice():
  return whole(b"}(K\1NK\1Nu")


@case("objects", "no mark|no readable")
def no_mark():
  return whole(b"Nt")


@case("objects", "no readable")
def nothing_on_the_stack():
  return whole(b"\x85")


@case("regions", "the box is")
def a_box_of_a_huge_number():
  return pickle.dumps([([10**400, 0, 1, 1], np.ones((1, 4)))])


@case("regions", "embedding is")
def an_embedding_of_texts():
  return pickle.dumps([([0, 0, 1, 1], ["a", "b"])])


@case("regions", "embedding is")
def an_embedding_that_is_not_finite():
  return pickle.dumps([([0, 0, 1, 1], np.full((1, 4), np.nan))])


@case("pseudo_boxes", "expected .boxes, scores.")
def numbers_for_boxes():
  return pickle.dumps({17: (3, 4)})


@case("pseudo_boxes", "the score is")
def a_list_for_a_score():
  return pickle.dumps({17: ([[0, 0, 1, 1]], [[]])})


@case("pseudo_boxes", "the score is")
def a_score_that_is_not_finite():
  return pickle.dumps({17: ([[0, 0, 1, 1]], [float("nan")])})


# NumPy's files.


def npy(shape, descr, data, order="False", version=b"\1\0", header=None):
  text = f"{{'descr': {descr!r}, 'fortran_order': {order}, 'shape': {shape!r}, }}"
  text = (text if header is None else header).encode("latin1")
  length = struct.pack("<H" if version == b"\1\0" else "<I", len(text))
  return b"\x93NUMPY" + version + length + text + data


def npz(**arrays):
  buffer = io.BytesIO()
  with zipfile.ZipFile(buffer, "w") as file:
    for name, data in arrays.items():
      file.writestr(f"{name}.npy", data)
  return buffer.getvalue()


@case("arrays", "asks for")
def an_npy_with_a_huge_shape():
  return npy((2**40, 2**10), "<f4", bytes(16))


@case("checkpoint", "asks for")
def an_npz_with_a_huge_shape():
  return npz(a=npy((2**34,), "<f4", bytes(16)))


@case("embeddings", "asks for")
def class_embeddings_with_a_huge_shape():
  return npy((2**30, 512), "<f4", bytes(16))


@case("embeddings", "more than 16 times")
def class_embeddings_of_no_width():
  return npy((2**30, 0), "<f4", b"")


@case("embeddings", "more than 16 times")
def class_names_of_no_length():
  rows = npy((1, 4), "<f4", bytes(16))
  return npz(
    embeddings=rows, names=npy((2**40, 0), "<U3", b""), template=npy((), "<U1", b"a\0\0\0")
  )


@case("embeddings", "expected texts")
def class_names_that_are_numbers():
  rows = npy((1, 4), "<f4", bytes(16))
  return npz(embeddings=rows, names=npy((1,), "<f4", FOUR), template=npy((), "<U1", b"a\0\0\0"))


@case("embeddings", "named 'a'")
def class_names_twice():
  rows, names = npy((2, 4), "<f4", bytes(32)), npy((2,), "<U1", b"a\0\0\0" * 2)
  return npz(embeddings=rows, names=names, template=npy((), "<U1", b"a\0\0\0"))


@case("embeddings", "impossible letters")
def class_names_beyond_unicode():
  rows, names = npy((1, 4), "<f4", bytes(16)), npy((1,), "<U1", b"\0\0\x20\0")
  return npz(embeddings=rows, names=names, template=npy((), "<U1", b"a\0\0\0"))


@case("pseudo_boxes", "the box is")
def boxes_of_several_lengths():
  return pickle.dumps({17: ([[1, [2], [3, 4]]], [0.5])})


@case("arrays", "objects or records")
def an_npy_of_objects():
  return npy((1,), "|O", pickle.dumps([1]))


@case("arrays", "objects or records")
def an_npy_of_records():
  return npy((1,), [("a", "<f4")], bytes(4))


@case("arrays", "has the type")
def an_npy_of_nothing():
  return npy((2**60,), "|V0", b"")


@case("arrays", "has the type|has the shape|the header")
def an_npy_with_a_code_for_a_shape():
  return npy((), "<f4", b"", header="{'descr': '<f4', 'fortran_order': False, 'shape': (9**9**9,)}")


@case("arrays", "the header")
def an_npy_with_a_deep_header():
  return npy((), "<f4", b"", header="(" * 9_000)


@case("arrays", "header of")
def an_npy_with_a_header_of_a_gigabyte():
  return npy((), "<f4", b"", version=b"\2\0").replace(b"\2\0", b"\2\0\0\0\0\x40", 1)


@case("arrays", "has the shape|the header")
def an_npy_with_a_long_number():
  return npy(
    (), "<f4", b"", header=f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({'9' * 9000},)}}"
  )


@case("arrays", "twice")
def an_npy_with_two_shapes():
  header = "{'descr': '<f4', 'shape': (1,), 'fortran_order': False, 'shape': (2,)}"
  return npy((), "<f4", bytes(8), header=header)


# Safetensors.


def safe(header, data=b"", length=None):
  text = header if isinstance(header, bytes) else json.dumps(header).encode()
  return struct.pack("<Q", len(text) if length is None else length) + text + data


def entry(shape=(3,), offsets=(0, 12)):
  return {"dtype": "F32", "shape": list(shape), "data_offsets": list(offsets)}


@case("checkpoint", "announces a header")
def safetensors_with_a_long_header():
  return safe({"w": entry()}, bytes(12), 2**38)


@case("checkpoint", "a header of")
def safetensors_with_a_header_of_ten_megabytes():
  return safe(b'{"w":' + b"[],".join([b"["] * 3) + b" " * 10_000_000 + b"}", bytes(12))


@case("checkpoint", "too deeply|no readable safetensors")
def safetensors_with_a_deep_header():
  return safe(b'{"w":' + b"[" * 1_000_000)


@case("checkpoint", "ends after")
def safetensors_without_an_end():
  return safe({"w": entry()}, bytes(11))


@case("checkpoint", "no readable safetensors")
def safetensors_that_overlap():
  return safe({"a": entry(), "b": entry()}, bytes(12))


@case("checkpoint", "twice")
def safetensors_with_a_name_twice():
  one = json.dumps(entry((0,), (0, 0)))
  return safe(f'{{"w": {one}, "w": {one}}}'.encode())


@case("checkpoint", "more than 16 times|no readable safetensors")
def safetensors_with_a_huge_empty_shape():
  return safe({"w": entry((2**50, 0), (0, 0))})


@case("checkpoint", "more than 16 times|no readable safetensors")
def safetensors_with_very_many_dimensions():
  return safe({"w": entry((0, *[2**62] * 300_000), (0, 0))})


@case("checkpoint", "no readable safetensors")
def safetensors_with_a_text_for_an_offset():
  return safe({"w": entry((3,), ("a", "b"))}, bytes(12))


@case("checkpoint", "no readable safetensors")
def safetensors_with_offsets_that_go_back():
  return safe({"w": entry((3,), (12, 0))}, bytes(12))


# Other files.


@case("checkpoint", "is empty")
def an_empty_file():
  return b""


@case("checkpoint", "begins with zeros")
def a_file_of_zeros():
  return bytes(5000)


@case("checkpoint", "a web page")
def a_web_page():
  return b"\n<!DOCTYPE html>\n<html><head><title>Sign in</title></head></html>"


@case("embeddings", "a web page")
def a_web_page_for_class_embeddings():
  return b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>"


@case("checkpoint", "git lfs pull")
def a_pointer_of_git_lfs():
  return b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 351\n"


@case("checkpoint", "is JSON")
def a_message_in_json():
  return b'{"error": "Repository not found"}'


@case("checkpoint", "gunzip")
def a_file_of_gzip():
  return b"\x1f\x8b\x08" + bytes(100)


@case("checkpoint", "truncated or corrupt")
def an_archive_without_an_end():
  return archive(state(tensor((9,), (1,), numel=9)), {"0": bytes(36)})[:-40]
