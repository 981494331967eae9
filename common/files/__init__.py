"""Files: written whole or not at all, checked when they are read, never unpickled; one writer to a folder."""

from common.files.downloading import download, listed
from common.files.links import refuse_links
from common.files.lock import Busy, Owner, locked, owner_of
from common.files.manifest import Manifest
from common.files.reading import UNREADABLE, load_checkpoint, load_state, open_array, read_array, read_json, sha256
from common.files.writing import (
    atomic_write,
    naming,
    remove_leftovers,
    replacing,
    save,
    save_safetensors,
    sync,
    write_array,
    write_json,
)

__all__ = [
    "UNREADABLE",
    "Busy",
    "Manifest",
    "Owner",
    "atomic_write",
    "download",
    "listed",
    "load_checkpoint",
    "load_state",
    "locked",
    "naming",
    "open_array",
    "owner_of",
    "read_array",
    "read_json",
    "refuse_links",
    "remove_leftovers",
    "replacing",
    "save",
    "save_safetensors",
    "sha256",
    "sync",
    "write_array",
    "write_json",
]
