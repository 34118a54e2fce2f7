"""Which language is spoken by which kind of target."""

from collections.abc import Sequence

from loadtest.images import Picture
from loadtest.scenario import Target as Asked
from loadtest.targets.oip import OpenInference
from loadtest.targets.plain import Plain
from loadtest.targets.protocol import Target
from loadtest.targets.rootstock import Rootstock
from loadtest.wire import origin_of


def target(asked: Asked, names: Sequence[str], pictures: Sequence[Picture]) -> Target:
    """A target for these tasks and images.

    Raises:
        ScenarioError: its URL is none.
    """
    origin = origin_of(asked.url)
    match asked.kind:
        case "rootstock":
            return Rootstock(origin, asked.headers, names, pictures)
        case "oip":
            return OpenInference(origin, asked, names, pictures)
        case "plain":
            return Plain(origin, asked, names, pictures)
