"""ATen operation -> kind of layer-table row, and its geometry (channels, sizes, kernel, MACs) on one image."""

from __future__ import annotations

from typing import Any

from hw_models.workload.layer import CONTRACTIONS, conv_macs, fold_sizes

# ATen name (without a trailing "_") -> kind of row
KIND = {
    "convolution": "conv",
    "addmm": "linear",
    "mm": "matmul",
    "bmm": "matmul",
    "baddbmm": "matmul",
    "native_batch_norm": "bn",
    "cudnn_batch_norm": "bn",
    "_native_batch_norm_legit": "bn",
    "_native_batch_norm_legit_no_training": "bn",
    "_batch_norm_no_update": "bn",
    "native_layer_norm": "norm",
    "native_group_norm": "norm",
    "relu": "relu",
    "hardtanh": "relu",
    "leaky_relu": "relu",
    "threshold": "relu",
    "clamp": "relu",
    "clamp_min": "relu",
    "sigmoid": "activation",
    "silu": "activation",
    "gelu": "activation",
    "tanh": "activation",
    "elu": "activation",
    "hardswish": "activation",
    "hardsigmoid": "activation",
    "_softmax": "activation",
    "_log_softmax": "activation",
    "_safe_softmax": "activation",
    "softplus": "activation",
    "max_pool2d_with_indices": "maxpool",
    "adaptive_max_pool2d": "maxpool",
    "max_pool3d_with_indices": "maxpool",
    "avg_pool2d": "avgpool",
    "avg_pool3d": "avgpool",
    "_adaptive_avg_pool2d": "avgpool",
    "mean": "avgpool",
    "sum": "avgpool",
    "add": "add",
    "sub": "add",
    "mul": "mul",
    "div": "mul",
    "cat": "concat",
    "stack": "concat",
    "index_select": "select",
    "index": "select",
    "index_add": "select",
    "index_copy": "select",
    "index_put": "select",
    "constant_pad_nd": "select",
    "gather": "select",
    "scatter_add": "select",
    "_unsafe_index": "select",
    "native_dropout": "dropout",
}
# operations that move no data: views of their first tensor
VIEWS = {
    "view",
    "_unsafe_view",
    "reshape",
    "t",
    "transpose",
    "permute",
    "expand",
    "squeeze",
    "unsqueeze",
    "select",
    "slice",
    "split",
    "split_with_sizes",
    "chunk",
    "unbind",
    "detach",
    "alias",
    "as_strided",
    "lift_fresh",
    "narrow",
    "diagonal",
    "_to_copy",
    "unsafe_split",
    "unsafe_chunk",
}
# known to move, compare or add without a product, beside what torch tags as pointwise or a reduction: rows of kind
# "other", without a warning
PLAIN = {
    "copy",
    "flip",
    "roll",
    "repeat",
    "pixel_shuffle",
    "pixel_unshuffle",
    "channel_shuffle",
    "native_channel_shuffle",
    "upsample_nearest1d",
    "upsample_nearest2d",
    "upsample_nearest3d",
    "_upsample_nearest_exact2d",
    "reflection_pad1d",
    "reflection_pad2d",
    "replication_pad1d",
    "replication_pad2d",
    "im2col",
    "col2im",
    "unfold",
    "sort",
    "topk",
    "tril",
    "triu",
    "cumsum",
    "max",
    "min",
    "argmax",
    "embedding",
    "repeat_interleave",
}
# tensors that are created, not computed from others
MADE = {
    "empty",
    "zeros",
    "ones",
    "full",
    "arange",
    "zeros_like",
    "ones_like",
    "empty_like",
    "full_like",
    "new_zeros",
    "new_empty",
    "new_full",
    "new_ones",
    "scalar_tensor",
    "empty_strided",
    "fill",
    "zero",
}


def has_bias(name: str, args: Any) -> bool:
    return (name == "convolution" and args[2] is not None) or name == "addmm"


def geometry(name: str, kind: str, args: Any, x: Any, out: Any) -> dict[str, Any]:
    """Channels, sizes, kernel, stride and MACs of one operation on a batch of one."""
    size, done = _size(x.shape), _size(out.shape)
    channels = (int(x.shape[1]) if x.dim() > 1 else 1, int(out.shape[1]) if out.dim() > 1 else 1)
    if name == "convolution":
        weight, stride, dilation, transposed, groups = args[1], args[3], args[5], args[6], int(args[8])
        kernel = fold_sizes(weight.shape[2:])
        macs = (
            conv_macs(x.numel(), channels[1], kernel, groups)
            if transposed
            else conv_macs(out.numel(), channels[0], kernel, groups)
        )
        return {
            "macs": macs,
            "channels": channels,
            "size": size,
            "out": done,
            "kernel": kernel,
            "stride": (1, 1) if transposed else fold_sizes(stride),
            "dilation": fold_sizes(dilation),
            "groups": groups,
        }
    if kind in CONTRACTIONS:
        a, b = args[1:3] if name in ("addmm", "baddbmm") else args[:2]
        inner, wide = int(a.shape[-1]), int(out.shape[-1])
        # heads: each multiplies matrices of its own; one matrix under many views (expanded) is one group
        groups = int(out.shape[0]) if out.dim() == 3 and a.stride(0) and b.stride(0) else 1
        rows = out.numel() // (wide * groups)  # a sequence: every position is one more row of the product
        return {
            "macs": out.numel() * inner,
            "channels": (groups * inner, groups * wide),
            "groups": groups,
            "size": (rows, 1),
            "out": (rows, 1),
        }
    if kind in ("maxpool", "avgpool"):
        if name in ("mean", "sum") or name.endswith("adaptive_avg_pool2d") or "adaptive" in name:
            kernel = (max(1, size[0] // done[0]), max(1, size[1] // done[1]))
            return {
                "channels": channels,
                "size": size,
                "out": done,
                "kernel": kernel,
                "stride": kernel,
                "adaptive": x.dim() == out.dim(),
            }  # ATen runs a global adaptive pool as a mean
        kernel = fold_sizes(args[1])
        stride = fold_sizes(args[2]) if len(args) > 2 and args[2] else kernel
        return {"channels": channels, "size": size, "out": done, "kernel": kernel, "stride": stride}
    return {"channels": channels, "size": size, "out": done}


def _size(shape: Any) -> tuple[int, int]:
    """(height, width) of an N C ... tensor; further leading dimensions fold into the height."""
    return fold_sizes(shape[2:])
