"""The times of one request on a device, without torch: they are also read from files."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Timing:
    """The time that one request took on the device, all images together.

    Args:
        num_images: images made together.
        block_ms: milliseconds of each block of the plan.
        decode_ms: milliseconds of decoding the result.
        encode_ms: milliseconds of making the job: encoding texts and pictures.
        present_ms: milliseconds of what the task does to the decoded images.
        preview_ms: milliseconds of decoding and presenting previews, which a request can do
            without.
    """

    num_images: int
    block_ms: tuple[float, ...]
    decode_ms: float
    encode_ms: float = 0.0
    present_ms: float = 0.0
    preview_ms: float = 0.0

    @property
    def ms_per_image(self) -> float:
        """Milliseconds an image, sampling and decoding: what the papers compare."""
        return (sum(self.block_ms) + self.decode_ms) / self.num_images

    @property
    def request_ms(self) -> float:
        """Milliseconds of the whole request without its previews."""
        return self.encode_ms + sum(self.block_ms) + self.decode_ms + self.present_ms

    @property
    def decode_ms_per_image(self) -> float:
        """Milliseconds an image of decoding alone."""
        return self.decode_ms / self.num_images
