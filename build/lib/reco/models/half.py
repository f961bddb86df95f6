"""Half: any backend with its images' forward pass in half precision, for accelerators."""

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from PIL import Image

from reco.models import Backend, Output, Role

FLOAT16 = ("cuda", "mps")  # elsewhere bfloat16, which CPUs can multiply


class Half:
    """A `reco.models.Backend` whose `encode` runs under PyTorch's autocast; see `reco.models.load`.

    Products and convolutions take 16-bit numbers (float16 on accelerators, bfloat16 on a CPU), sums
    and normalisations stay in float32. Embeddings differ from those of full precision, and so does
    the version.
    """

    def __init__(self, backend: Backend, device: str | torch.device) -> None:
        self.backend, self.name, self.outputs = backend, backend.name, backend.outputs
        self.templates = backend.templates
        self.device = torch.device(device).type
        self.dtype = torch.float16 if self.device in FLOAT16 else torch.bfloat16
        self.version = f"{backend.version}-{str(self.dtype).removeprefix('torch.')}"

    def preprocess(
        self, image: Image.Image, size: int | None = None, *, crop: bool = True
    ) -> np.ndarray:
        """See `reco.models.Backend.preprocess`."""
        return self.backend.preprocess(image, size, crop=crop)

    def encode(self, images: np.ndarray, wanted: Iterable[Output]) -> dict[Output, np.ndarray]:
        """See `reco.models.Backend.encode`; float32, from a forward pass in half precision."""
        with torch.autocast(self.device, self.dtype):
            return self.backend.encode(images, wanted)

    def embed_texts(self, sentences: Sequence[str], role: Role) -> np.ndarray:
        """See `reco.models.Backend.embed_texts`; in full precision."""
        return self.backend.embed_texts(sentences, role)
