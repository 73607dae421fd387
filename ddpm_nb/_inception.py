"""The Inception network of the papers, from torch-fidelity, as a callable on pictures in [-1, 1]."""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from ddpm_nb import _checks as check

_LAYERS = {"features": "2048", "probabilities": "logits_unbiased"}


def inception(
    output: Literal["features", "probabilities"] = "features",
    *,
    device: torch.device | str = "cpu",
    weights_path: str | None = None,
) -> Callable[[Tensor], Tensor]:
    """Return the Inception network of the papers as a callable on pictures in [-1, 1].

    Needs the extra ``[eval]`` (torch-fidelity, which needs torchvision), and downloads
    its weights unless a file is given. **It rounds pictures to the 256 levels of a file**
    (clipped to [-1, 1] first), because that package takes bytes only. The paper's own
    evaluation clipped its samples and did not round them; so expect a small difference.

    Args:
        output: "features", 2048 numbers a picture, for `frechet_distance`; or
            "probabilities" of 1008 classes, for `inception_score` (without the last
            layer's bias, as is the custom), in float64 on the CPU.
        device: where to run.
        weights_path: a file with the weights.

    Raises:
        ImportError: if torch-fidelity is not installed.
        ValueError: if the output is unknown, or a batch has not three channels.
    """
    layer = _LAYERS[check.one_of("output", output, _LAYERS)]
    try:
        from torch_fidelity.feature_extractor_inceptionv3 import (
            FeatureExtractorInceptionV3,
        )
    except ImportError as error:
        raise ImportError(
            "inception: expected torch-fidelity and torchvision to be installed: "
            "pip install torch-fidelity"
        ) from error
    network = FeatureExtractorInceptionV3(
        "inception-v3-compat", [layer], feature_extractor_weights_path=weights_path
    ).to(device)
    network.eval()  # version 0.3 leaves its batch norms in training mode

    def describe(images: Tensor) -> Tensor:
        if images.dim() != 4 or images.shape[1] != 3:
            raise ValueError(
                f"images: expected shape (B, 3, H, W), got {tuple(images.shape)}"
            )
        as_file = ((images.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
        with torch.no_grad():
            (found,) = network(as_file.to(device))
        return found if output == "features" else found.cpu().double().softmax(1)

    return describe
