"""Versions of a run's weights: files that training kept and, before the first of them, the checkpoints of training.

A checkpoint holds the whole state of training; the network and its averages are read out of it, by the names that
``DiffusionModule`` gives them.
"""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from common.files import UNREADABLE, load_checkpoint, load_state, sha256
from common.refusal import Refusal
from common.runs.folder import FINAL, RunFolder, RunNotFound
from common.runs.released import plain_names

RUN = "run"  # what a checkpoint calls the time its run was begun
MOST_STEPS = 2**53
PLAIN, AVERAGED = "model", "ema_model"  # kinds of weights; further averages are ema{decay}_model


class Version(ABC):
    """One version of a run's weights: those that are trained and, where there are some, averages of them, by kind.

    Attributes:
        name: e.g. ``final``, or ``step-0000225`` for a checkpoint.
        decays: decays of the averages that the run was to keep, the main one first.
    """

    name: str
    decays: tuple[float, ...]

    @property
    @abstractmethod
    def kinds(self) -> Collection[str]:
        """Kinds of weights that are there."""

    @abstractmethod
    def file(self, kind: str) -> Path:
        """The file they are in."""

    @abstractmethod
    def label(self, kind: str) -> str:
        """What they are called."""

    @abstractmethod
    def read(self, kind: str) -> dict[str, Tensor]:
        """Their state dict, on the CPU.

        Raises:
            Refusal: if the file is truncated or is no plain state dict.
        """

    @abstractmethod
    def sha256(self, kind: str) -> str:
        """SHA-256 of what is read, in hexadecimal."""

    @property
    def title(self) -> str:
        """What a user calls it."""
        return self.name

    @property
    @abstractmethod
    def remarks(self) -> list[str]:
        """What a user should know of how it was chosen."""

    def account(self, kind: str, decays: tuple[float, ...]) -> str:
        """Which weights they are, in one line, with the flags that take others of this version.

        Args:
            kind: the kind that is used.
            decays: decays of the averages as far as they are known, the main one first.
        """
        others = {*self.kinds} - {kind}
        averages = zip(average_kinds(self.decays), self.decays, strict=True)
        further = " or ".join(str(decay) for other, decay in averages if other in others)
        ways = []
        if PLAIN in others:
            ways.append("--use_ema False takes those that were trained")
        if others == {AVERAGED}:
            ways.append("--use_ema True takes the average")
        elif further:
            ways.append(f"--ema_decay {further} takes {'an' if kind == PLAIN else 'another'} average")
        return "; ".join([f"{self.title}, {nature(kind, decays)} ({self.file(kind).name})", *ways])

    def suffix(self, kind: str) -> str:
        """What tells kinds of weights apart in names, e.g. ``-ema`` or ``-raw``; empty if there is no average."""
        return "" if {*self.kinds} == {PLAIN} else f"-{kind.removesuffix(PLAIN).removesuffix('_') or 'raw'}"

    def choose(self, averaged: bool | None, decay: float | None) -> str:
        """The kind of weights that is wanted.

        Args:
            averaged: use averaged weights; None takes them if they are there, else what there is.
            decay: decay of the average to use; None takes the main one.

        Raises:
            RunNotFound: for what is not there, listing what there is.
            Refusal: for a decay together with ``averaged=False``.
        """
        if decay is not None:
            if averaged is False:
                raise Refusal("and --use_ema False exclude each other; leave one of them out", "ema_decay")
            of_decay = dict(zip(self.decays, average_kinds(self.decays), strict=True))
            kept = {known: kind for known, kind in of_decay.items() if kind in self.kinds}
            if decay not in kept:
                there = ", ".join(f"{known:g}" for known in kept) or "none"
                raise RunNotFound(
                    f"{decay:g}: no such average of version {self.name}. Decays there: {there}", "ema_decay"
                )
            return kept[decay]
        if averaged is None:
            return next((kind for kind in (AVERAGED, PLAIN) if kind in self.kinds), next(iter(self.kinds)))
        kind = AVERAGED if averaged else PLAIN
        if kind not in self.kinds:
            there = ", ".join(map(self.label, self.kinds))
            raise RunNotFound(f"{averaged}: {self.label(kind)} is missing; this version has {there}", "use_ema")
        return kind


def average_kinds(decays: tuple[float, ...]) -> list[str]:
    """Kinds of the averages of a run, the main one first."""
    return [f"ema{decay}_{PLAIN}" if i else AVERAGED for i, decay in enumerate(decays)]


