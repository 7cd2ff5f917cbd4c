"""Images by class, and few-shot tasks drawn from them.

A task has some classes, the first so many images of each of them to learn from, and the others to be judged
by. Tasks of the splits "train", "val" and "test" have no class in common (of the digits, no image).

mini_imagenet: 84x84. `mini-imagenet/` in the data folder holds train.csv, val.csv and test.csv (lines
    filename,label) with the images in images/; or mini_imagenet.npz, with train_images (n, h, w, 3) of type
    uint8, train_labels (n,), and the same for val and test. A pickle can run code and is not read.
tiny_imagenet_stand_in: 64x64. 100 classes of Tiny ImageNet, 550 images each, 64/16/20 of them for train, val
    and test; that choice and that split are ours, so a number on it is none on mini-ImageNet.
omniglot_stand_in: 28x28. Omniglot's evaluation characters for test, its last five background alphabets for
    val; a pixel is the mean of those it covers. Not rotated.
digits: 8x8, of scikit-learn. Ten classes only, so that the splits differ in images (60/20/20 % of a class,
    by the data seed).
"""

import csv
import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.api import HarnessError, generator
from harness.data import data_folder, parse_npz, read_local

DATASETS = ("mini_imagenet", "tiny_imagenet_stand_in", "omniglot_stand_in", "digits")
SPLITS = ("train", "val", "test")

Array = NDArray[Any]

TINY = ("tiny-imagenet-fewshot", "tiny_imagenet_fewshot100.npz.xz")
TINY_SHA = "b5f8f6f46364c8988843781a7d28c123ae5a61816d30dc4784db3f7fe04dd149"
OMNIGLOT = ("omniglot", "omniglot.npz")
OMNIGLOT_SHA = "f2097d5a6da950b74040977666577cb7c267c8c14cced52c80580c401119cc1a"
MINI = "mini-imagenet"
MINI_PIXELS, OMNIGLOT_DRAWN, OMNIGLOT_PIXELS = 84, 105, 28
VAL_ALPHABETS = 5
ELSEWHERE = "put it into a folder and name that with --data-dir, or take dataset=digits, which needs no file"
BLOCK = 2000  # drawings of Omniglot that are made smaller together


@dataclass(frozen=True)
class ClassImages:
    """classes: by split, the image numbers of each class, by its name. white: its level. decode: the levels
    (n, h, w, channels), uint8, of image numbers in ascending order."""

    classes: dict[str, dict[str, Array]]
    white: int
    decode: Callable[[Array], Array]


def read(dataset: str, data_dir: Path | None, data_seed: int) -> ClassImages:
    """Raises HarnessError: missing, damaged, or in another form than those above."""
    if dataset == "digits":
        return _digits(data_seed)
    if dataset == "mini_imagenet":
        return _mini_imagenet(data_dir)
    return _tiny_imagenet(data_dir) if dataset == "tiny_imagenet_stand_in" else _omniglot(data_dir)


def draw_tasks(
    images: ClassImages, split: str, number: int, ways: int, per_class: int, draw: np.random.Generator
) -> Array:
    """Image numbers (number, ways, per_class): so many different classes of a split in random order, so many
    different images of each. Of more tasks from the same generator the first are the same.

    Raises HarnessError: too few classes, or a class of too few images."""
    classes = images.classes[split]
    if ways > len(classes):
        raise HarnessError(
            f"ways is {ways}, but the {split} split has {len(classes)} classes; expected no more"
        )
    for name, members in classes.items():
        if len(members) < per_class:
            raise HarnessError(
                f"class {name} of the {split} split has {len(members)} images, but a task takes {per_class} "
                "of a class, shots and queries together; expected at least so many"
            )
    order = list(classes.values())
    uniform = draw.random((number, ways + ways * per_class))
    chosen = _different(uniform[:, :ways], np.full(number, len(order)))
    sizes = np.array([len(members) for members in order])
    padded = np.zeros((len(order), sizes.max()), dtype=np.int64)
    for row, members in zip(padded, order, strict=True):
        row[: len(members)] = members
    owners = chosen.ravel()
    places = _different(uniform[:, ways:].reshape(len(owners), per_class), sizes[owners])
    return padded[owners[:, None], places].reshape(number, ways, per_class)


