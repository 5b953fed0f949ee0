"""Videos, through TorchCodec, for those who ask for it: it needs FFmpeg's shared libraries.

Frames of 8-bit video are the same as PyAV's. It is not faster: 16 frames at stride 4 out of a
10-second 720p video take 0.21 to 0.36 s against 0.13 to 0.33 s.
"""

from collections.abc import Iterator

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from toto.errors import MediaError, UserError
from toto.media.file import short
from toto.media.view import square


def check_usable() -> None:
    """Find out whether TorchCodec and the libraries that it needs are there.

    Raises:
        UserError: they are not.
    """
    try:
        import torchcodec.decoders  # noqa: F401
    except (ImportError, RuntimeError, OSError) as error:
        raise UserError(
            f"decoder 'torchcodec' cannot be used here ({short(error)}): "
            "install toto[torchcodec] and FFmpeg 4 to 8, or use 'pyav'"
        ) from None


class TorchCodecDecoder:
    """One open video whose first frame `toto.media.pyav` could decode."""

    def __init__(self, path: str) -> None:
        from torchcodec.decoders import VideoDecoder

        try:
            self._decoder = VideoDecoder(path, num_ffmpeg_threads=1, dimension_order="NHWC")
        except (RuntimeError, ValueError) as error:
            raise MediaError(f"torchcodec: {short(error)}") from None

    def pictures(
        self, stride: int, size: int, first: int = 0
    ) -> Iterator[UInt8[np.ndarray, "3 size size"]]:
        """Yield the kept frames from the `first` kept one on.

        Raises:
            MediaError: a frame cannot be decoded.
        """
        for index in range(first * stride, len(self._decoder), stride):
            try:
                picture = self._decoder.get_frame_at(index).data.numpy()
            except (RuntimeError, IndexError) as error:
                raise MediaError(
                    f"truncated or corrupt: decoding stopped before frame {index}: {short(error)}"
                ) from None
            yield square(Image.fromarray(picture), size)
