# Copyright (c) The monai_cert authors. Licensed under the Apache License, Version 2.0.
r"""Guaranteed upper bounds of the spectral norm of convolutions, for images of every size.

*Symbol.* A convolution of stride 1 on the infinite lattice is multiplication by its symbol
``W(w) = sum_k K_k exp(-i k.w)``, a matrix (out, in) for each frequency w; its norm is the largest singular value of
W(w) over all w. A convolution of stride s is one of stride 1 of the s^2 phases of its input, which only permutes
pixels: its kernel is that of `polyphase`. A transposed convolution is the adjoint of a convolution: the same norm.

*Zero padding*, of any width, embeds the image in the lattice, convolves there and keeps some of the outputs: two maps
of norm 1 around the convolution. *Circular padding* of an image of n pixels visits the frequencies 2 pi j / n of the
same symbol. So the supremum over all frequencies bounds both, whatever the image's size.

*From a grid to all frequencies.* Let G(w) be the smaller Gram matrix, W W* or W* W, c any number, R(w) = G(w) - c I.
For a fixed vector v, p(w) = v* R(w) v is a real trigonometric polynomial of degree d = k - 1 in each coordinate. If
abs(p) has its maximum M at w0, then abs(p(w)) >= M cos(d (w - w0)) for abs(w - w0) <= pi / (2 d) in one coordinate
(M. Riesz 1914), and a grid of n > 2 d points has one within pi / n of w0. Coordinate by coordinate: M <= max over the
grid / cos(pi d / n)^2 (Ehlich and Zeller 1964). Hence

    norm^2 <= c + max over the grid of ||R||_2 / cos(pi d / n)^2

With c the mean eigenvalue, an orthogonal convolution has R = 0 up to rounding, so that a coarse grid is already sharp.

*Norm of a Hermitian R.* ``||R||_2^(2^t) = ||R^(2^t)||_2 <= ||R^(2^t)||_F`` (Gram iteration, Delattre et al. 2023), an
upper bound after any number of squarings. Power iteration would give a lower one.

*Rounding.* With u = 2^-53, t taps, and G of r rows, sums of n products: the symbol errs by at most (t + 3) u times the
sum of the ||K_k||, which is at most sqrt(t r) ||W||, since the mean of ||W(w)||_F^2 over w is the sum of the
||K_k||_F^2. The product that makes G errs by at most n u || |W| |W*| || <= n u r ||W||^2, those of the Gram iteration
by less, their errors shrinking with the roots. The square is multiplied by
1 + max(2^-30, 4 u (n r + (t + 3) sqrt(t r))).

References:
    Sedghi, Gupta, Long 2019, The Singular Values of Convolutional Layers, ICLR (symbol);
    Delattre, Barthélemy, Araujo, Allauzen 2023, Efficient Bound of Lipschitz Constant for Convolutional Layers by Gram
    Iteration, ICML; Ehlich, Zeller 1964, Schwankung von Polynomen zwischen Gitterpunkten, Math. Zeitschrift 86.
"""

from __future__ import annotations

import math

import torch
from torch.nn import functional

__all__ = ["absolute_norm", "convolution_norm", "polyphase"]

_SLACK = 2.0**-30
_GRIDS = (8, 16, 32, 64)
_SQUARINGS = 6
_SHARP = 1e-4  # a grid this near to the mean eigenvalue needs no finer one
_MOST_COLUMNS = 2**13


def polyphase(kernel: torch.Tensor, stride: int) -> torch.Tensor:
    """Kernel (out, in * stride^2, k', k') of stride 1 on the phases of the input, of a kernel (out, in, k, k)."""
    out, channels, height, width = kernel.shape
    kernel = functional.pad(kernel, (0, -width % stride, 0, -height % stride))
    rows, columns = kernel.shape[2] // stride, kernel.shape[3] // stride
    phases = kernel.reshape(out, channels, rows, stride, columns, stride).permute(0, 1, 3, 5, 2, 4)
    return phases.reshape(out, channels * stride * stride, rows, columns)


