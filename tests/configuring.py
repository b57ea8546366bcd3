"""What the tests of the configuration share: a world of files in a temporary folder."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

from llmctl.config.load import Overrides, load
from llmctl.config.settings import Settings

NONE = Overrides()


@dataclass
class World:
    """A home folder, a repository inside it, and environment variables."""

    root: Path
    environ: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        (self.root / "home").mkdir(exist_ok=True)
        (self.root / "repo/.git").mkdir(parents=True, exist_ok=True)
        self.environ.setdefault("HOME", str(self.root / "home"))

    @property
    def repo(self) -> Path:
        """The root of the repository, the current folder of `load`."""
        return self.root / "repo"

    @property
    def own(self) -> Path:
        """The user's own file."""
        return self.root / "home/.config/llmctl/config.yaml"

    def user(self, text: str) -> Path:
        """Write the user's own file."""
        self.own.parent.mkdir(parents=True, exist_ok=True)
        self.own.write_text(text, encoding="utf-8")
        return self.own

    def project(self, text: str) -> Path:
        """Write the project's file."""
        path = self.repo / "llmctl.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    def load(
        self,
        overrides: Overrides = NONE,
        *,
        cwd: Path | None = None,
        config: Path | None = None,
        stored: Collection[tuple[str, str]] = (),
    ) -> Settings:
        """Load as a command started in the repository does."""
        return load(
            environ=self.environ,
            cwd=cwd or self.repo,
            config=config,
            overrides=overrides,
            stored=stored,
        )
