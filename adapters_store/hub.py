"""Whether the Hugging Face hub can be reached, found out quickly. Knows no model.

The hub's client tries each file six times with growing pauses, about half a minute, before it
gives up. One connection says the same in seconds; files that were fetched before still load.
"""

import socket
from typing import Final
from urllib.parse import urlsplit
from urllib.request import getproxies

from huggingface_hub import constants

_PATIENCE_S: Final = 5.0


def skip_if_unreachable() -> None:
    """Where no connection is to be had, let the hub's client look at its cache alone."""
    if constants.HF_HUB_OFFLINE or getproxies():  # a proxy is asked by the client itself
        return
    address = urlsplit(constants.ENDPOINT)
    port = address.port or (443 if address.scheme == "https" else 80)
    try:
        socket.create_connection((address.hostname or "", port), _PATIENCE_S).close()
    except OSError:
        constants.HF_HUB_OFFLINE = True
