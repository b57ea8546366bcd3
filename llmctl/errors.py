"""Every error llmctl raises, and what each means to a script.

    LlmctlError                    1   anything below; message = what happened and what to do next
    ├── UsageError                 2   the command line, or a combination of options
    ├── ConfigError                2   configuration; names file, line and the nearest valid name
    ├── InputError                 2   the input file; nothing was sent
    ├── SetupError                 2   something must be installed first; names the command
    ├── NoKeyError                 4   no key found for a profile
    ├── RotationDue                7   a key is too old, and a person has to make the new one
    ├── DiskError                 74   the disk, or a coordinator, refused a write
    │   └── CoordinatorError      74   what machines share cannot be asked
    ├── BusyError                 75   another llmctl holds the file
    └── CallError                  1   one call failed; `type` is the row's error type
        ├── InvalidRequest         1   invalid_request  (2 when refused before sending)
        │   └── IdentifiersFound   1   pii              (refused before sending)
        ├── AuthFailed             4   auth             (terminal for the whole run)
        ├── PermissionRefused      4   permission
        ├── NotFound               1   not_found
        ├── ContextTooLong         1   context_length   (2 when refused before sending)
        ├── QuotaExhausted         5   quota            (terminal for the whole run)
        ├── RateLimited            5   rate_limited     retryable
        ├── Overloaded             5   overloaded       retryable
        ├── ProviderDown           5   type of its cause; retryable, but for a quota; not sent
        ├── ServerFailed           5   server           retryable
        ├── CallTimeout            5   timeout          retryable, may have been billed
        ├── ConnectionFailed       5   connection       retryable
        ├── Unavailable            5   unavailable      retryable; a static text is no answer
        ├── Queued                 6   queued           kept, and sent by `llmctl queue run`
        ├── BadResponse            1   bad_response     retryable, may have been billed
        │   └── NoAnswer           1   bad_response     billed: carries usage, cost and text
        ├── ContentFiltered        1   content_filter
        ├── DataRefused            2   data             (refused before sending)
        ├── SchemaMismatch         1   schema           (billed: carries usage and cost)
        ├── BudgetRefused          3   budget           (refused before sending)
        │   ├── BudgetExhausted    3   budget           (terminal for the whole run)
        │   ├── BudgetHeld         3   budget           retryable; calls under way hold the rest
        │   └── Unpriced           3   budget           nobody knows what the call may cost
        ├── Cancelled            130   cancelled
        └── Interrupted            5   type of its cause; broke off after its first token

The exit code and the row type belong to the error; nothing else in the program maps them.
"""

from __future__ import annotations

import copy
from decimal import Decimal
from typing import Any, ClassVar

EXIT_CODES: tuple[tuple[str, str], ...] = (
    ("0", "done: every row has an answer; within budget"),
    ("1", "some rows failed, or the call failed for a reason not below"),
    ("2", "usage, configuration or input error; nothing was sent"),
    ("3", "a budget is, or would be, exceeded"),
    ("4", "no usable key, or the provider refused it"),
    ("5", "the provider, and every fallback, is unavailable"),
    ("6", "accepted, not finished, or queued; the same command fetches"),
    ("7", "a key is due for rotation (`keys rotate --every`)"),
    ("74", "the disk (or coordinator) refused a write: nothing more was sent"),
    ("75", "another llmctl holds this output file or state"),
    ("130 / 143", "interrupted by SIGINT / SIGTERM; the same command resumes"),
)
"""Exit codes as `--help` prints them."""


class LlmctlError(Exception):
    """Base of all errors a user sees: one sentence, what happened and what to do next.

    `reported`: with `--json` a record of it is out already, or stdout is not the place for one.
    """

    type: ClassVar[str] = "internal"
    exit_code: int = 1
    reported: bool = False

    @property
    def message(self) -> str:
        """The sentence for the user."""
        return str(self)

    @property
    def fields(self) -> dict[str, Any]:
        """The `error` of a JSON object."""
        return {"type": self.type, "message": self.message}


class UsageError(LlmctlError):
    """The command line asks for something that cannot be done."""

    type = "usage"
    exit_code = 2


class ConfigError(LlmctlError):
    """A configuration file or variable is wrong."""

    type = "config"
    exit_code = 2


class InputError(LlmctlError):
    """The input, or the output it should continue, is wrong; nothing was sent."""

    type = "input"
    exit_code = 2


class SetupError(LlmctlError):
    """Something is not installed; the message names the one command that mends it."""

    type = "setup"
    exit_code = 2


class NoKeyError(LlmctlError):
    """No key was found where the profile says it should be."""

    type = "no_key"
    exit_code = 4


class RotationDue(LlmctlError):
    """A key is older than it may be, and nothing here can make a new one."""

    type = "rotation_due"
    exit_code = 7


