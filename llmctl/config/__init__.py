"""Files, environment and flags → `Settings`, and the profile to use among them."""

from llmctl.config import trust
from llmctl.config.choosing import choose
from llmctl.config.folders import CONFIG_FILE, find_folders
from llmctl.config.loading import load, project
from llmctl.config.overrides import Overrides
from llmctl.config.showing import as_json, as_yaml
from llmctl.config.starter import write_starter
from llmctl.config.values import parse_duration, parse_size

__all__ = [
    "CONFIG_FILE",
    "Overrides",
    "as_json",
    "as_yaml",
    "choose",
    "find_folders",
    "load",
    "parse_duration",
    "parse_size",
    "project",
    "trust",
    "write_starter",
]
