"""A service that only pretends, and events such as it gives."""

from pathlib import Path

from PIL import Image

from demo.service.events import Done, Preview
from demo.service.service import Service
from flowturbo_core.models.catalog import ModelDescription
from flowturbo_core.requests import Classes, Request
from flowturbo_core.timing import Timing

PICTURES = (Image.new("RGB", (8, 8)),)
MODEL = ModelDescription("<fake>", Path("nowhere"), Classes, ("cat", "dog"), True, "H1P5R3", 1.5)
REQUEST = Request.read(MODEL, {"class_names": ["cat"], "seed": 5})
PREVIEW = Preview(PICTURES, REQUEST, 3, kind="P", curvature=None)
DONE = Done(PICTURES, REQUEST, Timing(1, (10.0, 20.1) + (0.0,) * 7, 8.2), 73.04, {"torch": "2"})


class FakeService(Service):
    """A service without a model: what is asked of it comes to the same events each time."""

    def __init__(self, *events):
        super().__init__(MODEL, lambda: None)
        self.events, self.asked, self.closed = events, None, False

    def health(self):
        return {"status": "ready", "model": self.name, "device": "paper", "dtype": "ink"}

    def run(self, request, ticket=None):
        self.asked = request, ticket
        try:
            for event in self.events:
                if isinstance(event, Exception):
                    raise event
                yield event
        finally:
            self.closed = True
