"""Random changes of training images that leave their class."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def flip_and_shift(images: Tensor, *, up_to: int) -> Tensor:
    """Each image mirrored left to right or not, and moved by up to `up_to` pixels both ways.

    Fair coins and whole shifts, all equally likely, from torch's global generator. What moves in
    is zero: the mean colour, where images are standardised.

    Shapes: (N, C, H, W) -> (N, C, H, W).

    Source: He et al. 2016, arXiv 1512.03385, section 4.2: a crop out of the padded image.

    >>> _ = torch.manual_seed(18)
    >>> flip_and_shift(torch.tensor([[[[1, 2, 3]]]]), up_to=1)
    tensor([[[[0, 3, 2]]]])
    """
    count, _, height, width = images.shape
    mirrored = torch.rand(count) < 0.5
    down, right = torch.randint(0, 2 * up_to + 1, (2, count))
    images = torch.where(mirrored.view(-1, 1, 1, 1), images.flip(3), images)
    padded = F.pad(images, (up_to,) * 4)
    windows = padded.unfold(2, height, 1).unfold(3, width, 1)  # (N, C, shifts, shifts, H, W)
    return windows[torch.arange(count), :, down, right]
