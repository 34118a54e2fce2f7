"""Rootstock: one frozen vision backbone, thousands of tasks. Here: the Python client."""

from rootstock.client import Client, RootstockHTTPError

__version__ = "0.1.0"
__all__ = ["Client", "RootstockHTTPError", "__version__"]
