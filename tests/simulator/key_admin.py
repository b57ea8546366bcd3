"""The administration of keys at OpenAI, OpenRouter and Anthropic."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from urllib.parse import parse_qs

from .call import Call, Json
from .errors import JSON, unauthorized
from .fault import Fault
from .http1 import Answer
from .wires.wire import Wire, dump

_ACCOUNTS = r"/v1/organization/projects/proj_sim/service_accounts(?:/([^/]+))?"
_KEYS = r"/openrouter/api/v1/keys(?:/([^/]+))?"
_HINTS = r"/anthropic/v1/organizations/api_keys(?:/([^/]+))?"


@dataclass(kw_only=True)
class Listed:
    """A key as its provider knows it; `limit` in dollars."""

    name: str
    value: str
    limit: float | None = None


@dataclass(frozen=True, kw_only=True)
class KeyAdmin(Fault):
    """Answers to the admin `key` alone, on `sim.key_admin`.

    `keys` are those there are, by id; `changed` gets their values after each change. `page`: how
    many are listed at a time.
    """

    key: str
    changed: Callable[[list[str]], object] = lambda _: None
    keys: dict[str, Listed] = field(default_factory=dict)
    page: int = 2

    def serves(self, call: Call) -> bool:
        """Whether the request is about keys."""
        return any(re.fullmatch(form, call.path) for form in (_ACCOUNTS, _KEYS, _HINTS))

    def instead(self, call: Call, wire: Wire) -> Answer | None:
        """Do what is asked."""
        if call.api_key != self.key:
            return unauthorized().instead(call, wire)
        for form, answer in ((_ACCOUNTS, self._openai), (_KEYS, self._openrouter)):
            if found := re.fullmatch(form, call.path):
                return _answer(answer(call, found[1]))
        found = re.fullmatch(_HINTS, call.path)
        assert found
        return _answer(self._anthropic(call, found[1]))

    def _add(self, call: Call) -> tuple[str, Listed]:
        body = call.body or {}
        number = 9001 + call.index
        made = Listed(name=body["name"], value=f"sk-made-key-{number}", limit=body.get("limit"))
        self.keys[f"id_{number}"] = made
        self.changed([one.value for one in self.keys.values()])
        return f"id_{number}", made

    def _remove(self, name: str) -> bool:
        gone = self.keys.pop(name, None)
        self.changed([one.value for one in self.keys.values()])
        return gone is not None

    def _openai(self, call: Call, name: str | None) -> Json | None:
        if call.method == "POST":
            identity, made = self._add(call)
            return {"id": identity, "name": made.name, "api_key": {"id": "k", "value": made.value}}
        if name is not None:
            return {"id": name, "deleted": True} if self._remove(name) else None
        names = list(self.keys)
        after = parse_qs(call.query).get("after", [""])[0]
        start = names.index(after) + 1 if after else 0
        shown = names[start : start + self.page]
        rows = [{"id": each, "name": self.keys[each].name} for each in shown]
        more = start + self.page < len(names)
        return {"data": rows, "has_more": more, "last_id": shown[-1] if shown else None}

    def _openrouter(self, call: Call, name: str | None) -> Json | None:
        if call.method == "POST":
            identity, made = self._add(call)
            return {"key": made.value, "data": {"hash": identity, "name": made.name}}
        if call.method == "DELETE" and name is not None:
            return {"deleted": True} if self._remove(name) else None
        if name is not None:
            one = self.keys.get(name)
            return {"data": {"hash": name, "name": one.name, "limit": one.limit}} if one else None
        start = int(parse_qs(call.query).get("offset", ["0"])[0])
        shown = list(self.keys.items())[start : start + self.page]
        return {"data": [{"hash": each, "name": one.name} for each, one in shown]}

    def _anthropic(self, call: Call, name: str | None) -> Json | None:
        if name is not None:
            assert call.body == {"status": "inactive"}
            return {"id": name, "status": "inactive"} if self._remove(name) else None
        rows = [
            {"id": each, "partial_key_hint": f"{one.value[:16]}...{one.value[-4:]}"}
            for each, one in self.keys.items()
        ]
        return {"data": rows, "has_more": False, "last_id": None}


def _answer(body: Json | None) -> Answer:
    if body is None:
        return Answer(404, (JSON,), (dump({"error": {"message": "No such key"}}),))
    return Answer(200, (JSON,), (dump(body),))
