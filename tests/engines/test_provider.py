"""The engine of the provider's batches keeps what every engine promises."""

from __future__ import annotations

from pathlib import Path

from llmctl.engines.batch_tools import BatchTools
from llmctl.engines.provider import Patience, ProviderEngine
from llmctl.protocols import Engine
from llmctl.providers.registry import batch_api
from llmctl.request import target_for
from llmctl.runner import Runner
from llmctl.shutdown import Stop
from tests.conformance.engine import EngineSuite


class TestProviderEngine(EngineSuite):
    """Batches of OpenAI's interface, looked at ten times a second."""

    def engine(self, live: Runner, stop: Stop, folder: Path) -> Engine:
        """The engine as the command makes it."""
        api = batch_api(live.profile.adapter)
        assert api is not None
        assert live.jobs is not None
        live.budget.in_batch = True
        tools = BatchTools(
            api=api,
            client=live.batch_endpoint(),
            jobs=live.jobs,
            folder=folder / "batches",
            output=str(folder / "in.out.jsonl"),
            input="in.jsonl",
            run_id=live.run_id,
            target=target_for(live.profile),
            admission=live.admission,
            settling=live.settling,
            costs=live.costs.of_batches(),
            budget=live.budget,
            tokens=lambda request: live.counter.count(request).tokens,
            clock=live.clock,
            stop=stop,
            call_id=live.call_id,
            say=lambda _: None,
            store=live.store,
        )
        return ProviderEngine(tools, Patience(poll=0.1))
