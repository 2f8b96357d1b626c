"""A stage that exits before its work is done, with whatever status, has failed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from dni.errors import EndedEarly


@contextmanager
def no_early_exit() -> Iterator[None]:
    """`sys.exit` inside the block raises EndedEarly: the process would end as if all had gone well."""
    try:
        yield
    except SystemExit as error:
        raise EndedEarly(f"it asked to exit with status {error.code or 0} before its work was done") from error
