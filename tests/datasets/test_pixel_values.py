"""Images whose pixels are not 8 bits a channel."""

import numpy as np
import pytest
from PIL import Image

from datasets.images import ImageReader, as_rgb
from util.errors import UserError

RAMP = np.arange(0, 65536, 257, dtype=np.uint16).reshape(16, 16)  # 0, 257, ... 65535


@pytest.mark.parametrize("kind", ["png", "tif"])
def test_16_bits_of_grey_are_scaled(tmp_path, kind):
    Image.fromarray(RAMP).save(tmp_path / f"a.{kind}")
    read = ImageReader(tmp_path).read(f"a.{kind}")
    assert read.mode == "RGB"
    for channel in np.moveaxis(np.asarray(read), 2, 0):
        assert channel.ravel().tolist() == list(range(256))


@pytest.mark.parametrize("mode", ["I;16", "I;16L", "I;16B"])
def test_16_bits_in_any_order_of_bytes(mode):
    dtype = ">u2" if mode == "I;16B" else "<u2"
    values = np.array([[0, 128, 129, 32768, 65535]], dtype=dtype)
    image = Image.frombytes(mode, (5, 1), values.tobytes())
    assert np.asarray(as_rgb(image))[0, :, 0].tolist() == [0, 0, 1, 128, 255]


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_32_bits_of_grey_that_are_8_are_taken_as_they_are(tmp_path, dtype):
    values = np.arange(256).reshape(16, 16)
    Image.fromarray(values.astype(dtype)).save(tmp_path / "a.tif")
    read = ImageReader(tmp_path).read("a.tif")
    assert np.asarray(read)[..., 1].tolist() == values.tolist()


@pytest.mark.parametrize(
    ("values", "says"),
    [
        (np.array([[0, 65535]], dtype=np.int32), "from 0 to 65535"),
        (np.array([[-1, 200]], dtype=np.int32), "from -1 to 200"),
        (np.array([[0, 1]], dtype=np.float32), "from 0 to 1,"),
        (np.array([[0.5, 255.5]], dtype=np.float32), "from 0.5 to 255.5"),
        (np.array([[np.nan, 7]], dtype=np.float32), "nan"),
    ],
)
def test_32_bits_whose_white_is_not_known_are_refused(tmp_path, values, says):
    Image.fromarray(values).save(tmp_path / "a.tif")
    with pytest.raises(UserError, match=rf"a\.tif: not a readable image \(.*grey.*{says}") as error:
        ImageReader(tmp_path).read("a.tif")
    assert "save it with 8 or 16 bits" in str(error.value)


def test_8_bits_are_as_pillow_converts_them():
    grey = Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16))
    for mode in ("RGB", "L", "P", "LA", "RGBA", "1", "CMYK", "YCbCr"):
        image = grey.convert(mode)
        np.testing.assert_array_equal(as_rgb(image), image.convert("RGB"))
