"""What callers are told of errors: what concerns their request, and nothing of the host."""

from __future__ import annotations

from decimal import Decimal

import pytest

from llmctl.errors import (
    BadResponse,
    CallError,
    CallTimeout,
    ConnectionFailed,
    Interrupted,
    ProviderDown,
    Unpriced,
)
from llmctl.gateway.failures import failure_of
from llmctl.protocols import BudgetWindow

HOST = "llm.internal:8000"
LOST = ConnectionFailed(f"no connection to {HOST}; check the network and `base_url`")
WINDOW = BudgetWindow("caller", "a day for user ada", Decimal(5), 0, 1000, {"user": "ada"})


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (LOST, 502),
        (CallTimeout(f"{HOST} did not answer within 30 s (`timeout.total` of the profile)"), 504),
        (Interrupted(ConnectionFailed(f"the connection to {HOST} broke (reset)")), 502),
        (ProviderDown(f"profile a at {HOST}", LOST, 30.0), 503),
        (BadResponse(f"a redirect to 'https://{HOST}'; mend `base_url`", http_status=302), 502),
    ],
)
def test_addresses_stay_on_the_host(error: CallError, status: int) -> None:
    """Whatever befell the connection, a caller learns neither the provider's address nor what the
    configuration calls it."""
    told = failure_of(error, 0.0)
    assert told.status == status
    assert told.message
    assert HOST not in told.message
    assert "base_url" not in told.message
    assert "profile" not in told.message


def test_an_unknown_price_is_no_matter_of_the_answer_s_length() -> None:
    """Where the price is not known a caller is not told to lower `max_tokens`, which cannot help,
    nor what the operator has to set."""
    error = Unpriced("the price of x is not known: set `price:` in profile x", sent=False)
    error.window = WINDOW
    told = failure_of(error, 0.0)
    assert (told.status, told.kind) == (402, "budget")
    assert "price" in told.message
    assert "max_tokens" not in told.message
    assert "profile" not in told.message
