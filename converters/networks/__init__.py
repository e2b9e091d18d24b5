"""Compact networks by name, ready as bases and as students: built from their papers, never downloaded.

`catalogue` says which there are, `build` makes one; the builders import Keras, and only when they are called.
"""

from converters.networks.building import build
from converters.networks.catalogue import NETWORKS, Network, network

__all__ = ["NETWORKS", "Network", "build", "network"]