def nature(kind: str, decays: tuple[float, ...]) -> str:
    """What a kind of weights is, in words.

    Args:
        kind: the kind.
        decays: decays of the averages as far as they are known, the main one first.
    """
    if kind == PLAIN:
        return "not averaged"
    known = dict(zip(average_kinds(decays), decays, strict=True))
    return f"average of decay {known[kind]}" if kind in known else "average"


@dataclass(frozen=True)
class Kept(Version):
    """A version that training kept, one file per kind.

    Attributes:
        name: e.g. ``final``.
        decays: decays of the averages that the run was to keep, the main one first.
        files: files by kind.
        folder: where they are.
        notes: what a user should know of how it was chosen.
    """

    name: str
    decays: tuple[float, ...]
    files: dict[str, Path]
    folder: RunFolder
    notes: tuple[str, ...] = ()

    @property
    def kinds(self) -> Collection[str]:
        return self.files.keys()

    def file(self, kind: str) -> Path:
        return self.files.get(kind, self.folder.weights(kind, self.name))

    def label(self, kind: str) -> str:
        return self.file(kind).name

    def read(self, kind: str) -> dict[str, Tensor]:
        self.folder.manifest.check(self.file(kind))
        return plain_names(load_state(self.file(kind)))

    def sha256(self, kind: str) -> str:
        return sha256(self.file(kind))

    @property
    def remarks(self) -> list[str]:
        unlisted = [path.name for path in self.files.values() if not self.folder.manifest.lists(path)]
        if not unlisted:
            return list(self.notes)
        inside = "only check sums inside .pth files are" if self.folder.manifest.exists else "it has no manifest.json"
        return [*self.notes, f"{self.folder.name}: {', '.join(unlisted)} cannot be checked for damage ({inside})"]

    def choose(self, averaged: bool | None, decay: float | None) -> str:
        if self.name == FINAL and decay is None:  # what was written and is lost is made again
            self.folder.manifest.check(self.file(PLAIN if averaged is False else AVERAGED), thoroughly=False)
        cut = {*self.kinds} == {PLAIN} and self.decays and self.folder.is_ours and not self.folder.is_shipped
        if averaged is None and decay is None and cut:
            again = f"python train.py {self.folder.words('resume')} writes it, "
            raise RunNotFound(
                f"{self.name}: its average {self.folder.weights(AVERAGED, self.name)} is missing, training was stopped "
                f"before it was written; {again if self.folder.checkpoint_files() else ''}"
                "--use_ema False takes the weights that were trained",
                "version",
            )
        return super().choose(averaged, decay)


