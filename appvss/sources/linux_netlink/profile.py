"""What the driver of this kernel can do. Pure.

The driver does not say its version, so that is worked out from what can be seen: the name under which it stands in the
connector's list, which changed with its second edition in 4.2, and the kernel's release. Distributions carry parts of
newer drivers back into older kernels and tell nobody; where that is possible, the more careful value is taken
(facts/linux-hv-vss.md sections 1.5, 3.1 and 3.3).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from appvss.sources.linux_netlink.settings import LinuxNetlinkSettings
from appvss.sources.linux_vss.settings import Budgets
from appvss.sources.wire.linux_hv_vss import REGISTER, REGISTER_LEGACY, kernel_version

OLD_NAME: Final = "vss_kernel_module"
"""How the driver of 3.10 to 4.1 stands in the list; since 4.2 it is `vmbus/hv_vss` (section 3.1)."""
_OLD_RELEASE: Final = "3.10"
_FIRST_TIMER: Final = (3, 19)
_HIBERNATION: Final = (5, 7)


@dataclass(frozen=True, slots=True)
class Profile:
    """One driver's ways."""

    confirms: bool
    """Whether it answers registration 129. The older one knows registration 128 alone and answers nothing; to it 129 is
    the reply to a request, and it may not have one. From 4.8 on 128 is taken and does nothing."""
    has_timer: bool
    """Whether it gives up a request by itself. If not, it waits for the answer for ever, and takes nothing else."""
    tells_of_hibernation: bool
    """Whether it sends a thaw that no host has asked for, when the machine hibernates (section 1.6)."""
    budgets: Budgets
    """How long answers may take."""

    @property
    def registration(self) -> int:
        """The number with which a daemon registers."""
        return REGISTER if self.confirms else REGISTER_LEGACY


def profile_of(name: str, release: str, settings: LinuxNetlinkSettings) -> Profile:
    """The profile of the driver that stands in the connector's list as `name`.

    Args:
        name: as in the list.
        release: of the kernel, as uname(2) has it: `4.18.0-553.el8.x86_64`. One that cannot be read counts as old.
        settings: what the administrator set.
    """
    is_old, version = name == OLD_NAME, kernel_version(release)
    return Profile(
        confirms=not is_old,
        has_timer=not is_old or (version or _FIRST_TIMER) >= _FIRST_TIMER,
        tells_of_hibernation=not is_old and (version or _HIBERNATION) >= _HIBERNATION,
        # The oldest has no timer upstream, but it may have one here: it is answered as soon as those after it.
        budgets=settings.budgets(_OLD_RELEASE if is_old else release),
    )
