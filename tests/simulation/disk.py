"""A simulated shared disk: real calls on a real folder in memory, each a point where the process may be interrupted.

A full disk refuses calls that need space. Data that a process wrote without fsync may be lost in whole or in part when its
host loses power.
"""

from __future__ import annotations

import builtins
import errno
import fcntl
import io
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from simulation.world import World

WRITEBACK_S = 30.0
"""After this time the kernel has written a file to the disk automatically."""

_real_open, _real_os_open, _real_fsync, _real_flock = io.open, os.open, os.fsync, fcntl.flock
_NEEDS_SPACE = ("mkdir", "link")
_CHANGES = ("rename", "replace", "unlink", "remove", "rmdir", *_NEEDS_SPACE)


class Disk:
    """Track unsynced data and publications. `publications` maps a stage's folder to how often it was published."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._unsynced: dict[int, tuple[str, int, float, int]] = {}
        self.publications: dict[str, int] = {}

    def require_space(self) -> None:
        """Raise `OSError` (ENOSPC) if the disk is full."""
        self._world.point()
        if self._world.is_disk_full and self._world.current is not None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def written(self, handle: int, num_bytes: int) -> None:
        """Note that a file has unsynced data."""
        actor = self._world.current
        inode = os.fstat(handle).st_ino
        if actor is not None and inode not in self._unsynced:
            before = os.fstat(handle).st_size - num_bytes
            self._unsynced[inode] = (actor.host.name, os.dup(handle), self._world.now, before)

    def synced(self, handle: int) -> None:
        """Note that a file was synced."""
        entry = self._unsynced.pop(os.fstat(handle).st_ino, None)
        if entry is not None:
            os.close(entry[1])

    def lose_power(self, host: str) -> None:
        """Let a host lose power: keep the unsynced data of its processes in whole, in part, or not at all."""
        for inode, (where, handle, since, before) in list(self._unsynced.items()):
            if where == host:
                size = os.fstat(handle).st_size
                if self._world.now - since < WRITEBACK_S:
                    os.ftruncate(handle, self._world.random.choice((before, (before + size) // 2, size)))
                os.close(handle)
                del self._unsynced[inode]

    def close(self) -> None:
        for _, handle, *_ in self._unsynced.values():
            os.close(handle)
        self._unsynced.clear()


class _File(io.FileIO):
    """A file opened for writing."""

    def __init__(self, world: World, disk: Disk, path: Any, mode: str) -> None:
        self._world, self._disk, self._actor = world, disk, world.current
        super().__init__(path, mode)

    def write(self, data: Any) -> int:
        if self._actor is not None and (self._actor.is_doomed or self._world.current is not self._actor):
            return len(data)  # a dead process's buffers are lost
        self._disk.require_space()
        number = super().write(data)
        self._disk.written(self.fileno(), number)
        return number


@contextmanager
def simulated_disk(world: World) -> Iterator[Disk]:
    """Route all writes of the processes of `world` through a simulated disk."""
    disk = Disk(world)

    def open_(file: Any, mode: str = "r", buffering: int = -1, encoding: str | None = None, *rest: Any, **more: Any) -> Any:
        actor = world.current
        if actor is None or isinstance(file, int):
            return _real_open(file, mode, buffering, encoding, *rest, **more)
        if not set(mode) & set("wax+"):
            world.point()
            return _real_open(file, mode, buffering, encoding, *rest, **more)
        disk.require_space()
        raw = _File(world, disk, file, mode.replace("b", "").replace("t", ""))
        actor.files.append(raw)
        buffer = io.BufferedWriter(raw)
        return buffer if "b" in mode else io.TextIOWrapper(buffer, encoding="utf-8")

    def os_open(path: Any, flags: int, *rest: Any, **more: Any) -> int:
        if flags & (os.O_CREAT | os.O_WRONLY | os.O_RDWR):
            disk.require_space()
        return _real_os_open(path, flags, *rest, **more)

    def fsync(handle: int) -> None:
        world.point()
        disk.synced(handle)

    def flock(file: Any, how: int) -> None:
        if world.current is None or how & fcntl.LOCK_NB:
            return _real_flock(file, how)
        world.point()
        while True:
            try:
                return _real_flock(file, how | fcntl.LOCK_NB)
            except BlockingIOError:
                world.sleep(0.05)

    def changing(name: str) -> Callable[..., Any]:
        real = getattr(os, name)

        def change(*arguments: Any, **options: Any) -> Any:
            if name in _NEEDS_SPACE:
                disk.require_space()
            else:
                world.point()
            result = real(*arguments, **options)
            if name == "rename" and os.fspath(arguments[1]).endswith("/published"):
                folder = os.fspath(arguments[1])
                disk.publications[folder] = disk.publications.get(folder, 0) + 1
                world.say(f"published {folder.split('/')[-2]}")
            return result

        return change

    def utime(path: Any, times: Any = None, *, ns: Any = None, **more: Any) -> None:
        world.point()
        if world.current is not None and times is None and ns is None:
            ns = (int(world.wall_clock() * 1e9),) * 2
        real_utime(path, times, ns=ns, **more) if ns is not None else real_utime(path, times, **more)

    real_utime = os.utime
    patches: list[tuple[Any, str, Any]] = [
        (io, "open", open_), (builtins, "open", open_), (os, "open", os_open), (os, "fsync", fsync), (os, "utime", utime),
        (fcntl, "flock", flock), *((os, name, changing(name)) for name in _CHANGES),
    ]  # fmt: skip
    previous = [(place, name, getattr(place, name)) for place, name, _ in patches]
    try:
        for place, name, value in patches:
            setattr(place, name, value)
        yield disk
    finally:
        for place, name, value in previous:
            setattr(place, name, value)
        disk.close()
