"""Models that are fetched from a hub while the page is open, once for all who look at it."""

from collections.abc import Callable, Iterator
from threading import Lock, Thread

from demo.service.events import Fetching
from flowturbo_core.making.hub import Fetched, fetch
from flowturbo_core.models.catalog import HubModel


class Download:
    """The fetching of one model: begun by whoever first asks, and followed by anybody.

    Args:
        model: what the catalogue says of it.
        fetch: fetches it, yielding how much has arrived; raises ValueError if it cannot.
    """

    def __init__(self, model: HubModel, fetch: Callable[[HubModel], Iterator[Fetched]] = fetch):
        self.model, self._fetch = model, fetch
        self._lock = Lock()
        self._state = Fetching("here" if model.is_here else "absent")

    @property
    def state(self) -> Fetching:
        """How it stands."""
        return self._state

    def begin(self) -> None:
        """Begin it, or begin it again if it failed; what runs, or is here, is left alone."""
        with self._lock:
            if self._state.status not in ("absent", "failed"):
                return
            self._state = Fetching("arriving")
        # It goes on when the page is closed: whoever comes back finds it further on.
        Thread(target=self._run, name=f"download {self.model.name}", daemon=True).start()

    def _run(self) -> None:
        try:
            for fetched in self._fetch(self.model):
                self._state = Fetching("arriving", fetched.done, fetched.total)
            self._state = Fetching("here")
        except Exception as error:  # noqa: BLE001 - nobody else would hear of it
            self._state = Fetching("failed", error=str(error))
