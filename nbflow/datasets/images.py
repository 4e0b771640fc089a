"""Formats of pictures: PNG for figures, images and arrays, SVG for figures and text.

A matplotlib figure can be saved but not loaded back: a picture loads as a Pillow image, an array or bytes, an SVG as
its text. `options` of a figure go to `Figure.savefig` (`{"dpi": 200}`), those of an image to `Image.save`.
"""

from __future__ import annotations

from io import BytesIO
from typing import TYPE_CHECKING, Any, Final

from nbflow.datasets.base import AbstractDataset
from nbflow.datasets.plain import TextDataset

if TYPE_CHECKING:
    import matplotlib.figure
    import PIL.Image

__all__ = ["ArrayPng", "BytesPng", "FigurePng", "FigureSvg", "ImagePng", "TextSvg"]

_SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"


class ImagePng(AbstractDataset, format="png", types="PIL.Image.Image", extensions="png"):
    """A Pillow image. Options go to `Image.save`."""

    def __init__(self, **options: Any) -> None:
        self.options = options

    def serialize(self, value: PIL.Image.Image) -> bytes:
        """Return the file's bytes."""
        buffer = BytesIO()
        value.save(buffer, format="PNG", **self.options)
        return buffer.getvalue()

    def deserialize(self, data: bytes) -> PIL.Image.Image:
        """Return the image, read to its end."""
        from PIL import Image

        image = Image.open(BytesIO(data), formats=["PNG"])
        image.load()
        return image


class ArrayPng(ImagePng, types="numpy.ndarray", requires=("numpy", "PIL")):
    """An array of pixels: height by width, and 3 or 4 colours, of dtype uint8 (or bool, or uint16 without colours)."""

    def serialize(self, value: Any) -> bytes:
        """Return the file's bytes."""
        from PIL import Image

        if value.dtype.name not in ("uint8", "bool", "uint16"):
            raise TypeError(f"pixels are of dtype uint8, not {value.dtype}; scale the array to 0…255, or use .npy")
        return super().serialize(Image.fromarray(value))

    def deserialize(self, data: bytes) -> Any:
        """Return the pixels, colours of a palette looked up."""
        import numpy

        image = super().deserialize(data)
        if image.mode == "P":
            image = image.convert("RGBA" if "transparency" in image.info else "RGB")
        return numpy.array(image)


class BytesPng(AbstractDataset, format="png", types=bytes):
    """A picture that is encoded already."""

    def serialize(self, value: bytes) -> bytes:
        """Return `value`."""
        if not value.startswith(_SIGNATURE):
            raise ValueError("the bytes are no PNG picture; use .bin for bytes of any kind")
        return value

    def deserialize(self, data: bytes) -> bytes:
        """Return `data`."""
        return data


class FigurePng(AbstractDataset, format="png", types="matplotlib.figure.Figure", extensions="png"):
    """A matplotlib figure. Options go to `Figure.savefig`."""

    def __init__(self, **options: Any) -> None:
        self.options = options

    def serialize(self, value: matplotlib.figure.Figure) -> bytes:
        """Return the drawn picture."""
        buffer = BytesIO()
        value.savefig(buffer, format=self.format, **self.options)
        return buffer.getvalue()

    def deserialize(self, data: bytes) -> Any:
        """Refuse: a picture is no figure any more."""
        natural = "a PIL.Image.Image, a numpy.ndarray or bytes" if self.format == "png" else "a str"
        raise TypeError(
            f"a figure cannot be made from a picture again; load it as {natural}, or save the figure as .pkl"
        )


class TextSvg(TextDataset, format="svg", types=str, extensions="svg", aliases=()):
    """The text of a drawing."""


class FigureSvg(FigurePng, format="svg", extensions="svg"):
    """A matplotlib figure, drawn with lines. Options go to `Figure.savefig`."""
