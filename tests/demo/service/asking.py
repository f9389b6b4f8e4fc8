"""What the tests of the service ask it for."""

from demo.service.tickets import Ticket

ASKED = {
    "class_names": ["cat"],
    "heun": 1,
    "pseudo": 5,
    "refiner": 3,
    "guidance_scale": 1.5,
    "num_images": 1,
    "seed": 0,
    "randomise": False,
}


def ask(service, visitor=None, number=0, **changes):
    ticket = None if visitor is None else Ticket(visitor, number)
    return service.run(service.request(ASKED | changes), ticket)