@dataclass(frozen=True, eq=False)
class Checkpoint(Version):
    """The weights in a checkpoint of training.

    An average that no step has gone into yet is that of untrained weights, and counts as not there.

    Attributes:
        name: ``step-0000225``.
        decays: decays of the averages that the run was to keep, the main one first.
        path: the file; it may be replaced meanwhile, what is read stays that of the step.
        step: the optimiser step it was taken at.
        state: state dict of the module that was trained, mapped from the file.
        parts: names of all that it holds.
        run: when its run was begun, as the manifest of that says; empty if an earlier version wrote it.
        passed_over: newer checkpoints, which are missing or cannot be read.
        notes: what else a user should know of how it was chosen.
    """

    name: str
    decays: tuple[float, ...]
    path: Path
    step: int
    state: dict[str, Tensor]
    parts: frozenset[str]
    run: str
    passed_over: tuple[Path, ...] = ()
    notes: tuple[str, ...] = ()

    @classmethod
    def open(cls, path: Path, decays: tuple[float, ...], begun: str = "") -> "Checkpoint":
        """The checkpoint in a file.

        Args:
            path: the file.
            decays: decays of the averages that the run was to keep, the main one first.
            begun: when the run was begun; empty if nothing says so.

        Raises:
            one of ``UNREADABLE``, if it is damaged, no checkpoint, or one of another run.
        """
        saved = load_checkpoint(path, mmap=True)
        state = {str(name): value for name, value in saved["state_dict"].items() if isinstance(value, Tensor)}
        step, run = saved["global_step"], str(saved.get(RUN, ""))
        if type(step) is not int or not 0 <= step < MOST_STEPS:
            raise ValueError("its step is no number of one")
        if run and begun and run != begun:
            raise ValueError("it is of another run")
        return cls(f"step-{step:07d}", decays, path, step, state, frozenset(saved), run)

    @classmethod
    def newest(cls, folder: RunFolder, decays: tuple[float, ...], name: str | None = None) -> "Checkpoint | None":
        """The newest checkpoint of a run that is whole; None if there is none.

        Args:
            folder: the run folder.
            decays: as for :meth:`open`.
            name: that of a certain step, e.g. ``step-0000225``.
        """
        there = folder.checkpoint_files()
        # missing, though numbered ones are there: its steps are gone
        passed_over = [path for path in (folder.last_checkpoint,) if there and path not in there and name is None]
        for path in there:
            try:
                found = cls.open(path, decays, folder.begun)
            except UNREADABLE:
                passed_over.append(path)
                continue
            if name in (None, found.name):
                return replace(found, passed_over=tuple(passed_over))
        return None

    @property
    def _prefixes(self) -> dict[str, str]:
        """What the names of each kind begin with in the state dict."""
        averages = {kind: f"averages.{i}." for i, kind in enumerate(average_kinds(self.decays))}
        begun = {kind: name for kind, name in averages.items() if self.state.get(f"{name}n_averaged", 0) > 0}
        return {PLAIN: "network.", **{kind: f"{name}module." for kind, name in begun.items()}}

    @property
    def kinds(self) -> Collection[str]:
        return self._prefixes.keys()

    def file(self, kind: str) -> Path:
        return self.path

    def label(self, kind: str) -> str:
        return f"{kind}-{self.name}"

    def read(self, kind: str) -> dict[str, Tensor]:
        prefix = self._prefixes[kind]
        return {name.removeprefix(prefix): value for name, value in self.state.items() if name.startswith(prefix)}

    def sha256(self, kind: str) -> str:
        """SHA-256 of names, types, shapes and values: a step has one, whichever file it is read from."""
        digest = hashlib.sha256()
        for name, value in sorted(self.read(kind).items()):
            digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
            digest.update(value.contiguous().reshape(-1).view(torch.uint8).numpy().data)
        return digest.hexdigest()

    @property
    def title(self) -> str:
        return f"checkpoint of step {self.step:,}"

    @property
    def remarks(self) -> list[str]:
        broken = "cannot be read (cut short, damaged, or of another run)"
        whys = [f"{path} {broken if path.exists() else 'is missing'}" for path in self.passed_over]
        return [*self.notes, *(f"{why}; {self.path.name} is taken" for why in whys)]


def open_version(folder: RunFolder, name: str | None, decays: tuple[float, ...]) -> Version:
    """A version of a run's weights.

    Args:
        folder: the run folder.
        name: version that training kept, or ``step-0000225`` for a checkpoint; None takes ``final``, else the version
            written last, else the newest checkpoint that can be read.
        decays: decays of the averages that the run was to keep, the main one first.

    Raises:
        RunNotFound: if it is not there, listing what there is, or what to do if there is nothing.
    """
    files = folder.weight_files()
    wanted = folder.newest_version() if name is None else name
    lost = [] if name or FINAL in files else folder.lost_weights()
    notes = [f"{path} is missing, though it was written; {folder.mend(path)}" for path in lost[:1]]
    if wanted in files:
        return Kept(wanted, decays, files[wanted], folder, tuple(notes))
    if checkpoint := Checkpoint.newest(folder, decays, name):
        return replace(checkpoint, notes=tuple(notes))
    there = folder.checkpoint_files()
    if notes:
        raise RunNotFound(notes[0], "run_id")
    if name is not None:
        kept = ", ".join(files) or "none yet (training has not reached its first version)"
        steps = ", ".join(path.stem for path in there if path != folder.last_checkpoint)
        raise RunNotFound(
            f"{name}: not in {folder.model}. Versions there: {kept}{f'; checkpoints: {steps}' if steps else ''}",
            "version",
        )
    if there:
        names = ", ".join(path.name for path in there)
        raise RunNotFound(
            f"{folder.name}: no version of its weights was kept, and none of its checkpoints can be read ({names}); "
            "train it anew",
            "run_id",
        )
    raise RunNotFound(
        f"{folder.name}: nothing is saved yet, neither weights nor a checkpoint; train it: python train.py "
        f"{folder.words('resume')}",
        "run_id",
    )
