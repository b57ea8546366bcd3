"""How fast `llmctl` starts and answers, a line a figure: `python -m tests.bench.start`.

`--version` and `--help` against Python's own start; `ask` out of the cache; and the whole of `ask`
against the whole of the `llm` command with the same prompt, where the provider answers at once and
where it takes 50 ms. `--llm PATH` names the `llm` command (the one beside this Python by default).
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import sysconfig
import tempfile
import time
import venv
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.bench.command import new_home
from tests.simulator.server import Simulator

SCRIPTS = Path(sysconfig.get_path("scripts"))
LLMCTL = str(SCRIPTS / "llmctl")
PROMPT = "Is this review positive? I bought it and would again."
_ROUNDS = 15
_LATENCY = 0.05
_MODELS = """
- model_id: bench
  model_name: gpt-5-mini
  api_base: {url}
"""


def best(cases: dict[str, Callable[[], float]]) -> dict[str, float]:
    """Seconds of the fastest round of each, in turns."""
    found: dict[str, float] = {}
    for _ in range(_ROUNDS):
        for name, one in cases.items():
            found[name] = min(found.get(name, 1e9), one())
    return found


def whole(command: Sequence[str], **environ: str) -> Callable[[], float]:
    """Seconds of the command from start to end."""

    def one() -> float:
        start = time.perf_counter()
        subprocess.run(
            command, env={**os.environ, **environ}, check=True, stdout=subprocess.DEVNULL
        )
        return time.perf_counter() - start

    return one


def bare(folder: Path) -> str:
    """Python in an environment where nothing is installed: where something is that can be edited,
    every start looks for it, which takes as long as the start itself."""
    venv.create(folder / "bare", symlinks=os.name != "nt")
    return str(folder / "bare" / SCRIPTS.name / Path(sys.executable).name)


def starts(folder: Path) -> None:
    """`--version` and `--help` against Python's own start."""
    found = best(
        {
            "python": whole([bare(folder), "-c", "pass"]),
            "--version": whole([LLMCTL, "--version"]),
            "--help": whole([LLMCTL, "--help"]),
        }
    )
    own = found.pop("python")
    print(
        f"start: bare Python {own * 1000:.0f} ms",
        *(f"{name} {took * 1000:.0f} ms ({took / own:.1f}x)" for name, took in found.items()),
        sep="; ",
    )


def answers(folder: Path, llm: Path) -> None:
    """`ask` out of the cache, and whole; and `llm`."""
    with Simulator(reply=lambda _: "Yes, it is positive.") as sim:
        home = new_home(folder, sim.base_url, budget=False)
        ask = [LLMCTL, "ask", "-q", PROMPT]
        whole(ask, **home)()
        cached = best({"cached": whole(ask, **home)})["cached"]
        print(f"start: ask from the cache {cached * 1000:.0f} ms whole")
        cases = {"ask": whole([*ask, "--no-cache"], **home)}
        if llm.exists():
            (folder / "llm").mkdir()
            models = folder / "llm/extra-openai-models.yaml"
            models.write_text(_MODELS.format(url=sim.base_url), encoding="utf-8")
            own = {"LLM_USER_PATH": str(folder / "llm"), "OPENAI_API_KEY": "x"}
            cases["llm"] = whole([str(llm), "-m", "bench", PROMPT], **own)
        else:
            print(f"start: llm left out: there is no {llm} (see --llm)")
        for seconds in (0.0, _LATENCY):
            sim.latency = seconds
            found = best(cases)
            print(
                f"start: where the provider takes {seconds * 1000:.0f} ms:",
                ", ".join(f"{name} whole {took * 1000:.0f} ms" for name, took in found.items()),
                *((f"{found['ask'] / found['llm']:.2f}x",) if "llm" in found else ()),
            )


def main() -> None:
    """All figures."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.start", description=__doc__)
    parser.add_argument("--llm", type=Path, default=SCRIPTS / "llm", metavar="PATH")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=Path.cwd(), prefix=".bench-") as name:
        starts(Path(name))
        answers(Path(name), options.llm)


if __name__ == "__main__":
    main()
