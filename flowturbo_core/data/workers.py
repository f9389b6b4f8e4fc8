"""Reads data in worker processes. A failure there reaches a person as one sentence."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch.utils.data import DataLoader, Dataset


@dataclass(frozen=True)
class _Refused:
    error: Exception


class _Refusing(Dataset):
    """A data set that returns its errors as values, so that no worker prints a traceback."""

    def __init__(self, data: Dataset):
        self.data = data

    def __getitem__(self, indices: Sequence[int]) -> Any:
        try:
            return self.data[indices]
        except (ValueError, OSError) as error:
            return _Refused(error)


def read_batches(
    data: Dataset, indices: Iterable[Sequence[int]], workers: int, **options: Any
) -> Iterator[Any]:
    """Yield `data[batch]` for each batch of `indices`, read ahead by `workers` processes.

    `options` go to `DataLoader`. ValueError and OSError of `data` are raised unchanged. Raises
    ValueError if a process is ended from outside.
    """
    loader = DataLoader(
        _Refusing(data), sampler=indices, batch_size=None, num_workers=workers, **options
    )
    try:
        for batch in loader:
            if isinstance(batch, _Refused):
                raise batch.error
            yield batch
    except RuntimeError as error:
        if not str(error).startswith("DataLoader worker"):
            raise
        raise ValueError(
            "a process that reads the data was ended by the system, which happens where memory, or "
            "shared memory, is short: ask for fewer --workers, of which 0 needs none"
        ) from error
