"""Augmentation of a whole batch on the device: random crop, flip and rotation, as the published protocols have them.

crop      pad `padding` pixels (zero or reflected), cut the original size at a uniform offset, one offset an image
flip      left-right with probability ½
rotate    by an angle uniform in ±15°, nearest neighbour, zero outside (torchvision's `RandomRotation(15)`)
Order     crop, flip, rotate, as in Rice, Wong & Kolter's CIFAR-100 script. Draws are independent across images.

Padding, cutting and flipping are one gather: output pixel (i, j) reads input pixel (row[i], column[j]), reflected
or masked where that lies outside. Nothing is padded in memory.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from empirical.settings.data import DataSetting

__all__ = ["AugmentationDraw", "augment", "draw_augmentation"]

MAX_DEGREES = 15.0


@dataclass(frozen=True, kw_only=True)
class AugmentationDraw:
    """The random choices for one batch of B images."""

    offsets: Tensor  # (B, 2) int64 in [0, 2 padding]: top and left of the cut in the padded image
    flipped: Tensor  # (B,) bool
    degrees: Tensor  # (B,) float32, counter-clockwise

    def part(self, rows: slice) -> AugmentationDraw:
        """The choices of some of the images."""
        return AugmentationDraw(offsets=self.offsets[rows], flipped=self.flipped[rows], degrees=self.degrees[rows])


def draw_augmentation(count: int, setting: DataSetting, *, generator: torch.Generator) -> AugmentationDraw:
    """Choices for `count` images, on the generator's device."""
    device = generator.device
    return AugmentationDraw(
        offsets=torch.randint(0, 2 * setting.padding + 1, (count, 2), generator=generator, device=device),
        flipped=torch.rand(count, generator=generator, device=device) < 0.5,
        degrees=(torch.rand(count, generator=generator, device=device) * 2 - 1) * MAX_DEGREES,
    )


def augment(images: Tensor, setting: DataSetting, draw: AugmentationDraw) -> Tensor:
    """Augmented copies of uint8 images ``(B, C, H, W)``; the input itself with "none"."""
    if setting.augmentation == "none":
        return images
    height, width = images.shape[2:]
    reflect = setting.augmentation == "reflect-crop-flip"
    rows, rows_inside = _sources(draw.offsets[:, 0], height, setting.padding, reflect)
    columns, columns_inside = _sources(draw.offsets[:, 1], width, setting.padding, reflect)
    columns = torch.where(draw.flipped[:, None], columns.flip(1), columns)
    columns_inside = torch.where(draw.flipped[:, None], columns_inside.flip(1), columns_inside)
    batch = torch.arange(len(images), device=images.device)[:, None, None]
    # Advanced indices around a slice put the channels last: (B, H, W, C), which is also the fast layout.
    cut = images[batch, :, rows[:, :, None], columns[:, None, :]]
    if not reflect:
        inside = rows_inside[:, :, None] & columns_inside[:, None, :]
        cut = cut * inside[..., None].to(cut.dtype)
    cut = cut.permute(0, 3, 1, 2)
    return rotate(cut, draw.degrees) if setting.augmentation == "zero-crop-flip-rotate" else cut


def _sources(offsets: Tensor, size: int, padding: int, reflect: bool) -> tuple[Tensor, Tensor]:
    """For each image, which input line every output line reads, and whether it lies inside: both ``(B, size)``."""
    lines = offsets[:, None] + torch.arange(size, device=offsets.device)[None, :] - padding
    inside = (lines >= 0) & (lines < size)
    if reflect:  # mirror about the edge pixels, which are not repeated: −1 → 1, size → size − 2
        mirrored = (size - 1) - (lines.abs() - (size - 1)).abs()
        return mirrored, inside
    return lines.clamp(0, size - 1), inside


def rotate(images: Tensor, degrees: Tensor) -> Tensor:
    """Rotate each image counter-clockwise about its center: nearest neighbor, zeros outside; dtype and shape kept."""
    height, width = images.shape[2:]
    radians = torch.deg2rad(degrees.double())
    cosine, sine = radians.cos(), radians.sin()
    # The grid holds, for every output pixel, the input position in units where the image spans [−1, 1]. Pixel offsets
    # rotate rigidly, hence the aspect ratio in the off-diagonal terms.
    zero = torch.zeros_like(cosine)
    matrix = torch.stack([cosine, -sine * height / width, zero, sine * width / height, cosine, zero], dim=1)
    grid = functional.affine_grid(matrix.view(-1, 2, 3).float(), list(images.shape), align_corners=False)
    turned = functional.grid_sample(images.float(), grid, mode="nearest", padding_mode="zeros", align_corners=False)
    return turned.to(images.dtype)
