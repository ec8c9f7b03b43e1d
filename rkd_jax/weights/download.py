"""Fetches published weights by name, checks them, and says which command reads them.

  rkd-jax download --list
  rkd-jax download clip-vit-b-32 coco-ovd-rkd
  rkd-jax download clip-vit-b-32 --output=/data/weights
  rkd-jax download clip-vit-b-32 --mirror=https://files.example.org/weights

A download that was cut goes on where it ended when the command is given again.  What is there is
checked, not fetched: against the published SHA-256, or else the one that NAME.sha256 beside it
holds since it was fetched first.  So a file that came by hand is checked as well.

Proxies are those of HTTPS_PROXY, HTTP_PROXY and NO_PROXY.  --mirror is a folder of the web that has
the files as they lie here: any web server on such a folder will do.  docs/weights.md says what each
file is.
"""

import argparse
import sys
from pathlib import Path
from urllib.parse import quote

from rkd_jax.files.fetch import FetchError, fetch
from rkd_jax.files.terminal import print_any_name
from rkd_jax.weights import published


def download(entry: published.Published, folder: Path, mirror: str | None = None) -> list[str]:
  """Brings the files of an entry to a folder; a line for each.

  Raises FetchError: see `fetch`, or a file is behind a page for people and is not there yet.
  """
  lines = []
  for file in entry.files:
    target = folder / file.path
    address = f"{mirror.rstrip('/')}/{quote(file.path)}" if mirror else file.address
    if file.by_hand and mirror is None and not target.exists():
      raise FetchError(
        f"{target.name} is behind a page that only a browser gets through. Open {address}, choose "
        f"{target.name} there, and save it as {target}; the same command then checks it."
      )
    before = target.with_name(f"{target.name}.sha256").exists()
    sha256 = fetch(address, target, file.sha256)
    against = "none is published; kept beside it" if not before else "as it was before"
    against = "as published" if file.sha256 else against
    lines.append(f"{target}: {target.stat().st_size:,} bytes, SHA-256 {sha256} ({against})")
  return lines


def table() -> str:
  """All names, a line for each, with what is said of the files."""
  width = max(map(len, published.BY_NAME))
  lines = []
  for entry in published.TABLE:
    sizes = " + ".join(file.size for file in entry.files if file.size) or "size not stated"
    by_hand = "; by hand, in a browser" if any(file.by_hand for file in entry.files) else ""
    lines.append(f"{entry.name:{width}}  {entry.what} ({sizes}; {entry.licence}{by_hand})")
  return "\n".join(lines)


def main() -> None:
  """Command line of the module's docstring."""
  parser = argparse.ArgumentParser(
    "rkd-jax download",
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parser.add_argument("names", nargs="*", metavar="NAME", help="of the list, or of a file in it")
  parser.add_argument("--list", action="store_true", help="print the names and what they are")
  parser.add_argument("--output", default="weights", help="folder, by default %(default)s")
  parser.add_argument("--mirror", help="folder of the web that has the same files")
  args = parser.parse_args()
  print_any_name()
  if args.list:
    print(table())
    return
  if not args.names:
    parser.error("which weights? rkd-jax download --list shows all names.")
  if "://" in args.output:
    parser.error(f"--output={args.output}: expected a folder of this machine.")
  try:
    for entry in [published.find(name) for name in args.names]:
      print("\n".join(download(entry, Path(args.output), args.mirror)))
      print(f"  licence: {entry.licence}\n  read by: {_reader(entry, args.output)}")
  except (ValueError, OSError) as error:
    sys.exit(f"{error}")
  except KeyboardInterrupt:
    print("Stopped; the same command goes on where it was.", file=sys.stderr)
    sys.exit(130)


def _reader(entry: published.Published, folder: str) -> str:
  """The command that reads the files, where they are."""
  return entry.reader.replace("weights/", f"{folder.rstrip('/')}/")


if __name__ == "__main__":
  main()