class DiskError(LlmctlError):
    """The disk refused a read or a write that the run depends on."""

    type = "disk"
    exit_code = 74


class CoordinatorError(DiskError):
    """What several machines share cannot be asked: nothing may be sent."""

    type = "coordinator"


class BusyError(LlmctlError):
    """Another process holds the output file or the state."""

    type = "busy"
    exit_code = 75


class CallError(LlmctlError):
    """One call to a provider failed.

    Attributes:
        type: the `error.type` of a row, but for errors with a `cause`: see `row_type`.
        retryable: the same call may succeed later.
        ambiguous: the provider may have done (and billed) the work although no answer arrived.
        fatal_to_run: every other call with the same key would fail alike.
        sent: False when the program refused the call itself (exit code 2 instead of 1).
        retry_after: seconds.
        attempts, uncertain, limited: attempts made, those that may have been billed without an
            answer, and those that met a rate limit; `elsewhere` of the attempts were made at
            other profiles, and are on record there.
        held: the call is on record and must be settled.
        excused: the provider was down for all: the row is not to blame.
        refused_for: seconds in which the circuit breaker would refuse another attempt.
        kept_ended: the server closed a kept connection instead of answering on it, or one while
            this program was stopped: no attempt of the policy's, and no outage.
        cause: what broke the stream, or was last heard of a provider that is down.
        others_up: another server of the profile may be in service: no outage of the profile's.
        target: the `types.Target` that was asked, where the profile has several servers.
        route: the `types.RouteDecision`, where there was a choice.
        request: the one that failed, where a fallback was asked another one than the caller's.
        usage, cost: a `types.Usage` and the provider's own figure, where it was billed.
        earlier: the same of attempts before it, as `types.Billed`.
        text: what was paid for and is no answer; None where it was shown already.
        summary: the `types.Summary` that was made of the prompt before it.
        server_time: seconds since the epoch, as the reply's `Date` says.

    """

    type: ClassVar[str] = "invalid_request"
    retryable: bool = False
    ambiguous: bool = False
    fatal_to_run: ClassVar[bool] = False

    def __init__(
        self,
        message: str,
        *,
        http_status: int | None = None,
        provider_request_id: str | None = None,
        retry_after: float | None = None,
        retryable: bool | None = None,
        ambiguous: bool | None = None,
        sent: bool = True,
        cause: CallError | None = None,
    ) -> None:
        super().__init__(message)
        self.http_status = http_status
        self.provider_request_id = provider_request_id
        self.retry_after = retry_after
        self.retryable = type(self).retryable if retryable is None else retryable
        self.ambiguous = type(self).ambiguous if ambiguous is None else ambiguous
        self.sent = sent
        self.cause = cause
        self.attempts = self.uncertain = self.limited = self.elsewhere = 0
        self.refused_for = 0.0
        self.held = self.excused = self.kept_ended = self.others_up = False
        self.target: Any = None
        self.request: Any = None
        self.route: Any = None
        self.usage: Any = None
        self.cost: Decimal | None = None
        self.earlier: tuple[Any, ...] = ()
        self.text: str | None = None
        self.summary: Any = None
        self.server_time: float | None = None
        if not sent and self.exit_code == 1:
            self.exit_code = 2  # nothing was sent: what was asked for cannot be right

    @property
    def row_type(self) -> str:
        """The `error.type` of an error row."""
        return self.type if self.cause is None else self.cause.row_type

    @property
    def fields(self) -> dict[str, Any]:
        """The `error` of an error row."""
        return {
            "type": self.row_type,
            "message": self.message,
            "http_status": self.http_status,
            "retryable": self.retryable,
            "provider_request_id": self.provider_request_id,
        }

    def unbilled(self) -> CallError:
        """The error as another call meets it that waited for this one, and was not sent."""
        other = copy.copy(self)
        other.usage = other.cost = None
        other.earlier = ()
        other.attempts = other.uncertain = other.limited = other.elsewhere = 0
        other.ambiguous = other.held = False
        return other

    def __copy__(self) -> CallError:
        other = type(self).__new__(type(self), *self.args)
        other.__dict__.update(self.__dict__)
        return other


class InvalidRequest(CallError):
    """The provider (or llmctl, before sending) refused what was asked."""


class IdentifiersFound(InvalidRequest):
    """The question holds what its profile lets nobody send; the message never repeats it."""

    type = "pii"

    def __init__(self, message: str) -> None:
        super().__init__(message, sent=False)


class AuthFailed(CallError):
    """The provider does not accept the key."""

    type = "auth"
    exit_code = 4
    fatal_to_run = True


class PermissionRefused(CallError):
    """The key is known but may not do this."""

    type = "permission"
    exit_code = 4


