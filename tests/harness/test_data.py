"""Data files: read from a folder or downloaded once, and nothing damaged is let through."""

import bz2
import gzip
import hashlib
import io
import lzma
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from harness import data
from harness.data import data_folder, parse_idx, parse_npz, read_bzip2, read_gzip, read_local
from harness.errors import HarnessError

CONTENT = b"\x00\x00\x08\x02" + np.array([2, 3], dtype=">i4").tobytes() + bytes(range(6))
SHA = hashlib.sha256(CONTENT).hexdigest()
Reader = Callable[[Path | None, str, str, str, str], bytes]
Packer = Callable[[bytes], bytes]


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Path, str]]:
    """A folder served over HTTP, and its address; the user's cache is a new folder."""
    folder = tmp_path / "served"
    folder.mkdir()
    monkeypatch.delenv("HARNESS_DATA", raising=False)
    monkeypatch.setattr(data, "user_cache_path", lambda name: tmp_path / "cache" / name)
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as found:
        threading.Thread(target=found.serve_forever, daemon=True).start()
        yield folder, f"http://127.0.0.1:{found.server_port}"
        found.shutdown()


def stored(root: Path, content: bytes, name: str = "images.gz") -> Path:
    (root / "set").mkdir(parents=True, exist_ok=True)
    (root / "set" / name).write_bytes(content)
    return root


def test_a_truncated_download_in_the_cache_is_fetched_again(server: tuple[Path, str], tmp_path: Path) -> None:
    folder, url = server
    stored(folder, gzip.compress(CONTENT))
    cached = stored(tmp_path / "cache" / "bilevel-harness", gzip.compress(CONTENT)[:-9])
    assert read_gzip(None, "set", "images", f"{url}/set/images.gz", SHA) == CONTENT
    assert (cached / "set" / "images.gz").read_bytes()[-9:] == gzip.compress(CONTENT)[-9:]


def test_packed_or_not_the_content_is_the_same(tmp_path: Path) -> None:
    packed = stored(tmp_path / "packed", gzip.compress(CONTENT))
    stored(packed, bz2.compress(CONTENT), "images.bz2")
    plain = stored(tmp_path / "plain", CONTENT, "images")
    for root in (packed, plain):
        for read in (read_gzip, read_bzip2):
            assert read(root, "set", "images", "nowhere", SHA) == CONTENT


@pytest.mark.parametrize(
    ("damaged", "said"),
    [
        (gzip.compress(CONTENT)[:-9], "cannot be read"),
        (b"no archive", "cannot be read"),
        (gzip.compress(CONTENT[:-1]), "has SHA-256"),
        (gzip.compress(CONTENT[:-1] + b"x"), "has SHA-256"),
    ],
    ids=["truncated", "not gzip", "a byte short", "a byte changed"],
)
def test_a_damaged_file_is_refused(tmp_path: Path, damaged: bytes, said: str) -> None:
    with pytest.raises(HarnessError, match=f"images.gz {said}"):
        read_gzip(stored(tmp_path, damaged), "set", "images", "nowhere", SHA)


@pytest.mark.parametrize(
    ("damaged", "said"),
    [
        (bz2.compress(CONTENT)[:-9], "cannot be read"),
        (b"no archive", "cannot be read"),
        (bz2.compress(CONTENT[:-1] + b"x"), "has SHA-256"),
    ],
    ids=["truncated", "not bzip2", "a byte changed"],
)
def test_a_damaged_bzip2_file_is_refused(tmp_path: Path, damaged: bytes, said: str) -> None:
    with pytest.raises(HarnessError, match=f"images.bz2 {said}.*images"):
        read_bzip2(stored(tmp_path, damaged, "images.bz2"), "set", "images", "nowhere", SHA)


