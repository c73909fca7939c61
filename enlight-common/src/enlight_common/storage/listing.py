"""The objects in a folder store, in the order of their keys."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from enlight_common.storage.interface import ObjectInfo, is_segment
from enlight_common.storage.places import MISSING, open_folder


def list_folder(root: Path, prefix: str, after: str) -> Iterator[ObjectInfo]:
    """The objects below `root` whose keys begin with `prefix` and sort behind `after`.

    One folder's names are in memory at a time for each level; folders that cannot hold such keys are not
    read. Raises OSError when the root cannot be read.
    """
    # A stack and not recursion: a key may have 512 segments.
    levels = [_entries(root, "", prefix, after)]
    while levels:
        entry = next(levels[-1], None)
        if entry is None:
            levels.pop()
        elif isinstance(entry, ObjectInfo):
            yield entry
        else:
            levels.append(_entries(root, entry, prefix, after))


def _entries(root: Path, folder: str, prefix: str, after: str) -> Iterator[ObjectInfo | str]:
    """What is in `folder` ("" or "a/b/"): objects, and folders as "a/b/c/", in the order of keys."""
    try:
        descriptor = open_folder(root, folder.rstrip("/"))
    except OSError as error:
        if folder and error.errno in MISSING:
            return  # its last object was deleted meanwhile
        raise
    found: list[tuple[str, ObjectInfo | str]] = []
    try:
        with os.scandir(descriptor) as names:
            for entry in names:
                path = folder + entry.name
                if not is_segment(entry.name):
                    continue
                if entry.is_dir(follow_symlinks=False):
                    # "a-b" sorts before "a/c", and "a/c" before "a0": a folder sorts by its slash.
                    below = path + "/"
                    if (below.startswith(prefix) or prefix.startswith(below)) and _reaches(below, after):
                        found.append((below, below))
                elif path.startswith(prefix) and path > after:
                    info = _object(entry, path)
                    if info is not None:
                        found.append((path, info))
    finally:
        os.close(descriptor)
    for _, item in sorted(found, key=lambda pair: pair[0]):
        yield item


def _reaches(folder: str, after: str) -> bool:
    """Whether a key below `folder` can sort behind `after`."""
    return folder > after or after.startswith(folder)


def _object(entry: os.DirEntry[str], key: str) -> ObjectInfo | None:
    try:
        if not entry.is_file(follow_symlinks=False):
            return None
        found = entry.stat(follow_symlinks=False)
    except FileNotFoundError:
        return None
    return ObjectInfo(key, found.st_size, found.st_mtime)
