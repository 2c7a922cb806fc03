"""Products of matrices at the rate of the processor, where `torch` would leave half of it unused.

The library that `torch` multiplies with on x86, Intel's MKL, has kernels of 512 bits for Intel's processors alone, and
on others takes those of 256. oneDNN, which `torch` brings too, compiles its kernels for the processor that it finds: on
an AMD EPYC of 2025 products of float32 take half the time. Which of the two multiplies depends on the processor and on
the shapes, never on a measurement, so that the same machine gives the same bytes.
"""

import functools
from typing import Any

import torch
from torch import Tensor, nn

#: Multiplications from which oneDNN is asked: it compiles a kernel for each new shape, which takes it milliseconds.
WORTH_A_KERNEL = 2**20


def linear(rows: Tensor, weights: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return rows (..., K) times the transpose of weights (N, K), plus bias (N,): (..., N).

    The same as `torch.nn.functional.linear`, whose gradients it has, to the rounding of sums.
    """
    if not _is_for_onednn(rows, weights):
        return nn.functional.linear(rows, weights, bias)
    if not torch.is_grad_enabled():
        return _product(rows, weights, bias)
    result: Tensor = _Linear.apply(rows, weights, bias)
    return result


class Linear(nn.Linear):
    """A layer of `torch.nn` that multiplies as this module does."""

    def forward(self, rows: Tensor) -> Tensor:
        """Return rows (..., K) times the weights (N, K) plus the bias: (..., N)."""
        return linear(rows, self.weight, self.bias)


@functools.cache
def is_onednn_faster() -> bool:
    """Whether this processor computes with 512 bits and MKL does not know it."""
    if not (torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")):
        return False  # what is asked of oneDNN is no public part of torch
    found = torch.cpu.get_capabilities()
    return bool(found.get("avx512_f")) and "Intel" not in str(found["cpu_name"])


def _is_for_onednn(rows: Tensor, weights: Tensor) -> bool:
    return (
        rows.device.type == "cpu"
        and rows.dtype == weights.dtype == torch.float32
        and rows.numel() * len(weights) >= WORTH_A_KERNEL
        and is_onednn_faster()
        and not torch.is_autocast_enabled("cpu")
    )


def _product(rows: Tensor, weights: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return what `linear` does, by oneDNN, without gradients."""
    if bias is not None:
        bias = bias.contiguous()  # oneDNN reads it as if it were
    result: Tensor = torch.ops.mkldnn._linear_pointwise(rows, weights, bias, "none", [], "")
    return result


class _Linear(torch.autograd.Function):
    """The product of rows (..., K) and the transpose of weights (N, K), and its gradients, all by oneDNN."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, weights: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(rows, weights)
        flat = _product(rows.flatten(0, -2), weights, bias)
        # As torch's own does: what is returned may be changed in place, which a view may not.
        result: Tensor = torch.ops.aten._unsafe_view(flat, [*rows.shape[:-1], len(weights)])
        return result

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        rows, weights = ctx.saved_tensors
        slopes = gradients[0].flatten(0, -2)  # (B, N)
        for_rows, for_weights, for_bias = ctx.needs_input_grad
        return (
            _product(slopes, weights.T).view_as(rows) if for_rows else None,
            _of_weights(slopes, rows.flatten(0, -2)) if for_weights else None,
            slopes.sum(0) if for_bias else None,
        )


def _of_weights(slopes: Tensor, rows: Tensor) -> Tensor:
    """Return the transpose of slopes (B, N) times rows (B, K): (N, K).

    What comes first lies the wrong way round for oneDNN, which copies it: better the narrower of the two.
    """
    if slopes.shape[1] <= rows.shape[1]:
        return _product(slopes.T, rows.T)
    return _product(rows.T, slopes.T).T.contiguous()
