"""llmctl: ad-hoc and batch calls to language models from the command line."""

__version__ = "0.2.0"
