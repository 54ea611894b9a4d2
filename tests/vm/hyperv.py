"""The guest as one of Hyper-V's: Debian's unmodified driver over the bus that stands in for Hyper-V's."""

from __future__ import annotations

from typing import Final

from tests.vm.guest import Guest
from tests.vm.stage import IN_GUEST

DEVICE: Final = "/dev/vmbus/hv_vss"
"""The driver's device."""
OK: Final = 0
FAILED: Final = 0x80004005
"""HV_E_FAIL: the status of a reply that refuses."""


def load_driver(guest: Guest) -> None:
    """Load the bus and the driver, and have the host negotiate.

    The driver is loaded by force: the versions of six of its eight symbols from the bus differ, since they are
    computed from all that a module includes. Their types are the same.
    """
    guest.check("insmod", f"{IN_GUEST}/hv_vmbus_stand_in.ko")
    guest.check("sh", "-c", "insmod -f /lib/modules/$(uname -r)/kernel/drivers/hv/hv_utils.ko")
    assert guest.hyperv("negotiate")["status"] == OK
