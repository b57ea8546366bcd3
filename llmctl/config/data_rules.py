"""Where data may go: what the rules and a call's tags ask of a profile. Pure.

See `settings.DataRules`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

from msgspec import Struct, convert

from llmctl.config.regions import inference_area, lies_in
from llmctl.config.settings import DataRules, Profile
from llmctl.config.yaml_nodes import Node, nearest, quoted, read
from llmctl.providers.data_statements import storage_is_off
from llmctl.providers.registry import LOCAL

PREFIX = "data."
"""How the names of tags begin that ask for something; others mean nothing here."""

REGION, RETENTION, AGREEMENT, CLASS = (
    PREFIX + name for name in ("region", "retention", "agreement", "class")
)
TAGS = (REGION, RETENTION, AGREEMENT, CLASS)


class Refusal(Struct, frozen=True):
    """Why a profile may not be asked: the `rule`, and a sentence with what would be allowed."""

    rule: str
    why: str


def read_data(node: Node, profiles: Collection[str]) -> DataRules:
    """The rules of `data:`, all files merged. Raises `ConfigError`, also for a class of profiles
    that there are none of."""
    rules = convert(read(node, DataRules), DataRules)
    classes = node.mapping().get("classes")
    for name, listed in classes.mapping().items() if classes else ():
        for item in listed.items():
            if item.value not in profiles:
                wrong = f"{quoted(str(item.value))}; {nearest(str(item.value), profiles)}"
                raise item.error(f"names no profile for the class {name}: {wrong}")
    return rules


def keeps_nothing(rules: DataRules, tags: Mapping[str, str]) -> bool:
    """Whether a call may leave nothing at its provider."""
    return rules.retention == "none" or RETENTION in tags


def refusal(
    profile: Profile, model: str | None, tags: Mapping[str, str], *, in_batch: bool = False
) -> Refusal | None:
    """Why a call with these tags may not be sent to a model of the profile; None: it may.

    `model` None: any model there; `in_batch`: the call would go into a batch of the provider.
    """
    return next(_refusals(profile, model, tags, in_batch=in_batch), None)


def _refusals(
    profile: Profile, model: str | None, tags: Mapping[str, str], *, in_batch: bool
) -> Iterator[Refusal]:
    yield from _of_tags(tags)
    yield from _of_class(profile, tags)
    if profile.provider == LOCAL:
        return
    rules = profile.data
    if rules.regions is not None:
        yield from _of_region(profile, model, rules.regions, "`data: regions`")
    if REGION in tags:
        yield from _of_region(profile, model, (tags[REGION],), f"the tag {REGION}")
    if keeps_nothing(rules, tags):
        by = "`data: retention`" if rules.retention else f"the tag {RETENTION}"
        yield from _of_retention(profile, by, in_batch=in_batch)
    asked = [*((name, "`data: agreements`") for name in rules.agreements)]
    asked += [(tags[AGREEMENT], f"the tag {AGREEMENT}")] if AGREEMENT in tags else []
    for name, by in asked:
        if name not in profile.agreements:
            yield Refusal(
                f"agreement {name}",
                f"{by} wants {name}, and the profile {profile.name} does not say "
                f"`agreements: [{name}]`: {_elsewhere('that does')}",
            )


def _of_tags(tags: Mapping[str, str]) -> Iterator[Refusal]:
    """What is asked for in words that nobody understands is not sent anywhere."""
    for name, value in tags.items():
        if name.startswith(PREFIX) and name not in TAGS:
            known = ", ".join(TAGS)
            yield Refusal(name, f"the tag {quoted(name)} asks for nothing known; known: {known}")
        elif name == RETENTION and value != "none":
            yield Refusal(name, f"the tag {name} knows only `none`, not {quoted(value)}")


def _of_class(profile: Profile, tags: Mapping[str, str]) -> Iterator[Refusal]:
    classes, name = profile.data.classes, tags.get(CLASS)
    if name is None:
        return
    if name not in classes:
        known = ", ".join(classes) or "none"
        why = f"the tag {CLASS} names no class, {quoted(name)}; `data: classes` has: {known}"
        yield Refusal(f"class {quoted(name)}", why)
    elif profile.name not in classes[name]:
        allowed = ", ".join(classes[name]) or "no profile"
        why = f"`data: classes` lets {name} go only to {allowed}, not to {profile.name}"
        yield Refusal(f"class {name}", why)


def _of_region(
    profile: Profile, model: str | None, wanted: tuple[str, ...], by: str
) -> Iterator[Refusal]:
    allowed = " or ".join(wanted)
    places = [(profile.region, f"the profile {profile.name} is in {profile.region}")]
    if profile.region is None:
        places = [(None, f"the profile {profile.name} does not say its `region:`")]
    if profile.adapter == "bedrock" and model and (area := inference_area(model)):
        places.append((area, f"the model {model} may answer elsewhere ({area})"))
    for place, what in places:
        if place is None or not any(lies_in(place, each) for each in wanted):
            yield Refusal(
                f"region {allowed}",
                f"{by} allows only {allowed}, and {what}: {_elsewhere('that is there')}",
            )


def _of_retention(profile: Profile, by: str, *, in_batch: bool) -> Iterator[Refusal]:
    if in_batch:
        yield Refusal(
            "retention none",
            f"{by} is none, and a provider's batch is a file that it keeps: leave "
            "--engine provider out",
        )
    if profile.retention != "none" and not storage_is_off(profile.provider, profile.base_url):
        yield Refusal(
            "retention none",
            f"{by} is none, and the profile {profile.name} does not say `retention: none`, which "
            f"it may where that is agreed with the provider: {_elsewhere('that does')}",
        )


def _elsewhere(which: str) -> str:
    return f"choose a profile {which} (llmctl profiles list --data)"


# A project's rules beside the user's.


def looser(node: Node, mine: DataRules) -> Iterator[Node]:
    """What a project's `data` says that lets more through than the user's own rules do."""
    for key, child in node.mapping().items():
        if key == "classes":
            for name, listed in child.mapping().items():
                if name not in mine.classes or not _texts(listed) <= {*mine.classes[name]}:
                    yield listed
        elif key == "regions":
            within = all(any(lies_in(r, m) for m in mine.regions or ()) for r in _texts(child))
            if mine.regions is not None and (child.null or not within):
                yield child
        elif key == "agreements":
            if not _texts(child) >= {*mine.agreements}:
                yield child
        elif key != "retention" or (child.null and mine.retention):
            yield child


def _texts(node: Node) -> set[str]:
    """The texts of a list, or of one that stands for a list."""
    return {str(item.value) for item in node.items()}
