"""In which order file systems are frozen, so that no freeze waits for another one: facts/linux-hv-vss.md section 4.5.

What lies in an image is frozen before the file system that carries the image. In the other order its FIFREEZE would
write to a frozen file system and could not even be killed. The thaw is the exact reverse for the same reason.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping


def waves(
    devices: Iterable[str],
    carriers: Mapping[str, Collection[str]],
    untold: Collection[str] = (),
    root: str = "",
) -> tuple[tuple[str, ...], ...]:
    """`devices`, each once, in waves: one after the other, all of one wave at the same time.

    Args:
        devices: what is to be frozen.
        carriers: for each, all that carry it, directly or through others, itself only in a circle. Those of one circle
            come at the same time: they cannot be frozen at all, and the plan says so.
        untold: of which it cannot be told what carries them. They come first, with what must come before them, for
            then they wait for nobody; but the root file system does not come first for that.
        root: the root file system: alone after all others but those that carry it.
    """
    unique = tuple(dict.fromkeys(devices))
    last = [device for device in unique if device in carriers.get(root, ()) and device != root]
    others = [device for device in unique if device not in last and device != root]
    unsure = {device for device in others if device in untold}
    first = [device for device in others if device in unsure or not unsure.isdisjoint(carriers.get(device, ()))]
    return (
        *_layers(first, carriers),
        *_layers([device for device in others if device not in first], carriers),
        *_layers([root] if root in unique else [], carriers),
        *_layers(last, carriers),
    )


def _layers(devices: list[str], carriers: Mapping[str, Collection[str]]) -> list[tuple[str, ...]]:
    """The fewest waves in which every one comes after all that lie on it."""
    before = {
        device: {
            other
            for other in devices
            if device in carriers.get(other, ()) and other not in carriers.get(device, ())  # both: a circle
        }
        for device in devices
    }
    layers: dict[str, int] = {}
    # What comes before X also comes before all that X comes before, so those have more: each finds its own answered.
    for device in sorted(devices, key=lambda device: len(before[device])):
        layers[device] = 1 + max((layers[other] for other in before[device]), default=-1)
    return [
        tuple(device for device in devices if layers[device] == layer)
        for layer in range(1 + max(layers.values(), default=-1))
    ]
