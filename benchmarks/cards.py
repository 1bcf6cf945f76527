"""What NVIDIA promises of a card: the peaks that a measured figure is held against."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Card:
    """Dense operations a second by precision (fp32: no tensor cores), bytes a second of memory."""

    name: str
    peak: dict[str, float]
    bandwidth: float
    source: str

    def floor(self, operations: float, moved: float, precision: str) -> float:
        """Seconds that no kernel undercuts."""
        return max(operations / self.peak[precision], moved / self.bandwidth)


def _card(name: str, fp32: float, tf32: float, bf16: float, terabytes: float, where: str) -> Card:
    peak = {"fp32": fp32 * 1e12, "tf32": tf32 * 1e12, "bf16": bf16 * 1e12}
    return Card(name, peak, terabytes * 1e12, f"NVIDIA's figures as {where} gives them")


# Pages on which NVIDIA's figures were read; the sheets themselves were not to be had. NVIDIA
# prints what sparsity would double, these are half of it. Cards without a page are not here.
_HOPPER = "https://archive-lib.hpctech.co.jp/gpuproduct/nvidia-h100.html"  # SXM and PCIe
_H200 = "https://glennklockwood.com/garden/processors/h100"  # H100's rates; 4.8 TB/s: openmetal.io
_AMPERE = "https://glennklockwood.com/garden/processors/A100"
_AMPERE_PCIE = "https://www.thundercompute.com/blog/nvidia-a100-specs-full-guide"  # 1,935 GB/s
H100 = _card("H100 SXM", 67, 494, 989, 3.35, _HOPPER)
# the driver's name of a device -> card; others of a family (NVL, GH200, slices) have other peaks
_KNOWN = (
    (r"\bH200$", _card("H200 SXM", 67, 494, 989, 4.8, _H200)),
    (r"\bH100 PCIe$", _card("H100 PCIe", 51, 378, 756, 2.0, _HOPPER)),
    (r"\bH100 80GB HBM3$", H100),
    (r"\bA100-SXM\S*-80GB$", _card("A100 80GB SXM", 19.5, 156, 312, 2.039, _AMPERE)),
    (r"\bA100 80GB PCIe$", _card("A100 80GB PCIe", 19.5, 156, 312, 1.935, _AMPERE_PCIE)),
    (r"\bA100-\S*-40GB$", _card("A100 40GB", 19.5, 156, 312, 1.555, _AMPERE)),
)


def card_of(device: str) -> Card | None:
    """The card of this name, as torch.cuda.get_device_name spells it; None if it is not known."""
    return next((card for pattern, card in _KNOWN if re.search(pattern, device)), None)
