"""The encoder's convolutions on a CPU: the numbers of the plain layers for a fraction of their arithmetic.

Arrays are position-first, shape (L, N, C) for L positions of N spectra with C channels: a run of positions is one
contiguous matrix over all spectra and channels, and all the work here is products of matrices. Three facts save most
of it. A maximum commutes with whatever increases, so pooling goes before normalization and activation, which are left
with a fifth or an eleventh of the values. Mean and variance of a convolution of one channel follow from the covariance
of its shifted input. And a convolution is a product point by point after a Fourier transform, which for a short tile
of positions is itself a small matrix (Winograd 1980, Arithmetic Complexity of Computations).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

EPSILON = 1e-5  # nn.InstanceNorm1d's

# Positions per tile: shorter ones waste more on the overlap of their inputs, longer ones on the transforms and on
# memory traffic; 22, 33 and 44 are within 10 % of each other on both machines tried. A layer that is hardly longer than
# its kernel's tile is a single one.
TILE = 22
SINGLE_TILE = 96


class Transforms(NamedTuple):
    """A tile's convolution y with w of x, as y = outputs [(kernels w) * (inputs x)], a product at each of P points.

    outputs: shape (V, P). kernels: shape (P, K). inputs: shape (P, T).
    """

    outputs: Tensor
    kernels: Tensor
    inputs: Tensor


def transforms(n_out: int, n_kernel: int, size: int) -> Transforms:
    """Return the transforms of y[v] = sum_k w[k] x[v + k] by real Fourier transforms of `size` points, float64.

    V = n_out, K = n_kernel, T = size. Each complex product takes three real ones (Gauss): for X = a + ib, W = c + id,
    k1 = c (a + b), k2 = a (d - c) and k3 = b (c + d) make W X = (k1 - k3) + i (k1 + k2). The result is right if all
    inputs from x[size] on are zero and, where size < V + K - 1, as many of the first, which these would fall upon.
    """
    inputs, kernels, outputs = [], [], []
    position = torch.arange(max(size, n_out, n_kernel), dtype=torch.float64)
    for frequency in range(size // 2 + 1):
        angle = 2 * math.pi / size * frequency * position
        cos, sin = angle.cos(), angle.sin()
        if frequency in (0, size / 2):  # these two are real
            inputs.append(cos[:size])
            kernels.append(cos[:n_kernel])
            outputs.append(cos[:n_out] / size)
        else:
            inputs += [(cos - sin)[:size], cos[:size], -sin[:size]]
            kernels += [cos[:n_kernel], (sin - cos)[:n_kernel], (cos + sin)[:n_kernel]]
            outputs += [values[:n_out] * 2 / size for values in (cos - sin, -sin, -cos)]
    return Transforms(torch.stack(outputs, dim=1), torch.stack(kernels), torch.stack(inputs))


class _Context(Protocol):
    """What autograd keeps between a function's two directions."""

    saved_tensors: tuple[Tensor, ...]
    pool: int

    def save_for_backward(self, *tensors: Tensor) -> None: ...


class _Tiles(torch.autograd.Function):
    """Tile by tile: transform, multiply at each point, transform back; buffers of one tile stay in the cache."""

    @staticmethod
    def forward(ctx: _Context, x: Tensor, spectra: Tensor, outputs: Tensor, inputs: Tensor, n_out: int) -> Tensor:
        """Convolve x, shape (rows, N, C), padded; spectra: shape (P, C, O). Returns shape (n_out, N, O)."""
        ctx.save_for_backward(x, spectra, outputs, inputs)
        y = x.new_empty(n_out, x.shape[1], spectra.shape[2])
        before, after = _buffers(x, spectra)
        for start in range(0, n_out, len(outputs)):
            tile = slice(start, min(start + len(outputs), n_out))
            _transform(inputs, x[start : start + inputs.shape[1]], before)
            torch.bmm(before, spectra, out=after)
            _transform(outputs[: tile.stop - start], after, y[tile])
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: _Context, grad: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        x, spectra, outputs, inputs = ctx.saved_tensors
        grad = grad.contiguous()
        grad_x, grad_spectra = torch.zeros_like(x), torch.empty_like(spectra)
        before, after = _buffers(x, spectra)
        for start in range(0, len(grad), len(outputs)):
            tile = slice(start, min(start + len(outputs), len(grad)))
            source = slice(start, start + inputs.shape[1])
            _transform(inputs, x[source], before)
            _transform(outputs[: tile.stop - start].T, grad[tile], after)
            grad_spectra.baddbmm_(before.transpose(1, 2), after, beta=float(start > 0))
            torch.bmm(after, spectra.transpose(1, 2), out=before)
            grad_x[source].flatten(1).addmm_(inputs.T, before.flatten(1))
        return grad_x, grad_spectra, None, None, None


