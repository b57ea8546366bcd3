"""Price lists in the format that genai-prices publishes, made of the library's own data."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

from genai_prices.data_snapshot import get_snapshot
from genai_prices.types import ModelInfo, ModelPrice, StartDateConstraint, TieredPrices


def published(**changes: Any) -> list[dict[str, Any]]:
    """The whole list; `changes` are further models of OpenAI: name → dollars per million tokens
    of input and output."""
    listed = [
        {
            "id": provider.id,
            "name": provider.name,
            "api_pattern": provider.api_pattern,
            "models": [_model(model) for model in provider.models],
        }
        for provider in get_snapshot().providers
    ]
    for name, (read, wrote) in changes.items():
        prices = {"input_mtok": read, "output_mtok": wrote}
        model = {"id": name, "match": {"equals": name}, "prices": prices}
        next(p for p in listed if p["id"] == "openai")["models"].append(model)  # type: ignore[attr-defined]
    return listed


def encoded(listed: Any) -> bytes:
    """As it comes over the wire."""
    return json.dumps(listed).encode()


def _model(model: ModelInfo) -> dict[str, Any]:
    prices: Any
    if isinstance(model.prices, ModelPrice):
        prices = _prices(model.prices)
    else:
        prices = []
        for dated in model.prices:
            if isinstance(dated.constraint, StartDateConstraint):
                start = dated.constraint.start_date.isoformat()
                prices.append(
                    {"constraint": {"start_date": start}, "prices": _prices(dated.prices)}
                )
            else:
                prices.append({"prices": _prices(dated.prices)})
    return {"id": model.id, "match": {"equals": model.id.lower()}, "prices": prices}


def _prices(prices: ModelPrice) -> dict[str, Any]:
    return {name: _amount(value) for name, value in vars(prices).items() if value is not None}


def _amount(value: Decimal | TieredPrices | None) -> Any:
    if isinstance(value, TieredPrices):
        tiers = [{"start": tier.start, "price": float(tier.price)} for tier in value.tiers]
        return {"base": float(value.base), "tiers": tiers}
    return None if value is None else float(value)
