"""Dynamics whose arguments are fields: a member adds its own to those of its base without repeating them."""

from dataclasses import dataclass
from typing import TypeVar, dataclass_transform

from common.dynamics.base import LinearDynamics

Member = TypeVar("Member", bound=LinearDynamics)


@dataclass_transform()
def arguments_from_fields(cls: type[Member]) -> type[Member]:
    """Give a dynamics a constructor made from its fields and those of its bases, as a dataclass has; a decorator."""
    del cls.__init__  # the base class has put its own there, which a dataclass would respect
    made = dataclass(eq=False, repr=False)(cls)
    made.admit_when_made()
    return made
