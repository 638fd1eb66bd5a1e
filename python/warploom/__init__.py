"""warploom: kernels and collectives for large-model systems."""

from warploom._core import DeviceError, version

__version__ = version()
__all__ = ["DeviceError", "__version__"]
