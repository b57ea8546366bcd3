"""The provider itself: admits a call, asks the model, bills, and lets the fault have its way."""

from __future__ import annotations

import math
import time
from dataclasses import replace
from hashlib import blake2b
from typing import TYPE_CHECKING

from .batches import Endpoint, Refusal
from .call import Ask, Call, Json
from .errors import JSON, Status, status, unauthorized
from .fault import Fault
from .http1 import Answer, Delivery, Head, Headers, render
from .limits import Limits
from .reply import Problem, Reply, Usage
from .scripts import pick
from .wires.registry import Registry
from .wires.wire import Turn, Wire, dump, load

if TYPE_CHECKING:
    from .record import Record
    from .server import Simulator

_HEALTHY = Fault()


def rough_tokens(text: str) -> int:
    """Count a token for every four bytes, rounded up: near enough, the same everywhere."""
    return (len(text.encode("utf-8", "surrogatepass")) + 3) // 4


class Provider:
    """Turns calls into deliveries; knows no sockets and no clock but the one it is given."""

    def __init__(self, behaviour: Simulator, record: Record) -> None:
        self.behaviour = behaviour
        self.record = record
        self._limits = Limits(behaviour.rpm, behaviour.tpm)
        self._limited = bool(behaviour.rpm or behaviour.tpm)
        self._registry = Registry(("sim-small", "sim-large"))
        self._batches = behaviour.batches
        self._batches.answerer = self

    def receive(self, head: Head, raw: bytes, connection: int) -> Call:
        """Make the record of a request that has arrived."""
        wire = self._registry.find(head.method, head.path)
        key = blake2b(raw, digest_size=8).hexdigest() if raw else f"{head.method} {head.path}"
        body, ask = _read(wire, head, raw)
        place = head.method, head.path, head.query, head.headers
        call = Call(*place, raw, key, connection, time.monotonic(), body=body, ask=ask)
        self.record.arrived(call)
        if self.behaviour.prompt_caches is not None:
            self.behaviour.prompt_caches.arrived(call)
        return call

    def decide(self, call: Call, now: float) -> Fault:
        """Choose what happens to a call: a refusal, the script's fault, or nothing bad."""
        for admin in (self.behaviour.key_admin, self.behaviour.bills):
            if admin is not None and admin.serves(call):
                return pick(self.behaviour.fault, call) or admin
        fault = self._refusal(call, now) or self._of_batches(call)
        fault = fault or pick(self.behaviour.fault, call)
        if fault is None:
            return _HEALTHY
        call.fault = fault.name
        return fault

    def answer(self, call: Call, fault: Fault, now: float, *, close: bool) -> Delivery:
        """Make the answer, bill it, and give the bytes as the fault lets them out."""
        wire = self._registry.find(call.method, call.path) or self._registry.default(call.path)
        answer = fault.instead(call, wire) or self._ask(call, wire, fault)
        answer = fault.answer(answer, wire)
        call.status = answer.status
        named = ((wire.names, f"req_{call.index:08d}"),) if wire.names else ()
        extra: Headers = (*named, *self.behaviour.headers.items())
        if self._limited:
            extra += wire.rate_headers(self._limits.standing(now))
        delivery = render(answer, extra, close=close)
        if answer.chunked and self.behaviour.stream_interval:
            delivery = replace(delivery, interval=self.behaviour.stream_interval)
        delivery = fault.deliver(delivery)
        if not delivery.segments:
            call.status = None
        return delivery

    def prepare(self, call: Call) -> Wire | None:
        """Read what a batch's row asks for into `call.ask`; the wire it is for, or None."""
        wire = self._registry.find(call.method, call.path)
        if wire is not None:
            call.ask = _asked(wire, call.body or {}, call.path)
        return wire

    def answer_row(self, call: Call, fault: Fault | None) -> Answer:
        """Answer and bill a batch's row as an online call of its own."""
        wire = self._registry.find(call.method, call.path)
        shown = wire or self._registry.default(call.path)
        chosen = self._objection(call, wire) or fault or _HEALTHY
        if call.ask is not None and call.ask.stream:
            chosen = status(400, "Batches do not stream.")
        answer = chosen.instead(call, shown) or self._ask(call, shown, chosen)
        return chosen.answer(answer, shown)

    def input_tokens(self, call: Call) -> int:
        """The tokens of what a batch's row says to the model."""
        return rough_tokens(call.prompt)

    def _of_batches(self, call: Call) -> Fault | None:
        wire = self._registry.find(call.method, call.path)
        if not isinstance(wire, Endpoint):
            return None
        return pick(self._batches.settings.faults.get(wire.action), call)

    def _refusal(self, call: Call, now: float) -> Fault | None:
        wire = self._registry.find(call.method, call.path)
        keys = None if wire is None or wire.public else self.behaviour.keys
        if wire is not None and keys is not None and wire.key(call.headers) not in keys:
            return unauthorized()
        objection = self._objection(call, wire)
        if objection is not None:
            return objection
        if call.ask is None or wire is None or not self._limited or wire.billing == "free":
            return None
        tokens = rough_tokens(call.prompt) + (call.ask.max_tokens or 0)
        wait = self._limits.admit(tokens, now)
        return _over_limit(wait) if wait else None

    def _objection(self, call: Call, wire: Wire | None) -> Fault | None:
        if wire is None:
            return status(404, f"Unknown request URL: {call.method} {call.path}")
        if call.ask is None:
            return status(400, "We could not parse the JSON body of your request.")
        objection = wire.objection(call)
        return None if objection is None else status(400, objection)

    def _ask(self, call: Call, wire: Wire, fault: Fault) -> Answer:
        if isinstance(wire, Endpoint):
            return self._serve(call, wire)
        ask = call.ask or Ask(model="")
        said = Reply()
        if wire.billing == "generation":
            given = self.behaviour.reply(call)
            said = fault.reply(Reply(given) if isinstance(given, str) else given)
        said, usage = self._counted(ask, said)
        caches = self.behaviour.prompt_caches
        if caches is not None and wire.billing == "generation":
            usage = caches.used(call, usage)
        if wire.billing != "free" and fault.billed:
            self.record.bill(call, usage)
        turn = Turn(call, ask, said, usage, int(time.time()))
        if ask.stream:
            headers = (("content-type", wire.stream_type), ("cache-control", "no-cache"))
            return Answer(200, headers, wire.events(turn), chunked=True)
        return Answer(200, (JSON,), (dump(wire.whole(turn)),))

    def _serve(self, call: Call, wire: Endpoint) -> Answer:
        try:
            return wire.serve(call, self._batches)
        except Refusal as refusal:
            code, body = wire.refuse(refusal.status, refusal.problem)
            return Answer(code, (JSON,), (dump(body),))

    def _counted(self, ask: Ask, said: Reply) -> tuple[Reply, Usage]:
        if said.usage is not None:
            return said, said.usage
        spoken = [said.text, said.refusal or "", *(tool.arguments for tool in said.tool_calls)]
        output = sum(rough_tokens(text) for text in spoken if text)
        limit = ask.max_tokens
        if limit is not None and output > limit:
            cut = said.text.encode("utf-8", "surrogatepass")[: limit * 4]
            said = replace(said, text=cut.decode(errors="ignore"), finish="length", pieces=None)
            output = limit
        return said, Usage(rough_tokens(ask.prompt), output)


def _read(wire: Wire | None, head: Head, raw: bytes) -> tuple[Json | None, Ask | None]:
    if wire is not None and wire.takes_bytes:
        return None, wire.read({}, head.path)
    try:
        body = load(raw) if raw else {}
    except (ValueError, TypeError, RecursionError):
        return None, None
    return body, _asked(wire, body, head.path) if wire else None


def _asked(wire: Wire, body: Json, path: str) -> Ask | None:
    try:
        return wire.read(body, path)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def _over_limit(wait: float) -> Status:
    """Refuse as OpenAI does, with the wait in both headers (whole seconds are rounded up)."""
    headers = {"retry-after": str(math.ceil(wait)), "retry-after-ms": str(math.ceil(wait * 1000))}
    message = f"Rate limit reached. Please try again in {wait:.3f}s."
    problem = Problem(message, "requests", "rate_limit_exceeded")
    return Status(status=429, problem=problem, headers=headers)
