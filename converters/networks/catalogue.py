"""The catalogue of compact networks: names, papers, sizes, and where each is built, as data. No toolchain is imported here.

Read by `harness networks`, by `converters.networks.building`, and by the step `distill`, which takes one as a student.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass

from converters.errors import ConversionInputError

# What the papers' figures are for.
PAPER_INPUT = (224, 224, 3)
PAPER_CLASSES = 1000


@dataclass(frozen=True, slots=True)
class Network:
    """One network. `target`: "module:function" of its builder. `parameters`: weights that training moves, of ours at width 1 with
    `PAPER_INPUT` and `PAPER_CLASSES`; `published_millions`: the same as its authors say. `reductions`: how often it halves its input."""

    name: str
    target: str
    summary: str
    paper: str
    parameters: int
    published_millions: float
    reductions: int = 5


_MOBILE = "converters.networks.mobilenet"
_EFFICIENT = "converters.networks.efficient"
_LITE_PAPER = "Tan and Le, arXiv:1905.11946; Lite: without squeeze-and-excitation, with ReLU6 (github.com/tensorflow/tpu, efficientnet/lite)"

NETWORKS: dict[str, Network] = {
    item.name: item
    for item in (
        Network(
            "mobilenet_v1",
            f"{_MOBILE}:mobilenet_v1",
            "depthwise-separable convolutions, one after the other",
            "Howard et al., arXiv:1704.04861",
            4_231_976,
            4.2,
        ),
        Network(
            "mobilenet_v2",
            f"{_MOBILE}:mobilenet_v2",
            "inverted residuals with linear bottlenecks",
            "Sandler et al., arXiv:1801.04381",
            3_504_872,
            3.4,
        ),
        Network(
            "mobilenet_v3_small",
            f"{_MOBILE}:mobilenet_v3_small",
            "searched inverted residuals with squeeze-and-excitation and hard swish",
            "Howard et al., arXiv:1905.02244",
            2_542_856,
            2.5,
        ),
        Network(
            "mobilenet_v3_large",
            f"{_MOBILE}:mobilenet_v3_large",
            "the same, larger",
            "Howard et al., arXiv:1905.02244",
            5_483_032,
            5.4,
        ),
        Network(
            "mnasnet",
            f"{_EFFICIENT}:mnasnet",
            "MnasNet-A1: inverted residuals of two kernel sizes, some with squeeze-and-excitation, searched for latency",
            "Tan et al., arXiv:1807.11626",
            3_887_038,
            3.9,
        ),
        Network(
            "squeezenet",
            "converters.networks.squeezenet:squeezenet",
            "SqueezeNet 1.0: fire modules, no batch normalization",
            "Iandola et al., arXiv:1602.07360",
            1_248_424,
            1.25,
            reductions=4,
        ),
        Network(
            "shufflenet_v2",
            "converters.networks.shufflenet:shufflenet_v2",
            "channels split, one half convolved, joined and shuffled",
            "Ma et al., arXiv:1807.11164",
            2_278_604,
            2.3,
        ),
        *(
            Network(
                f"efficientnet_lite{number}",
                f"{_EFFICIENT}:efficientnet_lite{number}",
                f"inverted residuals without squeeze-and-excitation, compound scaling {number}",
                _LITE_PAPER,
                parameters,
                published,
            )
            for number, (parameters, published) in enumerate(
                [
                    (4_652_008, 4.7),
                    (5_416_680, 5.4),
                    (6_092_072, 6.1),
                    (8_197_096, 8.2),
                    (13_006_568, 13.0),
                ]
            )
        ),
    )
}


def network(name: str) -> Network:
    """The network of that name. Raises ConversionInputError with a suggestion."""
    found = NETWORKS.get(name)
    if found is None:
        close = difflib.get_close_matches(name, list(NETWORKS), n=1, cutoff=0.5)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise ConversionInputError(f"unknown network {name!r}{hint}", remedy="`harness networks` lists them")
    return found
