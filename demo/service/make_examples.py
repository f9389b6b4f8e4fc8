"""Makes again what the page opens with: `python -m demo.service.make_examples`."""

from contextlib import closing

from demo.service import examples
from demo.service.events import Done, Preview
from demo.service.service import Service
from flowturbo_core.models.catalog import bundled_pipelines
from flowturbo_core.models.front import weights_hash


def make(service: Service) -> None:
    """Run the service's model at what its page opens with, and write what comes of it."""
    from flowturbo_core.devices import describe_device

    engine = service.wait()
    previews: list[Preview] = []
    with closing(service.run(service.opening)) as events:
        for event in events:
            if isinstance(event, Preview):
                previews.append(event)
            if isinstance(event, Done):
                machine = f"{describe_device(engine.pipeline.device)}, {engine.dtype}"
                weights = weights_hash(service.model.folder)
                examples.write(examples.FOLDER / service.name, previews, event, machine, weights)


if __name__ == "__main__":
    for name in bundled_pipelines():
        make(Service.load(name))
