"""All that is fuzzed."""

from tests.fuzz import arrays, folders, images, lines, sounds, stored
from tests.fuzz.frame import Target

TARGETS: list[Target] = [
    target for module in (images, sounds, arrays, folders, stored, lines) for target in module.TARGETS
]