def _different(uniform: Array, sizes: Array) -> Array:
    """For each row different numbers below its size, from numbers in [0, 1): the i-th is drawn among those
    that are left, counted upwards."""
    chosen = np.empty(uniform.shape, dtype=np.int64)
    for i in range(uniform.shape[1]):
        number = (uniform[:, i] * (sizes - i)).astype(np.int64)
        for earlier in np.sort(chosen[:, :i], axis=1).T:
            number += number >= earlier
        chosen[:, i] = number
    return chosen


# --- the data sets


def _by_class(names: Array, numbers: Array) -> dict[str, Array]:
    """Image numbers by the names of their classes, both in ascending order."""
    return {str(name): numbers[names == name] for name in np.unique(names)}


def _digits(data_seed: int) -> ClassImages:
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    levels = images.reshape(-1, 8, 8, 1).astype(np.uint8)
    draw = generator(data_seed, "digits")
    classes: dict[str, dict[str, Array]] = {split: {} for split in SPLITS}
    for digit in range(10):
        members = draw.permutation(np.flatnonzero(labels == digit))
        parts = np.split(members, [len(members) * 6 // 10, len(members) * 8 // 10])
        for split, part in zip(SPLITS, parts, strict=True):
            classes[split][str(digit)] = np.sort(part)
    return ClassImages(classes, 16, lambda numbers: levels[numbers])


def _stand_in(
    data_dir: Path | None, folder: str, name: str, sha256: str, arrays: tuple[str, ...]
) -> list[Array]:
    content = None
    for form in dict.fromkeys(
        (name, name.removesuffix(".xz"))
    ):  # unpacked, it is read in a tenth of the time
        content = content or read_local(data_dir, folder, form, sha256)
    if content is None:
        root = data_folder(data_dir)
        path = root / folder / name if root else Path(folder) / name
        raise HarnessError(f"{path} is missing and is not downloaded: {ELSEWHERE}")
    found = parse_npz(content, name, arrays)
    return [found[array] for array in arrays]


def _tiny_imagenet(data_dir: Path | None) -> ClassImages:
    arrays = ("jpeg", "offset", "label", "class_wnid", "class_split")
    jpeg, offset, label, wnids, splits = _stand_in(data_dir, *TINY, TINY_SHA, arrays)
    numbers = np.arange(len(label))
    classes = {
        split: _by_class(wnids[label[own]], numbers[own])
        for split in SPLITS
        for own in [splits[label] == split]
    }

    def decode(numbers: Array) -> Array:
        files = (io.BytesIO(jpeg[offset[n] : offset[n + 1]].tobytes()) for n in numbers)
        return _levels((_pixels(file, TINY[1]) for file in files), len(numbers))

    return ClassImages(classes, 255, decode)


def _omniglot(data_dir: Path | None) -> ClassImages:
    arrays = ("bits", "label", "class_alphabet", "class_character", "class_part")
    bits, label, alphabets, characters, parts = _stand_in(data_dir, *OMNIGLOT, OMNIGLOT_SHA, arrays)
    held_out = np.unique(alphabets[parts == 0])[-VAL_ALPHABETS:]
    splits = np.where(parts == 1, "test", np.where(np.isin(alphabets, held_out), "val", "train"))
    names = np.array([f"{alphabet}/{own}" for alphabet, own in zip(alphabets, characters, strict=True)])
    numbers = np.arange(len(label))
    classes = {
        split: _by_class(names[label[own]], numbers[own])
        for split in SPLITS
        for own in [splits[label] == split]
    }
    area = _area(OMNIGLOT_DRAWN, OMNIGLOT_PIXELS)

    def smaller(numbers: Array) -> Array:
        ink = np.unpackbits(bits[numbers], axis=1, count=OMNIGLOT_DRAWN**2)
        drawn = ink.reshape(-1, OMNIGLOT_DRAWN, OMNIGLOT_DRAWN).astype(np.float32)
        return np.rint(255 * (area @ drawn @ area.T)).astype(np.uint8)[..., None]

    def decode(numbers: Array) -> Array:
        return np.concatenate([smaller(numbers[i : i + BLOCK]) for i in range(0, len(numbers), BLOCK)])

    return ClassImages(classes, 255, decode)


def _area(old: int, new: int) -> Array:
    """Shape (new, old): row i holds the share that each old pixel has in new pixel i."""
    starts, edges = np.arange(old), np.arange(new + 1) * old / new
    covered = np.minimum(edges[1:, None], starts + 1) - np.maximum(edges[:-1, None], starts)
    return (covered.clip(min=0) * new / old).astype(np.float32)


# --- mini-ImageNet, as its users have it


def _mini_imagenet(data_dir: Path | None) -> ClassImages:
    root = data_folder(data_dir)
    expected = f"{MINI}/ with train.csv, val.csv, test.csv and images/, or with mini_imagenet.npz"
    if root is None:
        raise HarnessError(f"mini-ImageNet ({expected}) is not downloaded: {ELSEWHERE}")
    folder = root / MINI
    if not folder.is_dir():
        raise HarnessError(f"{folder} is missing; expected {expected}")
    if (folder / "mini_imagenet.npz").is_file():
        return _from_npz(folder / "mini_imagenet.npz")
    if all((folder / f"{split}.csv").is_file() for split in SPLITS) and (folder / "images").is_dir():
        return _from_folder(folder)
    pickles = any(path.suffix in (".pkl", ".pickle") for path in folder.iterdir())
    why = "; a pickle can run code and is not read" if pickles else ""
    raise HarnessError(f"{folder} holds none of the forms that are read: expected {expected}{why}")


def _from_npz(path: Path) -> ClassImages:
    names = [f"{split}_{part}" for split in SPLITS for part in ("images", "labels")]
    arrays = parse_npz(path.read_bytes(), str(path), names)
    classes, first, parts = {}, 0, []
    for split in SPLITS:
        images, labels = arrays[f"{split}_images"], arrays[f"{split}_labels"]
        shape = arrays["train_images"].shape[1:]
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != shape or shape[2] != 3:
            raise HarnessError(
                f"{path}: {split}_images is {images.dtype} {images.shape}; expected uint8 (n, h, w, 3), the "
                "same h and w in all splits"
            )
        if labels.shape != (len(images),):
            raise HarnessError(f"{path}: {split}_labels has shape {labels.shape}; expected ({len(images)},)")
        classes[split] = _by_class(labels, first + np.arange(len(labels)))
        first += len(labels)
        parts.append(images)
    starts = np.cumsum([0] + [len(part) for part in parts])

    def decode(numbers: Array) -> Array:
        own = zip(parts, np.split(numbers, np.searchsorted(numbers, starts[1:-1])), starts[:-1], strict=True)
        return np.concatenate([part[chosen - start] for part, chosen, start in own])

    return ClassImages(classes, 255, decode)


def _from_folder(folder: Path) -> ClassImages:
    files: list[Path] = []
    classes: dict[str, dict[str, Array]] = {}
    for split in SPLITS:
        listed = list(_listed(folder / f"{split}.csv"))
        numbers = len(files) + np.arange(len(listed))
        classes[split] = _by_class(np.array([label for _, label in listed]), numbers)
        twice = sorted(
            name for other in classes if other != split for name in classes[split].keys() & classes[other]
        )
        if twice:
            raise HarnessError(f"{folder}: class {twice[0]} is in two of the lists; expected it in one")
        files += [folder / "images" / name for name, _ in listed]

    def decode(numbers: Array) -> Array:
        return _levels((_pixels(files[n], str(files[n]), MINI_PIXELS) for n in numbers), len(numbers))

    return ClassImages(classes, 255, decode)


def _listed(path: Path) -> Iterator[tuple[str, str]]:
    """File names and labels of a list."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as lines:
            rows = [row for row in csv.reader(lines) if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise HarnessError(f"{path} cannot be read ({error}); expected lines filename,label") from None
    for number, row in enumerate(rows, 1):
        head = number == 1
        if len(row) != 2 or Path(row[0]).name != row[0] or head != (row == ["filename", "label"]):
            what = "the head filename,label" if head else "filename,label"
            raise HarnessError(f"{path}, line {number}: expected {what}, but got {','.join(row)!r}")
        if not head:
            yield row[0], row[1]


def _levels(images: Iterator[Array], number: int) -> Array:
    """Images one after the other in one array: there may be gigabytes of them."""
    first = next(images)
    levels = np.empty((number, *first.shape), dtype=np.uint8)
    levels[0] = first
    for row, image in zip(levels[1:], images, strict=True):
        row[:] = image
    return levels


def _pixels(file: Path | io.BytesIO, name: str, side: int | None = None) -> Array:
    """Colours (h, w, 3) of an image file; side: made that wide and high, where it is not."""
    from PIL import Image

    try:
        with Image.open(file) as image:
            colours = image.convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise HarnessError(f"{name} is not an image that can be read ({error})") from None
    if side is not None and colours.size != (side, side):
        colours = colours.resize((side, side), Image.Resampling.BILINEAR)
    return np.asarray(colours)