def test_a_local_file_is_read_as_it_is_or_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HARNESS_DATA", raising=False)
    assert read_local(None, "set", "images", SHA) is None
    assert read_local(tmp_path, "set", "images", SHA) is None
    assert read_local(stored(tmp_path, CONTENT, "images"), "set", "images", SHA) == CONTENT
    with pytest.raises(HarnessError, match="images has SHA-256"):
        read_local(stored(tmp_path, CONTENT + b"x", "images"), "set", "images", SHA)
    packed = lzma.compress(CONTENT)
    assert read_local(stored(tmp_path, packed, "images.xz"), "set", "images.xz", SHA) == CONTENT
    for damaged in (packed[:-9], b"no archive"):
        with pytest.raises(HarnessError, match="images.xz cannot be read"):
            read_local(stored(tmp_path, damaged, "images.xz"), "set", "images.xz", SHA)


def test_a_missing_file_or_folder_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(HarnessError, match="images.gz is missing"):
        read_gzip(tmp_path, "set", "images", "nowhere", SHA)
    with pytest.raises(HarnessError, match="images.bz2 is missing"):
        read_bzip2(tmp_path, "set", "images", "nowhere", SHA)
    monkeypatch.setenv("HARNESS_DATA", str(tmp_path / "gone"))
    with pytest.raises(HarnessError, match="gone does not exist"):
        data_folder(None)


def test_downloaded_once(server: tuple[Path, str]) -> None:
    folder, address = server
    (folder / "images.gz").write_bytes(gzip.compress(CONTENT))
    assert read_gzip(None, "set", "images", f"{address}/images.gz", SHA) == CONTENT
    (folder / "images.gz").unlink()
    assert read_gzip(None, "set", "images", f"{address}/images.gz", SHA) == CONTENT


def test_a_download_is_not_trusted(server: tuple[Path, str]) -> None:
    folder, address = server
    with pytest.raises(HarnessError, match="could not be downloaded"):
        read_gzip(None, "set", "images", f"{address}/images.gz", SHA)
    (folder / "images.gz").write_bytes(gzip.compress(CONTENT + b"more"))
    with pytest.raises(HarnessError, match="has SHA-256"):
        read_gzip(None, "set", "images", f"{address}/images.gz", SHA)


@pytest.mark.parametrize(
    ("read", "pack"), [(read_gzip, gzip.compress), (read_bzip2, bz2.compress)], ids=["gzip", "bzip2"]
)
def test_a_damaged_download_is_not_kept(server: tuple[Path, str], read: Reader, pack: Packer) -> None:
    """Cut short or with other content: the next call downloads again, and nothing is left behind."""
    folder, address = server
    for damaged in (pack(CONTENT)[:-9], pack(CONTENT + b"x"), b""):
        (folder / "file").write_bytes(damaged)
        with pytest.raises(HarnessError):
            read(None, "set", "images", f"{address}/file", SHA)
        assert not list(folder.parent.glob("cache/*/set/*"))
    (folder / "file").write_bytes(pack(CONTENT))
    assert read(None, "set", "images", f"{address}/file", SHA) == CONTENT


def test_npz() -> None:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, a=np.arange(3), objects=np.array([None]))
    content = buffer.getvalue()
    assert parse_npz(content, "set", ["a"])["a"].tolist() == [0, 1, 2]
    plain = io.BytesIO()
    np.save(plain, np.arange(3))
    for wrong, arrays in [
        (content, ["b"]),
        (content, ["objects"]),
        (content[:-40], ["a"]),
        (plain.getvalue(), ["a"]),
        (b"", ["a"]),
        (b"nothing", ["a"]),
    ]:
        with pytest.raises(HarnessError, match="set is not an npz file with"):
            parse_npz(wrong, "set", arrays)


def test_idx() -> None:
    assert parse_idx(CONTENT, "images").tolist() == [[0, 1, 2], [3, 4, 5]]
    for wrong in (b"", b"\x00\x00\x0d" + CONTENT[3:], CONTENT + b"x", CONTENT[:-1]):
        with pytest.raises(HarnessError, match="images"):
            parse_idx(wrong, "images")