class NotFound(CallError):
    """No such model or endpoint."""

    type = "not_found"


class ContextTooLong(CallError):
    """Prompt and `max_tokens` do not fit the model's window."""

    type = "context_length"


class QuotaExhausted(CallError):
    """The account has no credit left: waiting does not help."""

    type = "quota"
    exit_code = 5
    fatal_to_run = True


class RateLimited(CallError):
    """Too many requests or tokens for now."""

    type = "rate_limited"
    exit_code = 5
    retryable = True


class Overloaded(CallError):
    """The provider says it is overloaded."""

    type = "overloaded"
    exit_code = 5
    retryable = True


class ProviderDown(CallError):
    """Nothing is sent while the provider counts as down; `reached`: it has replied before.

    The same call may succeed later, but not in this run: no attempt is made while it lasts.
    """

    type = "overloaded"
    exit_code = 5

    def __init__(
        self, where: str, cause: CallError | None, retry_after: float, *, reached: bool = False
    ) -> None:
        said = f" ({cause.message})" if cause is not None else ""
        passes = not isinstance(cause, QuotaExhausted)
        later = f"try again in {max(retry_after, 1):.0f} s, or " if passes else ""
        super().__init__(
            f"{where} is {'down' if passes else 'not called'}{said}: not sent; {later}name another "
            "profile (`fallback:`)",
            http_status=None if cause is None else cause.http_status,
            retry_after=retry_after,
            retryable=passes,
            sent=False,
            cause=cause,
        )
        self.reached = reached


class ServerFailed(CallError):
    """The provider failed (5xx)."""

    type = "server"
    exit_code = 5
    retryable = True


class CallTimeout(CallError):
    """No answer in time; the provider may still have done the work."""

    type = "timeout"
    exit_code = 5
    retryable = True
    ambiguous = True


class ConnectionFailed(CallError):
    """The connection could not be made, or broke; `ambiguous` once the request was sent."""

    type = "connection"
    exit_code = 5
    retryable = True


class Unavailable(CallError):
    """The provider is down, and what the profile says instead is no answer to a row. `outage` is
    what the call met, whose bill it carries."""

    type = "unavailable"
    exit_code = 5
    retryable = True

    def __init__(self, message: str, outage: CallError) -> None:
        super().__init__(message)
        self.__dict__.update({**outage.__dict__, "cause": None})


class Queued(CallError):
    """The provider is down, and the call is kept for later: `outage` is what it met, whose bill it
    carries, `queue_id` what it is found by in the queue, `static` a text to give meanwhile."""

    type = "queued"
    exit_code = 6
    retryable = True

    def __init__(self, message: str, outage: CallError, queue_id: str, static: str = "") -> None:
        super().__init__(message)
        self.__dict__.update({**outage.__dict__, "cause": None})
        self.queue_id, self.static = queue_id, static


class BadResponse(CallError):
    """The provider answered with something that is not an answer."""

    type = "bad_response"
    retryable = True
    ambiguous = True


class NoAnswer(BadResponse):
    """The model ended for a reason that makes no answer, or without a word."""

    ambiguous = False


class ContentFiltered(CallError):
    """The provider refused to answer for reasons of content."""

    type = "content_filter"


class DataRefused(CallError):
    """The call may not be sent there by the rules of where data may go (`data:`); `rule` is the one
    that forbids it, in a few words without the profile's name."""

    type = "data"
    exit_code = 2

    def __init__(self, message: str, rule: str = "") -> None:
        super().__init__(message, sent=False)
        self.rule = rule


class SchemaMismatch(CallError):
    """The answer came, and was billed, but does not fit the schema."""

    type = "schema"


class BudgetRefused(CallError):
    """The call may cost more than a budget allows a single one, or nothing bounds how much;
    `window` is that budget's `protocols.BudgetWindow`, None where it is any."""

    type = "budget"
    exit_code = 3

    window: Any = None


class Unpriced(BudgetRefused):
    """Nobody knows what the call may cost, so no budget can hold it."""


class BudgetExhausted(BudgetRefused):
    """What a budget has left is less than the call may cost, and nothing will come back."""

    fatal_to_run = True


class BudgetHeld(BudgetRefused):
    """What calls under way leave of a budget is less than the call may cost; they may use less."""

    retryable = True


class Cancelled(CallError):
    """The call was given up: the user interrupted, or the run stopped before it was sent."""

    type = "cancelled"
    exit_code = 130
    retryable = True


class Interrupted(CallError):
    """A stream broke after its first token was shown; trying again would say it twice."""

    exit_code = 5
    ambiguous = True

    def __init__(self, cause: CallError) -> None:
        super().__init__(
            f"the answer broke off: {cause.message}",
            http_status=cause.http_status,
            provider_request_id=cause.provider_request_id,
            cause=cause,
        )
