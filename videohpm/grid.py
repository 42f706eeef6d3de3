"""Geometry: which pixels a token holds, which tokens a tube holds, which tokens are hidden.

Legend of shapes, used everywhere: B batch, C = 3 channels, T frames, H×W pixels; t×h×w the grid,
N = t·h·w tokens in (t, h, w) order; L = h·w tubes (a tube is one place over all t steps);
V visible and M masked tokens, N = V + M; P = tubelet·patch·patch·3 values of a token.

The configuration checks its numbers with :class:`TokenGrid`, so torch is imported by the functions
that make tensors, not by the module.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@dataclass(frozen=True)
class TokenGrid:
    """The t×h×w grid of tubelets of ``tubelet`` frames by ``patch``×``patch`` pixels.

    A clip of 16 frames at 224×224 is ``TokenGrid(8, 14, 14)``: 1568 tokens, 196 tubes. An image is
    ``TokenGrid(1, 14, 14, tubelet=1)``: there a tube is a patch.
    """

    t: int
    h: int
    w: int
    tubelet: int = 2
    patch: int = 16

    @classmethod
    def of_clip(
        cls, frames: int, height: int, width: int, tubelet: int = 2, patch: int = 16
    ) -> TokenGrid:
        """The grid of a clip of ``frames`` × ``height`` × ``width`` pixels.

        Raises ValueError when tubelets or patches do not tile the clip.
        """
        if frames < 1 or frames % tubelet:
            raise ValueError(f"frames: {frames} is not a multiple of the tubelet ({tubelet})")
        if min(height, width) < 1 or height % patch or width % patch:
            raise ValueError(
                f"image_size: {height}x{width} is not a multiple of the patch ({patch})"
            )
        return cls(frames // tubelet, height // patch, width // patch, tubelet, patch)

    @property
    def num_tokens(self) -> int:
        """N."""
        return self.t * self.h * self.w

    @property
    def num_tubes(self) -> int:
        """L."""
        return self.h * self.w

    @property
    def frames(self) -> int:
        """T."""
        return self.t * self.tubelet

    @property
    def height(self) -> int:
        """H, pixels."""
        return self.h * self.patch

    @property
    def width(self) -> int:
        """W, pixels."""
        return self.w * self.patch

    @property
    def patch_dim(self) -> int:
        """P, the pixel values one token holds."""
        return self.tubelet * self.patch * self.patch * 3

    def gather_patches(self, clips: Tensor, index: Tensor | None = None) -> Tensor:
        """The pixel blocks of the tokens that ``index`` names, and of no others.

        Args:
            clips: (B, C, T, H, W).
            index: (B, K) token numbers, or None for all N in order.

        Returns:
            (B, K, C, tubelet, patch, patch).
        """
        import torch

        batch, channels, *size = clips.shape
        if tuple(size) != (self.frames, self.height, self.width):
            raise ValueError(
                f"clips of {'x'.join(map(str, size))} (frames x height x width) do not fit the "
                f"grid, which is made for {self.frames}x{self.height}x{self.width}"
            )
        grid = clips.reshape(
            batch, channels, self.t, self.tubelet, self.h, self.patch, self.w, self.patch
        ).permute(0, 2, 4, 6, 1, 3, 5, 7)
        if index is None:
            return grid.flatten(1, 3)
        row = torch.arange(batch, device=clips.device)[:, None]
        return grid[row, index // self.num_tubes, index // self.w % self.h, index % self.w]

    def patchify(self, clips: Tensor, index: Tensor | None = None) -> Tensor:
        """(B, C, T, H, W) → (B, K, P), values in (t, h, w, c) order, c fastest (VideoMAE, MAE)."""
        return self.gather_patches(clips, index).permute(0, 1, 3, 4, 5, 2).flatten(2)

    def unpatchify(self, tokens: Tensor) -> Tensor:
        """The inverse of :meth:`patchify` over all N tokens: (B, N, P) → (B, C, T, H, W)."""
        batch = tokens.shape[0]
        return (
            tokens.reshape(batch, self.t, self.h, self.w, self.tubelet, self.patch, self.patch, -1)
            .permute(0, 7, 1, 4, 2, 5, 3, 6)
            .reshape(batch, -1, self.frames, self.height, self.width)
        )

    def tokens_of_tubes(self, tubes: Tensor) -> Tensor:
        """(B, K) tube numbers → (B, t·K) numbers of their tokens; ascending if ``tubes`` is."""
        import torch

        step = torch.arange(self.t, device=tubes.device) * self.num_tubes
        return (step[:, None] + tubes[:, None, :]).flatten(1)

    def staggered_tokens(self, samples: float, device: torch.device | None = None) -> Tensor:
        """Numbers of the tokens seen by sampling each tube at some of its t steps.

        A tube's samples are spread evenly over time, and neighbours are sampled at different steps,
        so that one sample of each still shows all steps somewhere: for t = 8 steps 0, 1, 2, … along
        a row of tubes, and the row below begins three later.

        Args:
            samples: of each tube, at most t. Below 1 it is the share of the tubes that have one:
                spread evenly along rows that are shifted against each other. 1/2 is a chessboard,
                1/3 are diagonals, and of 2/3 they are left out. Taken to a fraction of at most 20
                parts.

        Returns:
            (about samples·L,), sample by sample, the tubes in order in each. Making it may wait for
            the device: make it once.
        """
        import torch

        tube = torch.arange(self.num_tubes, device=device)
        row, number = tube // self.w, tube % self.w
        if samples < 1:
            share = Fraction(min(samples, 1 - samples)).limit_denominator(20)
            share = max(share, Fraction(1, 20))
            # Rows are shifted by nearly the golden section of what repeats, as they never line up.
            shift = min(range(1, share.denominator), key=lambda n: abs(n * share % 1 - GOLDEN))
            kept, places = [], []  # in Python: what has no values, as traced steps, has no choice
            for y in range(self.h):
                along = [(x + y * shift) * share for x in range(self.w)]
                is_hit = [place % 1 < share for place in along]
                inside = [x for x in range(self.w) if is_hit[x] == (samples <= 0.5)]
                kept += [y * self.w + x for x in inside]
                places += range(len(inside))  # in its row
            tube = torch.tensor(kept, device=device)
            number, row = torch.tensor(places, device=device), tube // self.w
        count = max(1, int(samples))
        first = number + row * _row_shift(self.t)
        apart = torch.arange(count, device=device)[:, None] * self.t // count
        return ((first + apart) % self.t * self.num_tubes + tube).flatten()


GOLDEN = Fraction(382, 1000)
"""The smaller part of the golden section: what is shifted by it lines up late."""


def _row_shift(period: int) -> int:
    """By how much what repeats along a row starts later in the next: the golden section of it."""
    return max(1, round(GOLDEN * period))


@dataclass(frozen=True)
class Mask:
    """Which tokens of each sample are hidden; True = masked, the same count in every sample.

    The counts live in the shapes, so nothing that follows has to ask the device for them.
    """

    is_masked: Tensor
    """(B, N) bool."""
    visible: Tensor
    """(B, V) token numbers, ascending."""
    masked: Tensor
    """(B, M) token numbers, ascending."""
    tubes: Tensor | None = None
    """(B, M/t) masked tube numbers, ascending, where the unit of masking is the tube; fewer where
    only some of them are reconstructed at all."""
    decoded_subset: Tensor | None = None
    """(B, K) those of ``masked`` that the decoder reconstructs, where it is not all of them."""
    scores: Tensor | None = None
    """(B, units) the hardness that the mask was drawn by, where it was drawn by any."""
    chosen: Tensor | None = None
    """(B, units) bool: what these scores chose, and chance did not."""
    weights: Tensor | None = None
    """(B, K) what the loss of each decoded token weighs, of mean 1, where it is not the same."""

    @property
    def decoded(self) -> Tensor:
        """(B, K) numbers of the tokens to reconstruct: all M that are masked, or some."""
        return self.masked if self.decoded_subset is None else self.decoded_subset

    @classmethod
    def from_units(cls, masked: Tensor, grid: TokenGrid, unit: str = "tube") -> Mask:
        """From (B, K) numbers of masked tubes (or tokens), all different, in any order."""
        import torch

        size = grid.num_tubes if unit == "tube" else grid.num_tokens
        hidden = torch.zeros(len(masked), size, dtype=torch.bool, device=masked.device)
        hidden = hidden.scatter(1, masked, True)
        order = hidden.byte().argsort(dim=1, stable=True)
        seen, hidden_units = order.split([size - masked.shape[1], masked.shape[1]], dim=1)
        if unit == "token":
            return cls(hidden, seen, hidden_units)
        tokens = hidden.repeat(1, grid.t)
        return cls(
            tokens, grid.tokens_of_tubes(seen), grid.tokens_of_tubes(hidden_units), hidden_units
        )

    @classmethod
    def from_bool(cls, tokens: Tensor, grid: TokenGrid) -> Mask:
        """From (B, N) bool, True = masked. For masks made elsewhere: it reads the device.

        Raises ValueError when the samples do not all hide the same number of tokens.
        """
        counts = tokens.sum(1)
        count = int(counts[0])
        if not bool((counts == count).all()):
            raise ValueError("mask: every sample must hide the same number of tokens")
        tubes = tokens.view(-1, grid.t, grid.num_tubes)
        if bool((tubes == tubes[:, :1]).all()):
            per_tube = tubes[:, 0].byte().argsort(dim=1, stable=True, descending=True)
            return cls.from_units(per_tube[:, : count // grid.t], grid)
        masked = tokens.byte().argsort(dim=1, stable=True, descending=True)[:, :count]
        return cls.from_units(masked, grid, "token")