def convolution_norm(kernel: torch.Tensor, stride: int = 1) -> float:
    """Upper bound of the norm of a convolution, zero or circular padding, images of every size.

    Args:
        kernel: (out, in, k, k), or that of a transposed convolution as PyTorch stores it.
        stride: in both directions.

    Raises:
        ValueError: if the kernel has weights that are NaN or infinite.

    Example:
        >>> 1 <= convolution_norm(torch.full((1, 1, 3, 3), 1 / 9)) < 1.01  # a mean has norm 1, at frequency 0
        True
    """
    kernel = polyphase(kernel.detach().double().cpu(), stride)
    if not bool(torch.isfinite(kernel).all()):
        raise ValueError("a kernel has weights that are NaN or infinite")
    if min(kernel.shape[:2]) > _MOST_COLUMNS:
        raise ValueError(f"the bound is derived for at most {_MOST_COLUMNS} channels, got {tuple(kernel.shape)}")
    degree = max(kernel.shape[2:]) - 1
    best = math.inf
    for points in _GRIDS if degree else (1,):
        if points <= 2 * degree:
            continue
        gram = _gram(_symbol(kernel, points))
        mean = float(gram.diagonal(dim1=-2, dim2=-1).real.mean())
        deviation = _hermitian_norm(gram - mean * torch.eye(gram.shape[-1], dtype=gram.dtype))
        best = min(best, mean + deviation / math.cos(math.pi * degree / points) ** 2)
        if deviation <= _SHARP * mean:
            break
    if math.isinf(best):
        raise ValueError(f"the bound is derived for kernels of at most {_GRIDS[-1] // 2} pixels, got {degree + 1}")
    small, large = sorted((kernel.shape[0], kernel.shape[1]))
    taps = kernel.shape[2] * kernel.shape[3]
    rounding = 4 * 2.0**-53 * (large * small + (taps + 3) * math.sqrt(taps * small))
    return math.sqrt(best * (1 + max(_SLACK, rounding)))


def absolute_norm(kernel: torch.Tensor) -> float:
    """Upper bound of the norm of the convolution with the kernel's absolute values, whatever stride and padding.

    ``||A||_2^2 <= ||A||_1 ||A||_inf``: the largest sums of a column and of a row.
    """
    sizes = kernel.detach().double().cpu().abs()
    largest = float(sizes.sum(dim=(0, 2, 3)).max()) * float(sizes.sum(dim=(1, 2, 3)).max())
    return math.sqrt(largest * (1 + _SLACK))


def _symbol(kernel: torch.Tensor, points: int) -> torch.Tensor:
    """(frequencies, out, in) on a grid; real kernels have W(-w) = conj(W(w)), so that half of them will do."""
    grid = 2 * math.pi * torch.arange(points, dtype=torch.float64) / points
    rows = torch.exp(-1j * torch.outer(grid, torch.arange(kernel.shape[2], dtype=torch.float64)))
    half = grid[: points // 2 + 1]
    columns = torch.exp(-1j * torch.outer(half, torch.arange(kernel.shape[3], dtype=torch.float64)))
    return torch.einsum("ochw,fh,gw->fgoc", kernel.to(rows.dtype), rows, columns).flatten(0, 1)


def _gram(symbol: torch.Tensor) -> torch.Tensor:
    """The smaller Gram matrix of each frequency."""
    wide = symbol.shape[1] <= symbol.shape[2]
    return symbol @ symbol.mH if wide else symbol.mH @ symbol


def _hermitian_norm(matrices: torch.Tensor) -> float:
    """Upper bound of the largest spectral norm of Hermitian matrices, by Gram iteration with rescaling."""
    logarithm = torch.zeros(len(matrices), dtype=torch.float64)
    for _ in range(_SQUARINGS):
        size = torch.linalg.matrix_norm(matrices).clamp_min(1e-300)
        matrices = matrices / size[:, None, None]
        matrices = matrices @ matrices
        logarithm = 2 * (logarithm + size.log())
    size = torch.linalg.matrix_norm(matrices).clamp_min(1e-300)
    return float(((logarithm + size.log()) / 2**_SQUARINGS).exp().max())
