"""Requests are masked wherever they hold text, and nowhere else."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from msgspec.structs import replace

from llmctl.types import Masked, Message, RawRequest, Request, fingerprint
from tests.support import MASKER, TARGET

MAIL, PHONE, KEY = "mary.poe@example.com", "+1 415-555-2671", "sk-proj-" + "aB3dE5fG7h" * 4
IMAGE = "data:image/png;base64," + base64.b64encode(bytes(range(256)) * 4).decode()


def asked(*messages: Message, **more: Any) -> Request:
    """A request with its fingerprint."""
    made = Request("1", TARGET, messages, **more)
    return replace(made, fingerprint=fingerprint(made))


def user(content: Any, **extra: Any) -> Message:
    """A turn of the user's."""
    return Message("user", content, extra)


def raw(**body: Any) -> Request:
    """A body to pass through."""
    return asked(raw=RawRequest("/chat/completions", {"model": "gpt-5-mini", **body}))


def said(request: Request) -> str:
    """All that would be sent."""
    turns = [message.as_json() for message in request.messages]
    return json.dumps([turns, request.options, request.raw and [request.raw.body]])


def test_every_text_is_masked() -> None:
    """Prompts, system texts, parts, names, tools' descriptions, calls in the history and their
    results go out as tokens; a value has one token in all of them, and comes back from it."""
    call = {"name": "find", "arguments": json.dumps({"to": MAIL, "note": f"call\n{PHONE}"})}
    tool = {"type": "function", "function": {"name": "find", "description": f"ask {MAIL}"}}
    made = MASKER(
        asked(
            Message("system", f"you serve {MAIL}"),
            user(({"type": "text", "text": f"I am {MAIL}, {PHONE}"},), name=MAIL),
            Message("assistant", None, {"tool_calls": [{"id": "c1", "function": call}]}),
            Message("tool", f"found {PHONE}", {"tool_call_id": "c1"}),
            options={"tools": [tool], "user": MAIL},
        )
    )
    assert made.masked is not None
    assert (MAIL in said(made), PHONE in said(made)) == (False, False)
    assert made.masked.counts == {"email": 6, "phone": 3}
    assert sorted(made.masked.values.values()) == sorted([MAIL, PHONE])
    arguments = json.loads(made.messages[2].extra["tool_calls"][0]["function"]["arguments"])
    assert arguments["to"] in made.masked.values


@pytest.mark.parametrize(
    "body",
    [
        {"messages": [{"role": "user", "content": MAIL}], "metadata": {"who": MAIL}},
        {"input": MAIL, "instructions": f"for {MAIL}"},
        {"input": [MAIL, "b"]},
        {"input": [{"role": "user", "content": [{"type": "input_text", "text": MAIL}]}]},
        {"messages": [], "system": [{"type": "text", "text": MAIL}]},
        {"messages": [{"role": "a", "content": [{"type": "tool_use", "input": {MAIL: MAIL}}]}]},
        {"messages": [{"role": "a", "content": [{"type": "tool_result", "content": MAIL}]}]},
        {"input": [{"type": "function_call", "arguments": f'{{"to": "{MAIL}"}}'}]},
        {"messages": [{"content": [{"source": {"type": "text", "data": f"a {MAIL}"}}]}]},
        {"prompt": f"data:,{MAIL}"},
    ],
)
def test_bodies_of_every_language_are_masked(body: dict[str, Any]) -> None:
    """Bodies that are passed through go out as tokens, whatever language they are in."""
    made = MASKER(raw(**body))
    assert MAIL not in said(made)
    assert made.masked is not None
    assert made.masked.counts["email"] >= 1


def test_text_in_base64_is_masked_and_bytes_are_not() -> None:
    """A data URL of text is opened; one of an image, and base64 of sound, stay byte for byte."""
    text = "data:text/plain;base64," + base64.b64encode(f"I am {MAIL}".encode()).decode()
    sound = {"type": "input_audio", "input_audio": {"data": "4155552671" * 4, "format": "wav"}}
    parts = (
        {"type": "file", "file": {"filename": "a.txt", "file_data": text}},
        {"type": "image_url", "image_url": {"url": IMAGE}},
        sound,
    )
    made = MASKER(asked(user(parts)))
    content = made.messages[0].content
    assert isinstance(content, tuple)
    inner = base64.b64decode(content[0]["file"]["file_data"].partition(",")[2])
    assert (MAIL.encode() in inner, b"[[EMAIL_" in inner) == (False, True)
    assert content[1:] == parts[1:]


