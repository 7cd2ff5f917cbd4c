"""Images of ten classes for several problems: MNIST, Fashion-MNIST, and the small digits of scikit-learn."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.data import parse_idx, read_gzip

DATASETS = ("mnist", "fashion_mnist", "digits")
CLASSES = 10

Array = NDArray[Any]
Images = tuple[Array, Array, Array, Array]

_IDX = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)
_SOURCES = {
    "mnist": (
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    ),
    "fashion-mnist": (
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
        "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
        "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
        "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
    ),
}


def read_levels(
    dataset: str, data_dir: Path | None, split: np.random.RandomState
) -> tuple[Images, np.floating[Any]]:
    """Training images (n, p) in grey levels and labels, test images and labels; and the level of white.

    split: draws the test fifth of the digits, which come without one; the others are not touched by it."""
    if dataset == "digits":
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split

        images, labels = load_digits(return_X_y=True)
        train, test, t, u = train_test_split(
            images, labels, test_size=0.2, stratify=labels, random_state=split
        )
        return (train, t, test, u), np.float64(16)
    folder = dataset.replace("_", "-")
    url, *sums = _SOURCES[folder]
    images, labels, test, test_labels = (
        parse_idx(read_gzip(data_dir, folder, name, f"{url}{name}.gz", sha), name)
        for name, sha in zip(_IDX, sums, strict=True)
    )
    found = (images.reshape(len(images), -1), labels, test.reshape(len(test), -1), test_labels)
    return found, np.float32(255)


def read(dataset: str, data_dir: Path | None, split: np.random.RandomState) -> Images:
    """`read_levels` with the images scaled to [0, 1]."""
    (train, labels, test, test_labels), white = read_levels(dataset, data_dir, split)
    return train / white, labels, test / white, test_labels
