"""The expected form of every InputError of the library."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import pytest

from oracle_engine import InputError


def refused(message: str) -> AbstractContextManager[Any]:
    """Return a context that expects an InputError which starts with the pattern `message` and ends in a remedy."""
    return pytest.raises(InputError, match=rf"^(?=.*\. Remedy: .+\.$){message}")
