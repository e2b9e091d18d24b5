"""A folder of images by class → a `Source`. Read by `dataset.py`; Pillow is imported only here and for resizing.

`root/<class>/*.png|jpg|…`, or `root/train/<class>/…` and `root/test/<class>/…`. Classes are numbered in the order of their
names (by value when all are whole numbers), files taken in the order of their names. Hidden files are passed over; another
file that is no image is left out with a note; an image that cannot be decoded is an error. Links must not lead outside.
"""

from __future__ import annotations

import math
import struct
import warnings
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from converters.dataset_source import SOLE_INPUT, Source, Split, first_line, sides
from converters.preprocessing import Array, DatasetError, Preprocessing

if TYPE_CHECKING:
    from PIL import Image

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")
FORMATS = ("PNG", "JPEG", "BMP", "WEBP")  # no others: some of Pillow's readers start other programs
MAX_PIXELS = 50_000_000
# What Pillow's decoders raise on damaged files, as their sources have it.
DECODER_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    EOFError,
    OverflowError,
    RuntimeError,
    struct.error,
    zlib.error,
)
SPLITS = ("train", "test")


def source_from_folder(root: Path, preprocessing: Preprocessing, max_bytes: int) -> Source:
    """Images as uint8 [n, h, w, channels], already in the declared number of channels and size.

    Raises DatasetError, naming the file: not decodable, too many pixels, a link outside, sizes or channels that differ.
    """
    if preprocessing.layout == "NCHW":
        raise DatasetError("preprocessing: layout NCHW is for arrays; images in a folder are NHWC")
    top = _folders(root, root)
    notes: list[str] = []
    reader = _Reader(preprocessing, max_bytes)
    if not {folder.name for folder in top} <= set(SPLITS):
        names = class_order([folder.name for folder in top])
        test = _split(root, names, root, reader, notes)
        return Source(test=test, divide=True, class_names=names, notes=tuple(notes))
    if "test" not in {folder.name for folder in top}:
        raise DatasetError(f"{root}: has train but no test folder")
    names = class_order(sorted({child.name for folder in top for child in _folders(folder, root)}))
    splits = {folder.name: _split(folder, names, root, reader, notes) for folder in top}
    return Source(test=splits["test"], train=splits.get("train"), class_names=names, notes=tuple(notes))


def class_order(names: list[str]) -> tuple[str, ...]:
    """Class names in the order of their numbers: as whole numbers when all are (2 before 10), else as text."""
    if all(name.isdecimal() for name in names):
        return tuple(sorted(names, key=int))
    return tuple(sorted(names))


def _folders(folder: Path, root: Path) -> list[Path]:
    """The sub-folders, sorted; an error when there is none."""
    found = [path for path in sorted(folder.iterdir()) if not path.name.startswith(".") and path.is_dir()]
    if not found:
        raise DatasetError(f"{folder}: no folders", remedy="put the images of each class in a folder of that name")
    for path in found:
        _inside(path, root)
    return found


def _inside(path: Path, root: Path) -> None:
    if not path.resolve().is_relative_to(root.resolve()):
        raise DatasetError(f"{path}: is a link that leads outside {root}", remedy="copy the files into the folder")


def _split(folder: Path, names: tuple[str, ...], root: Path, reader: _Reader, notes: list[str]) -> Split:
    """The images of one split, decoded when they are taken."""
    files: list[Path] = []
    labels: list[int] = []
    for number, name in enumerate(names):
        found = _images(folder / name, root, notes) if (folder / name).is_dir() else []
        files += found
        labels += [number] * len(found)
    if not files:
        raise DatasetError(f"{folder}: no images", remedy=f"image files end in {', '.join(SUFFIXES)}")

    whole: list[Array] = []  # all images, once they were asked for: they are chosen from again

    def take(indices: Array) -> dict[str, Array]:
        if not whole and len(indices) == len(files):
            whole.append(reader.read(files))
        return {SOLE_INPUT: whole[0][indices] if whole else reader.read([files[int(i)] for i in indices])}

    return Split(where=str(folder), count=len(files), labels=np.array(labels, np.int64), take=take)


def _images(folder: Path, root: Path, notes: list[str]) -> list[Path]:
    found = []
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or path.name == "Thumbs.db":
            continue
        _inside(path, root)
        if path.is_dir():
            raise DatasetError(
                f"{path}: a folder inside a class", remedy="put the images straight into the class folder"
            )
        if path.suffix.lower() in SUFFIXES:
            found.append(path)
        else:
            notes.append(f"{path.relative_to(root)} left out: not an image file")
    return found


class _Reader:
    """Decodes files to arrays of one shape: that of the first image it ever read."""

    def __init__(self, preprocessing: Preprocessing, max_bytes: int) -> None:
        self._mode = {None: None, 1: "L", 3: "RGB"}[preprocessing.channels]
        self._size = preprocessing.resize
        self._max_bytes = max_bytes
        self._shape: tuple[int, ...] | None = None
        self._first = ""

    def read(self, paths: list[Path]) -> Array:
        """uint8 [n, h, w, channels]."""
        if self._shape is None:
            self._shape, self._first = self._decode(paths[0]).shape, paths[0].name
        if len(paths) * math.prod(self._shape) > self._max_bytes:
            raise DatasetError(
                f"{len(paths)} images of {sides(self._shape)} need more than {self._max_bytes / 2**20:,.0f} MiB",
                remedy="set a smaller resize",
            )
        out = np.empty((len(paths), *self._shape), np.uint8)
        for row, path in enumerate(paths):
            image = self._decode(path)
            if image.shape != self._shape:
                raise DatasetError(
                    f"{path}: is {sides(image.shape)}, {self._first} is {sides(self._shape)}",
                    remedy="set resize: [height, width] and channels: 1 or 3 in preprocessing",
                )
            out[row] = image
        return out

    def _decode(self, path: Path) -> Array:
        from PIL import Image

        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error", Image.DecompressionBombWarning)
                with Image.open(path, formats=FORMATS) as image:
                    return self._converted(image, path)
        except DatasetError:
            raise
        except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
            raise DatasetError(f"{path}: too many pixels ({error})") from error
        except DECODER_ERRORS as error:
            raise DatasetError(f"{path}: cannot be decoded ({first_line(error)})") from error

    def _converted(self, image: Image.Image, path: Path) -> Array:
        width, height = image.size
        if width * height > MAX_PIXELS:
            raise DatasetError(f"{path}: {width}×{height} pixels are more than {MAX_PIXELS:,}")
        if image.mode.startswith(("I", "F")):
            raise DatasetError(f"{path}: has more than 8 bits per channel", remedy="store the images in an npz")
        plain: Any = image.convert(self._mode or ("L" if image.mode in ("1", "L", "LA") else "RGB"))
        if self._size is not None and (height, width) != self._size:
            plain = plain.resize((self._size[1], self._size[0]), 2)  # 2: bilinear
        pixels = np.asarray(plain, np.uint8)
        return pixels[..., np.newaxis] if pixels.ndim == 2 else pixels  # noqa: PLR2004
