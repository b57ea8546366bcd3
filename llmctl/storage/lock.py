"""Locked files; moved to `files.py`."""

from llmctl.storage.files import LockedFile as LockedFile
from llmctl.storage.files import try_lock as try_lock
