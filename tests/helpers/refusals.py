"""What every refusal of the library looks like."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import pytest

from oracle_engine import InputError


def refused(message: str) -> AbstractContextManager[Any]:
    """Expect an InputError that starts with this, and ends in a remedy."""
    return pytest.raises(InputError, match=rf"^(?=.*\. Remedy: .+\.$){message}")
