"""EfficientNet-Lite2, the image network of `packaged`: its weights, and its graph for CPUs.

The graph is written by hand from the tensors, so that making it needs no PyTorch: batch
normalisations are folded into their convolutions, and what `packaged` gives (global, dense,
encoder) are its outputs. ONNX Runtime is two to three times as fast as PyTorch on a CPU.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from reco.files import check_digest
from reco.models import Output
from reco.models.runtime import open_session

# Kernel, stride, expansion and number of the blocks of each stage: Tan & Le, "EfficientNet", ICML
# 2019, with widths times 1.1 and depths times 1.2, without squeeze-and-excitation (Lite).
STAGES = (
    *((3, 1, 1, 1), (3, 2, 6, 3), (5, 2, 6, 3), (3, 2, 6, 4)),
    *((5, 1, 6, 4), (5, 2, 6, 5), (3, 1, 6, 1)),
)
EPSILON = 1e-3  # of the batch normalisations
NORMALISATION = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
OPSET, IR = 18, 10  # ONNX Runtime 1.18 and later read these
EXPANDED = ("conv_pw", "conv_dw", "conv_pwl")


def tensor_names() -> Iterator[str]:
    """timm's names of the network's tensors, in timm's order, which is that of the package."""

    def layers() -> Iterator[tuple[str, str]]:
        yield "conv_stem", "bn1"
        for stage, (_, _, expansion, depth) in enumerate(STAGES):
            convolutions = ["conv_dw", "conv_pw"] if expansion == 1 else EXPANDED
            for block in range(depth):
                for i, convolution in enumerate(convolutions, 1):
                    yield (
                        f"blocks.{stage}.{block}.{convolution}",
                        f"blocks.{stage}.{block}.bn{i}",
                    )
        yield "conv_head", "bn2"

    for convolution, normalisation in layers():
        yield f"{convolution}.weight"
        yield from (f"{normalisation}.{name}" for name in NORMALISATION)
    yield from ("classifier.weight", "classifier.bias")


class _Graph:
    """Nodes and constants of a graph under construction."""

    def __init__(self, weights: Mapping[str, np.ndarray]) -> None:
        from onnx import NodeProto, TensorProto

        self.weights = weights
        self.nodes: list[NodeProto] = []
        self.constants: list[TensorProto] = []

    def constant(self, values: np.ndarray) -> str:
        from onnx import numpy_helper

        name = f"constant{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(values), name))
        return name

    def add(self, kind: str, *inputs: str, name: str | None = None, **attributes: Any) -> str:
        from onnx import helper

        output = name or f"value{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [output], **attributes))
        return output

    def convolve(
        self, x: str, convolution: str, normalisation: str, stride: int = 1, *, clip: bool = True
    ) -> str:
        """A convolution with its batch normalisation, and ReLU6 where `clip`.

        Padded as TensorFlow does, whose weights these are: at stride 2 more at the end.
        """
        kernel = self.weights[f"{convolution}.weight"].astype(np.float64)
        gain, shift, mean, variance = (
            self.weights[f"{normalisation}.{name}"].astype(np.float64) for name in NORMALISATION[:4]
        )
        gain /= np.sqrt(variance + EPSILON)
        y = self.add(
            "Conv",
            x,
            self.constant((kernel * gain[:, None, None, None]).astype(np.float32)),
            self.constant((shift - mean * gain).astype(np.float32)),
            auto_pad="SAME_UPPER",
            strides=[stride, stride],
            group=len(kernel) if convolution.endswith("_dw") else 1,
        )
        return self.add("Clip", y, *self.limits) if clip else y

    @property
    def limits(self) -> tuple[str, str]:
        return self.constant(np.array(0, np.float32)), self.constant(np.array(6, np.float32))

    def neighbourhood_mean(self, x: str, name: str) -> str:
        """Mean of each position and its neighbours within a map."""
        shape = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "count_include_pad": 0}
        return self.add("AveragePool", x, name=name, **shape)


def build_graph(weights: Mapping[str, np.ndarray], temperature: float) -> bytes:
    """The network as an ONNX file: pixels (b, 3, H, W) -> what
    `packaged.Packaged.encode` gives.

    Args:
        weights: by `tensor_names`.
        temperature: of the classes at a position, for the output `global`.
    """
    from onnx import TensorProto, ValueInfoProto, checker, helper

    graph = _Graph(weights)
    x = graph.convolve("pixels", "conv_stem", "bn1", 2)
    for stage, (_, stride, expansion, depth) in enumerate(STAGES):
        for block in range(depth):
            before, at = x, f"blocks.{stage}.{block}"
            step = stride if block == 0 else 1
            if expansion == 1:
                x = graph.convolve(x, f"{at}.conv_dw", f"{at}.bn1", step)
                x = graph.convolve(x, f"{at}.conv_pw", f"{at}.bn2", clip=False)
            else:
                x = graph.convolve(x, f"{at}.conv_pw", f"{at}.bn1")
                x = graph.convolve(x, f"{at}.conv_dw", f"{at}.bn2", step)
                x = graph.convolve(x, f"{at}.conv_pwl", f"{at}.bn3", clip=False)
            x = graph.add("Add", x, before) if block else x
    graph.neighbourhood_mean(x, "encoder")
    features = graph.convolve(x, "conv_head", "bn2")
    graph.neighbourhood_mean(features, "dense")
    scale = np.float32(1 / temperature)
    logits = graph.add(
        "Conv",
        features,
        graph.constant(weights["classifier.weight"][:, :, None, None] * scale),
        graph.constant(weights["classifier.bias"] * scale),
    )
    shares = graph.add("Softmax", logits, axis=1)
    mean = graph.add("ReduceMean", shares, graph.constant(np.array([2, 3])), keepdims=0)
    graph.add("Sqrt", mean, name="global")

    def value(name: str, *shape: str | int) -> ValueInfoProto:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

    outputs = [
        value("global", "b", len(weights["classifier.bias"])),
        value("dense", "b", len(weights["bn2.bias"]), "h", "w"),
        value("encoder", "b", weights["conv_head.weight"].shape[1], "h", "w"),
    ]
    model = helper.make_model(
        helper.make_graph(
            graph.nodes, "reco", [value("pixels", "b", 3, "H", "W")], outputs, graph.constants
        ),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR,
    )
    checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString())


class Graph:
    """The network in ONNX Runtime.

    An image's values depend neither on the others of its batch nor on the number of threads.

    Raises:
        RecoError: the file is missing or damaged, or see `open_session`.
    """

    name = "onnx"

    def __init__(self, path: Path) -> None:
        check_digest(path)
        self._session = open_session(path)

    def run(self, images: np.ndarray, wanted: set[Output]) -> dict[Output, np.ndarray]:
        """See `reco.models.Backend.encode`."""
        names = sorted(wanted)
        return dict(zip(names, self._session.run(names, {"pixels": images}), strict=True))
