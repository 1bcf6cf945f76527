"""The same run on many machines: parts of the members, trained anywhere, merged here."""

from compfast.cluster.driver import Cluster, remove_parts, sweep

__all__ = ["Cluster", "remove_parts", "sweep"]