def _buffers(x: Tensor, spectra: Tensor) -> tuple[Tensor, Tensor]:
    points, n_in, n_out = spectra.shape
    return x.new_empty(points, x.shape[1], n_in), x.new_empty(points, x.shape[1], n_out)


def _transform(matrix: Tensor, x: Tensor, out: Tensor) -> None:
    torch.mm(matrix, x.flatten(1), out=out.flatten(1))


class TiledConvolution(nn.Conv1d):
    """nn.Conv1d with "same" padding over a fixed length, and a faster way to the same numbers, `tiled`.

    length: positions L of its input. The state is that of nn.Conv1d.
    """

    def __init__(self, n_in: int, n_out: int, kernel: int, length: int) -> None:
        super().__init__(n_in, n_out, kernel, padding=kernel // 2)
        self.length = length
        is_single = length <= SINGLE_TILE
        width = length if is_single else TILE
        # The padding at both ends of a single tile falls upon itself, since it is zero.
        size = width + (kernel // 2 if is_single else kernel - 1)
        size += size % 2
        n_tiles = -(-length // width)
        self._rows = width * (n_tiles - 1) + size
        # Constants of the tiled way, which is taken in float32 on a CPU alone: as buffers they would be rounded when
        # the module passes through half precision, and be lost on the meta device.
        with torch.device("cpu"):
            self._outputs, self._kernels, self._inputs = (matrix.float() for matrix in transforms(width, kernel, size))
        self._known: tuple[Tensor, Tensor] | None = None

    def __getstate__(self) -> dict[str, object]:
        """Leave out what can be made again, seven times the weights."""
        return {**self.__dict__, "_known": None}

    def spectra(self) -> Tensor:
        """Transform the weights, shape (P, C, O); kept from call to call where no gradient is wanted."""
        if torch.is_grad_enabled() and self.weight.requires_grad:
            return self._transformed()
        # Comparing all weights takes 2 % of the time of transforming them, and no way to change them escapes it.
        if self._known is None or not torch.equal(self._known[0], self.weight):
            with torch.inference_mode(False), torch.no_grad():
                self._known = self.weight.detach().clone(), self._transformed()
        return self._known[1]

    def _transformed(self) -> Tensor:
        weight = self.weight.permute(2, 1, 0)
        return (self._kernels @ weight.flatten(1)).view(-1, *weight.shape[1:])

    def tiled(self, x: Tensor, spectra: Tensor) -> Tensor:
        """Convolve without the bias, shape (L, N, C) -> (L, N, O); spectra: what the method of that name gave."""
        before = self.kernel_size[0] // 2
        x = functional.pad(x, (0, 0, 0, 0, before, self._rows - before - len(x)))
        y: Tensor = _Tiles.apply(x, spectra, self._outputs, self._inputs, self.length)  # type: ignore[no-untyped-call]
        return y


class _Pool(torch.autograd.Function):
    """Highest or lowest values in windows of positions; backward, the first of equal ones takes the gradient."""

    @staticmethod
    def forward(ctx: _Context, y: Tensor, size: int, is_lowest: bool) -> Tensor:
        """Pool with windows centered on 0, size, 2 size, ...: shape (L, N, C) -> (W, N, C), W = ceil(L / size)."""
        extreme = torch.amin if is_lowest else torch.amax
        best = y.new_empty(-(-len(y) // size), *y.shape[1:])
        for rows, windows in _windows_of(len(y), size):
            extreme(y[rows].view(windows.stop - windows.start, -1, *y.shape[1:]), 1, out=best[windows])
        ctx.save_for_backward(y, best)
        ctx.pool = size
        return best

    @staticmethod
    @once_differentiable
    def backward(ctx: _Context, grad: Tensor) -> tuple[Tensor, None, None]:
        y, best = ctx.saved_tensors
        grad_y = torch.empty_like(y)
        for rows, windows in _windows_of(len(y), ctx.pool):
            shape = windows.stop - windows.start, -1, *y.shape[1:]
            values, grads, rest = y[rows].view(shape), grad_y[rows].view(shape), grad[windows].clone()
            for place in range(values.shape[1]):
                _share(values[:, place] - best[windows], rest, out=grads[:, place])
        grad_y[rows.stop :] = 0
        return grad_y, None, None


def _windows_of(length: int, size: int) -> Iterator[tuple[slice, slice]]:
    """Yield rows and the windows that they fill evenly: the first window, all whole ones, the last if it is cut.

    A window is there if its center is; the last rows may be in none.
    """
    first = min(size - size // 2, length)
    whole = (length - first) // size
    last = first + whole * size
    yield slice(0, first), slice(0, 1)
    if whole:
        yield slice(first, last), slice(1, 1 + whole)
    if length - last > size // 2:
        yield slice(last, length), slice(1 + whole, 2 + whole)


def _share(below: Tensor, rest: Tensor, out: Tensor) -> None:
    """Where `below` is 0, add the remaining gradient, `rest`, to `out`, and remove it from `rest`.

    By arithmetic: masks are several times slower. `below` is overwritten.
    """
    differs = below.sign_().abs_()
    torch.addcmul(rest, rest, differs, value=-1, out=out)
    rest *= differs


class _PooledMaximum(torch.autograd.Function):
    """Maximum over pooling windows of a convolution of one channel, of which only one spectrum's is ever in memory."""

    @staticmethod
    def forward(ctx: _Context, spec: Tensor, weight: Tensor, pool: int) -> Tensor:
        """Convolve spec, shape (N, L), each with its own weight, shape (N, K, C). Returns shape (W, N, C)."""
        ctx.save_for_backward(spec, weight)
        ctx.pool = pool
        kernel = weight.shape[1]
        windows = _windows(spec, kernel, pool)
        highest = spec.new_empty(windows.shape[1], len(spec), weight.shape[2])
        best, other = spec.new_empty(2, windows.shape[1], weight.shape[2])
        half, inside = pool // 2, _inside(spec.shape[1], pool)
        for i in range(len(spec)):
            torch.mm(windows[i, :, half : half + kernel], weight[i], out=best)
            for place in (*range(half), *range(half + 1, pool)):
                rows = inside[place]
                torch.mm(windows[i, :, place : place + kernel], weight[i], out=other)
                torch.maximum(best[rows], other[rows], out=best[rows])
            highest[:, i] = best
        return highest

    @staticmethod
    @once_differentiable
    def backward(ctx: _Context, grad: Tensor) -> tuple[None, Tensor, None]:
        spec, weight = ctx.saved_tensors
        kernel, pool = weight.shape[1], ctx.pool
        windows = _windows(spec, kernel, pool)
        grad_weight = torch.zeros_like(weight)
        part = spec.new_empty(windows.shape[1], weight.shape[2])
        values = spec.new_empty(pool, windows.shape[1], weight.shape[2])
        for i in range(len(spec)):
            for place, rows in enumerate(_inside(spec.shape[1], pool)):
                torch.mm(windows[i, :, place : place + kernel], weight[i], out=values[place])
                values[place, : rows.start] = -torch.inf
                values[place, rows.stop :] = -torch.inf
            best = values.amax(dim=0)
            rest = grad[:, i].clone()
            for place in range(pool):
                _share(values[place].sub_(best), rest, out=part)
                grad_weight[i].addmm_(windows[i, :, place : place + kernel].T, part)
        return None, grad_weight, None


def _windows(spec: Tensor, kernel: int, pool: int) -> Tensor:
    """View the pixels that each pooling window of the convolution sees: (N, L) -> (N, W, pool + kernel - 1)."""
    length = spec.shape[1]
    before = kernel // 2 + pool // 2
    padded = pool * -(-length // pool) + kernel - 1
    return functional.pad(spec, (before, padded - before - length)).unfold(1, pool + kernel - 1, pool)


def _inside(length: int, pool: int) -> list[slice]:
    """For each place in a pooling window, the windows for which it lies on the spectrum."""
    half = pool // 2
    return [slice(int(place < half), (length - 1 - place + half) // pool + 1) for place in range(pool)]


def first_stage(spec: Tensor, weight: Tensor, slope: Tensor, pool: int) -> Tensor:
    """Convolution of one channel, instance norm, PReLU and max-pool in one.

    spec: shape (N, L). weight: shape (C, 1, K). slope: shape (C,), the PReLU's. Returns shape (W, N, C), W = ceil(L /
    pool). Not differentiable with respect to spec.
    """
    w = weight[:, 0].T.double()
    half = len(w) // 2
    # In float64: the variance of a filter that takes differences is small beside those of the pixels.
    shifted = functional.pad(spec.double(), (half, half)).unfold(1, len(w), 1)
    level = shifted.mean(dim=1)
    centered = shifted - level[:, None]
    covariance = torch.bmm(centered.transpose(1, 2), centered) / spec.shape[1]
    scale = torch.rsqrt((w * (covariance @ w)).sum(dim=1) + EPSILON)
    scaled = (w * scale[:, None]).to(spec.dtype)
    shift = (-(level @ w) * scale).to(spec.dtype)
    x = prelu(_pooled_maximum(spec, scaled, pool) + shift, slope)
    if (slope < 0).any():
        x = torch.maximum(x, prelu(shift - _pooled_maximum(spec, -scaled, pool), slope))
    return x


def _pooled_maximum(spec: Tensor, weight: Tensor, pool: int) -> Tensor:
    maximum: Tensor = _PooledMaximum.apply(spec, weight, pool)  # type: ignore[no-untyped-call]
    return maximum


def second_stage(y: Tensor, slope: Tensor, pool: int) -> Tensor:
    """Instance norm, PReLU and max-pool of a convolution: shape (L, N, C) -> (W, N, C), W = ceil(L / pool).

    y is overwritten.
    """
    centered, scale = _standardized(y)
    x = prelu(_pool(centered, pool) * scale, slope)
    if (slope < 0).any():
        # PReLU with a negative slope is convex: its maximum over a window is at the window's maximum or minimum.
        x = torch.maximum(x, prelu(_pool(centered, pool, is_lowest=True) * scale, slope))
    return x


def _pool(y: Tensor, size: int, is_lowest: bool = False) -> Tensor:
    best: Tensor = _Pool.apply(y, size, is_lowest)  # type: ignore[no-untyped-call]
    return best


def third_stage(y: Tensor, slope: Tensor) -> Tensor:
    """Instance norm and PReLU of a convolution, shape (L, N, C). y is overwritten."""
    centered, scale = _standardized(y)
    return prelu(centered * scale, slope)


def _standardized(y: Tensor) -> tuple[Tensor, Tensor]:
    """Subtract the mean over positions from y, shape (L, N, C), and give what makes its variance one, shape (N, C)."""
    centered = y.sub_(y.mean(dim=0))
    return centered, torch.rsqrt(centered.square().mean(dim=0) + EPSILON)


def prelu(x: Tensor, slope: Tensor) -> Tensor:
    """PReLU with the channels last, shape (*, C)."""
    return functional.prelu(x.flatten(0, -2), slope).view_as(x)
