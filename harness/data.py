"""Data files: found in a folder, else downloaded once; never trusted without their checksum."""

import bz2
import gzip
import hashlib
import io
import lzma
import os
import zipfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pooch
from numpy.typing import NDArray
from platformdirs import user_cache_path

from harness.errors import HarnessError

_UNPACK = {".gz": gzip.decompress, ".bz2": bz2.decompress, ".xz": lzma.decompress}
_DAMAGED = (OSError, EOFError, ValueError, zlib.error, lzma.LZMAError)  # bz2 says ValueError at a missing end


def data_folder(given: Path | None) -> Path | None:
    """--data-dir, else $HARNESS_DATA, else None (download to the user's cache)."""
    if given is None and os.environ.get("HARNESS_DATA"):
        given = Path(os.environ["HARNESS_DATA"])
    if given is not None and not given.is_dir():
        raise HarnessError(f"data folder {given} does not exist; check --data-dir or $HARNESS_DATA")
    return given


def read_gzip(data_dir: Path | None, folder: str, name: str, url: str, sha256: str) -> bytes:
    """The content of `folder`/`name`.gz, or of the same file unpacked, under the data folder or the cache.

    sha256 is that of the uncompressed content, since archives of one file differ. Raises HarnessError:
    file missing, truncated, not gzip, or of another checksum; a download like that is not kept."""
    return _read_packed(data_dir, folder, f"{name}.gz", url, sha256)


def read_bzip2(data_dir: Path | None, folder: str, name: str, url: str, sha256: str) -> bytes:
    """`read_gzip` for `folder`/`name`.bz2."""
    return _read_packed(data_dir, folder, f"{name}.bz2", url, sha256)


def read_local(data_dir: Path | None, folder: str, name: str, sha256: str) -> bytes | None:
    """The content of `folder`/`name` under the data folder; None where there is no such file, or no folder:
    for a form of the data that is not downloaded. Raises HarnessError: as `read_gzip`."""
    root = data_folder(data_dir)
    path = root / folder / name if root else None
    return _checked(path, sha256) if path and path.exists() else None


def _read_packed(data_dir: Path | None, folder: str, archive: str, url: str, sha256: str) -> bytes:
    root = data_folder(data_dir)
    if root:
        return _checked(_find(root, folder, archive), sha256)
    for attempt in (1, 2):  # what lies in the cache may be damaged: once more
        path = _download(folder, archive, url)
        try:
            return _checked(path, sha256)
        except HarnessError:
            path.unlink(missing_ok=True)
            if attempt == 2:
                raise
    raise AssertionError


def _checked(path: Path, sha256: str) -> bytes:
    """The content of a file, unpacked where its name says so."""
    name = path.stem if path.suffix in _UNPACK else path.name
    try:
        content = path.read_bytes()
        if path.suffix in _UNPACK:
            content = _UNPACK[path.suffix](content)
    except _DAMAGED as error:
        raise HarnessError(f"{path} cannot be read ({error}); expected {name}: get it again") from None
    found = hashlib.sha256(content).hexdigest()
    if found != sha256:
        raise HarnessError(f"{path} has SHA-256 {found[:12]}…, expected {sha256[:12]}…: get {name} again")
    return content


def _find(root: Path, folder: str, archive: str) -> Path:
    packed = root / folder / archive
    for path in (packed, packed.with_suffix("")):
        if path.exists():
            return path
    raise HarnessError(f"{packed} is missing; put it there, or drop --data-dir to download it")


def _download(folder: str, archive: str, url: str) -> Path:
    cache = user_cache_path("bilevel-harness") / folder
    target = cache / archive
    if target.exists():
        return target
    try:
        return Path(pooch.retrieve(url, known_hash=None, fname=target.name, path=cache))
    except Exception as error:  # noqa: BLE001 - whatever the network does, the user needs one line
        raise HarnessError(
            f"{archive} could not be downloaded from {url} ({type(error).__name__}); "
            f"put {folder}/{archive} in a folder and name it with --data-dir"
        ) from None


def parse_npz(content: bytes, name: str, arrays: Sequence[str]) -> dict[str, NDArray[Any]]:
    """The named arrays of an npz file; nothing in it is run."""
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as found:
            return {array: found[array] for array in arrays}
    except (*_DAMAGED, KeyError, TypeError, zipfile.BadZipFile) as error:
        raise HarnessError(f"{name} is not an npz file with {', '.join(arrays)} ({error})") from None


def find_or_make(data_dir: Path | None, folder: str, name: str, make: Callable[[Path], None]) -> Path:
    """`folder`/`name` under the data folder or, without one, in the user's cache, where make(path) writes it.

    make may use the folder that its path lies in: it is removed afterwards. What the file holds is for the
    caller to check. Raises HarnessError: missing in the data folder, or not to be had."""
    root = data_folder(data_dir)
    path = (root or user_cache_path("bilevel-harness")) / folder / name
    if path.exists():
        return path
    if root:
        raise HarnessError(f"{path} is missing; put it there, or drop --data-dir to download it")
    path.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=path.parent) as scratch:
        made = Path(scratch) / name
        try:
            make(made)
        except HarnessError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever the network does, the user needs one line
            raise HarnessError(
                f"{name} could not be downloaded ({type(error).__name__}); "
                f"put {folder}/{name} in a folder and name it with --data-dir"
            ) from None
        os.replace(made, path)
    return path


def parse_idx(content: bytes, name: str) -> NDArray[np.uint8]:
    """An array of the idx format of LeCun's MNIST files (unsigned bytes, any number of dimensions)."""
    if len(content) < 4 or content[:3] != b"\x00\x00\x08":
        raise HarnessError(f"{name} is not an idx file of unsigned bytes")
    dims = content[3]
    shape = np.frombuffer(content, dtype=">i4", count=dims, offset=4)
    values = np.frombuffer(content, dtype=np.uint8, offset=4 + 4 * dims)
    if values.size != shape.prod():
        raise HarnessError(f"{name} holds {values.size} bytes, its header says {shape.prod()}")
    return values.reshape(shape)