def test_schemas_models_and_ids_stay() -> None:
    """What the provider compares, and schemas, go as they are."""
    schema = {"type": "object", "properties": {"to": {"default": MAIL}}}
    tools = [{"type": "function", "name": "f", "parameters": schema}]
    kept = {"model": "gpt-5-mini", "response_format": schema, "tools": tools, "seed": 4155552671}
    made = MASKER(raw(messages=[{"role": "user", "id": MAIL, "content": "hi"}], **kept))
    assert made.masked == Masked()


def test_nothing_found_changes_nothing() -> None:
    """A request without identifiers keeps its fingerprint, and is told from one not looked at."""
    plain = asked(user("what is 2 + 2?"))
    assert MASKER(plain) == replace(plain, masked=Masked())
    assert MASKER(MASKER(plain)) == MASKER(plain)


def test_a_conversation_keeps_its_tokens() -> None:
    """The same value has the same token when a conversation goes on, and the same question the
    same fingerprint; in another conversation, and for another caller, they are others."""
    first = asked(Message("system", "s"), user(f"I am {MAIL}"))
    later = asked(*first.messages, Message("assistant", "hello"), user(f"mail {MAIL}"))
    other = asked(Message("system", "t"), user(f"I am {MAIL}"))
    whose = replace(first, user="bob")
    a, b, c, d = (MASKER(each) for each in (first, later, other, whose))
    tokens = [each.masked.values for each in (a, b, c, d) if each.masked]
    assert tokens[0] == tokens[1]
    assert len({*tokens[0], *tokens[2], *tokens[3]}) == 3
    assert MASKER(first).fingerprint == a.fingerprint
    assert len({a.fingerprint, c.fingerprint, d.fingerprint, first.fingerprint}) == 4


def test_other_values_make_another_question() -> None:
    """Two questions that differ in what is masked have two fingerprints, even where the tokens
    fall together; without the key nobody can tell the values from them."""
    values = [MASKER(asked(user(f"I am u{number}@example.com"))) for number in range(400)]
    assert len({each.fingerprint for each in values}) == 400
    other = replace(MASKER, key=b"x" * 32)
    one = asked(user(f"I am {MAIL}"))
    assert MASKER(one).fingerprint != other(one).fingerprint


def test_rows_are_found_again_without_a_lasting_key() -> None:
    """With a key of this run alone a row goes by its question as it was asked; with a lasting one
    by the masked one."""
    one = asked(user(f"I am {MAIL}"))
    passing = replace(MASKER, lasting=False)(one)
    assert (passing.row_key, MASKER(one).row_key) == (one.fingerprint, MASKER(one).fingerprint)


def test_secrets_never_come_back() -> None:
    """A key is masked and has no value to restore; without `restore` nothing has."""
    made = MASKER(asked(user(f"my key is {KEY}")))
    assert made.masked is not None
    assert (KEY in said(made), made.masked.counts, made.masked.values) == (False, {"secret": 1}, {})
    bare = replace(MASKER, restores=False)(asked(user(f"I am {MAIL}")))
    assert bare.masked is not None
    assert (bare.masked.values, MAIL in said(bare)) == ({}, False)


def test_block_says_what_and_where() -> None:
    """With `block` the request says why it must not be sent: kinds, number and field, no value.
    With `report` it is only counted."""
    one = asked(user("hi"), user(f"I am {MAIL} and {PHONE}"), Message("tool", MAIL))
    blocked, reported = (replace(MASKER, action=action)(one) for action in ("block", "report"))
    assert blocked.masked is not None
    assert blocked.masked.refused.startswith("`messages[1].content` (and 1 more): there is ")
    assert "2 email, 1 phone" in blocked.masked.refused
    assert MAIL not in blocked.masked.refused
    assert MAIL not in str(blocked.messages)  # nor is it in what is written down of the call
    assert reported == replace(one, masked=Masked({"email": 2, "phone": 1}))
    assert replace(MASKER, action="block")(asked(user("hi"))).masked == Masked()


def test_a_body_of_both_languages_counts_once() -> None:
    """The chat that a body can also be said as is masked with the same tokens, and not counted."""
    body = {"model": "m", "input": f"I am {MAIL}"}
    chat = {"model": "m", "messages": [{"role": "user", "content": f"I am {MAIL}"}]}
    made = MASKER(asked(raw=RawRequest("/responses", body, chat=chat)))
    assert made.raw is not None
    assert made.raw.chat is not None
    assert made.raw.body["input"] == made.raw.chat["messages"][0]["content"]
    assert made.masked is not None
    assert made.masked.counts == {"email": 1}
