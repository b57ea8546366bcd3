"""The semantic cache's settings: `cache: {semantic: …}` of a profile."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from msgspec import Meta, Struct


class SemanticPolicy(Struct, frozen=True):
    """Answers of questions that mean the same; in a file also the mode alone.

    Attributes:
        mode: `strict` takes questions of the same content words as one; `judge` asks the profile
            `judge` besides, where their facts are the same; `off` is for a profile that extends
            one which has it on.
        judge: the name of a profile.
        scope: whose answers are given: those of the same `caller` (a gateway's user), or of `all`.
        audit: the share of hits that are asked all the same, for the judge to compare both answers.
        sampled: also questions at a temperature above 0.

    """

    text: ClassVar[str] = "mode"

    mode: Literal["strict", "judge", "off"]
    judge: Annotated[str, Meta(pattern=r"\S", description="the name of a profile")] | None = None
    scope: Literal["caller", "all"] = "caller"
    audit: Annotated[float, Meta(ge=0, le=1)] = 0.01
    sampled: bool = False
