"""Where in a folder store an object lies: a name in an open folder, reached without following links."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

# What a walk meets where there is no such path: nothing, a file or a link instead of a folder, a link
# instead of a file.
MISSING = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True)
class Place:
    """`folder` is an open descriptor of the folder that `name` is in; `path` leads there from the root."""

    root: Path
    path: tuple[str, ...]
    folder: int
    name: str

    @classmethod
    @contextlib.contextmanager
    def of(cls, root: Path, key: str) -> Iterator[Place]:
        """The place of a checked `key`, for the length of a `with` block. Raises OSError with an errno in
        MISSING when one of its folders is not there.
        """
        *path, name = key.split("/")
        folder = _open_path(root, path)
        try:
            yield cls(root, tuple(path), folder, name)
        finally:
            os.close(folder)

    @classmethod
    @contextlib.contextmanager
    def made(cls, root: Path, key: str) -> Iterator[Place]:
        """As `of`, with the folders made; at the end their names are on the disk, and what was put there is.
        A deleter may remove them at any moment until something is in them, so FileNotFoundError can come from
        here or from the first use.
        """
        *path, name = key.split("/")
        with contextlib.ExitStack() as opened:
            folders = [os.open(root, _FOLDER)]
            opened.callback(os.close, folders[0])
            for segment in path:
                with contextlib.suppress(FileExistsError):
                    os.mkdir(segment, dir_fd=folders[-1])
                folders.append(os.open(segment, _FOLDER, dir_fd=folders[-1]))
                opened.callback(os.close, folders[-1])
            yield cls(root, tuple(path), folders[-1], name)
            # Those that were there, too: whoever made them may not have come this far yet. All at the end:
            # the first of them writes what a journal holds, and the others then have nothing left to write.
            for folder in reversed(folders):
                os.fsync(folder)

    def remove_empty_folders(self) -> None:
        """Remove the folder and those above it, up to the first that has something in it."""
        for depth in range(len(self.path), 0, -1):
            try:
                above = _open_path(self.root, self.path[: depth - 1])
            except OSError:
                return
            try:
                os.rmdir(self.path[depth - 1], dir_fd=above)
            except OSError:
                return
            finally:
                os.close(above)


def _open_path(root: Path, path: list[str] | tuple[str, ...]) -> int:
    folder = os.open(root, _FOLDER)
    for segment in path:
        try:
            below = os.open(segment, _FOLDER, dir_fd=folder)
        finally:
            os.close(folder)
        folder = below
    return folder


def open_folder(root: Path, path: str) -> int:
    """A descriptor of the folder at `path` below `root`, both "" and "a/b" being paths. Raises OSError."""
    return _open_path(root, path.split("/") if path else [])
