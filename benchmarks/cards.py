"""What NVIDIA's data sheets promise of a card: the peaks that a measured figure is held against."""

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


def _card(name: str, fp32: float, tf32: float, bf16: float, terabytes: float, sheet: str) -> Card:
    peak = {"fp32": fp32 * 1e12, "tf32": tf32 * 1e12, "bf16": bf16 * 1e12}
    return Card(name, peak, terabytes * 1e12, f"NVIDIA {sheet} data sheet")


_HOPPER, _H200, _AMPERE = "H100 Tensor Core GPU", "H200 Tensor Core GPU", "A100 Tensor Core GPU"
H100 = _card("H100 SXM", 67, 494, 989, 3.35, _HOPPER)
# the driver's name of a device -> card; the first that is found in it
_KNOWN = (
    (r"\bH200 NVL\b", _card("H200 NVL", 60, 417, 835, 4.8, _H200)),
    (r"\bH200\b", _card("H200 SXM", 67, 494, 989, 4.8, _H200)),
    (r"\bH100 NVL\b", _card("H100 NVL", 60, 417, 835, 3.9, _HOPPER)),
    (r"\bH100 PCIe\b", _card("H100 PCIe", 51, 378, 756, 2.0, _HOPPER)),
    (r"\bH100\b", H100),
    (r"\bA100-SXM\S*-80GB\b", _card("A100 80GB SXM", 19.5, 156, 312, 2.039, _AMPERE)),
    (r"\bA100\b.*80GB\b", _card("A100 80GB PCIe", 19.5, 156, 312, 1.935, _AMPERE)),
    (r"\bA100\b", _card("A100 40GB", 19.5, 156, 312, 1.555, _AMPERE)),
)


def card_of(device: str) -> Card | None:
    """The card of this name, as torch.cuda.get_device_name spells it; None if it is not known."""
    return next((card for pattern, card in _KNOWN if re.search(pattern, device)), None)
