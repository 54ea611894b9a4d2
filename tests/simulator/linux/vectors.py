"""The vectors C1 to C29 of facts/linux-hv-vss.md section 7.1, and the profiles of older kernels, as scripts.

A line is an act and, after an arrow, all that must come of it: `12` (bytes taken by a write), a message that was read,
an errno, `R STATUS [flags=N]` for each reply of the host's, what poll shows (`in`, `idle`, `hup`), the driver's phase.

    open, close; rd [SIZE]; wr MESSAGE; H OPERATION (the host asks); remove; hibernate
    +SECONDS: time passes; race+SECONDS: time passes, and the timer and the next act meet
"""

from __future__ import annotations

from dataclasses import dataclass

MESSAGES = {
    "REG": "810000000000000000000000",
    "REG-DIRTY": "817f0000a01f7a3900000000",
    "REG128": "800000000000000000000000",
    "ANSWER": "81000000",
    "CHECK": "020000000000000000000000",
    "FREEZE": "050000000000000000000000",
    "THAW": "060000000000000000000000",
    "OK": "000000000000000000000000",
    "FAIL": "054000800000000000000000",
    "LIKE-REG": "800007800000000000000000",
    "TWO": "020000000000000000000000",
    "SHORT": "00000000",
}
REGISTERED = "open\nwr REG -> 12, in\nrd 4 -> ANSWER, READY\n"


@dataclass(frozen=True, slots=True)
class Vector:
    number: str
    script: str
    kernel: str = "6.1"
    on_files: bool = True
    """Whether FUSE can show it: Linux's VFS returns 0 for a write of no bytes before the device is asked."""


def _frozen(*lines: str) -> str:
    return REGISTERED + "H freeze -> in\nrd -> FREEZE\n" + "\n".join(lines)


VECTORS = [
    Vector("C1", "open\nwr REG -> 12, in, INIT\nrd 64 -> ANSWER, READY, idle"),
    Vector("C1b", "open\nwr REG-DIRTY -> 12, in\nrd 4 -> ANSWER, READY"),
    Vector("C2", "open\nwr REG -> 12\nwr REG -> EFAULT\nrd 4 -> ANSWER, READY\nwr REG -> 12\nrd 4 -> ANSWER, READY"),
    Vector("C3", "open\nwr REG -> 12\nrd 3 -> EINVAL, in\nrd 4 -> ANSWER"),
    Vector("C4", "open\nwr REG128 -> 12, idle, INIT\nH freeze -> R 80004005, idle, INIT"),
    Vector("C5", REGISTERED + "H check -> in\nrd -> CHECK\nwr OK -> 12, R 0, READY"),
    Vector("C6", _frozen("wr OK -> 12, R 0, READY")),
    Vector("C7", _frozen("wr FAIL -> 12, R 80004005, READY")),
    Vector(
        "C8", REGISTERED + "H thaw -> in\nrd -> THAW\nwr OK -> 12, R 0\nH thaw\nrd -> THAW\nwr FAIL -> 12, R 80004005"
    ),
    Vector("C9 3", REGISTERED + "H dm_info -> R 0 flags=0, idle, READY"),
    *(Vector(f"C9 {op}", REGISTERED + f"H {op} -> R 0, idle, READY") for op in (0, 1, 4, 7, 8, 200, 255)),
    Vector("C10", "open\nH dm_info -> R 0 flags=0, READY\nH freeze -> in\nrd -> FREEZE\nwr OK -> 12, R 0"),
    Vector("C10 and then the registration", "open\nH dm_info -> R 0 flags=0\nH freeze\nwr REG -> EINVAL\nrd -> FREEZE"),
    Vector("C11", "H dm_info -> R 0 flags=0, READY\nH freeze -> R 80004005, READY"),
    Vector("C12", "open\nH freeze -> R 80004005, INIT, idle\nH thaw -> R 80004005\nH check -> R 80004005"),
    *(
        Vector(f"C13 {size}", REGISTERED + f"wr {'00' * size} -> EINVAL, READY", on_files=bool(size))
        for size in (0, 1, 4, 8, 11, 13, 24, 4096)
    ),
    Vector("C14", "open\nwr OK -> EINVAL, INIT\nwr REG -> 12\nrd 4 -> ANSWER\nwr OK -> EINVAL, READY"),
    Vector("C15", _frozen("wr REG -> EINVAL, USERSPACE_REQ", "wr OK -> 12, R 0")),
    Vector("C16", _frozen("wr LIKE-REG -> EINVAL, USERSPACE_REQ", "+899 -> USERSPACE_REQ", "+1 -> R 80004005, READY")),
    Vector("C17", REGISTERED + "H check\nrd -> CHECK\nwr TWO -> 12, R 2 flags=5"),
    Vector("C18", "open\nopen -> EBUSY"),
    Vector("C19 read", _frozen("close -> R 80004005, INIT", "open\nwr REG -> 12\nrd 4 -> ANSWER")),
    Vector("C19 unread", REGISTERED + "H freeze\nclose -> R 80004005, INIT\nopen -> idle"),
    Vector("C20", _frozen("wr OK -> 12, R 0", "close -> INIT", "H thaw -> R 80004005")),
    Vector("C21", _frozen("+899", "+1 -> R 80004005, READY", "wr OK -> EINVAL")),
    Vector("C22 thaw", REGISTERED + "H thaw\nrd -> THAW\n+29\n+1 -> R 80004005, READY\nwr OK -> EINVAL"),
    Vector("C22 check", REGISTERED + "H check\nrd -> CHECK\n+30 -> R 80004005, READY\nwr OK -> EINVAL"),
    Vector("C23", _frozen("+900 -> R 80004005", "H thaw -> in", "wr OK -> 12, R 0", "rd -> THAW", "wr OK -> EINVAL")),
    Vector(
        "an unread one is in the way",
        REGISTERED + "H check\n+30 -> R 80004005, in\nH freeze -> R 80004005, READY\nrd -> CHECK",
    ),
    Vector("C24", _frozen("race+900\nwr OK -> 12, R 80004005, READY")),
    Vector("C25", REGISTERED + "H check\nH check\nrd -> CHECK\nwr OK -> 12, R 0, in\nrd -> CHECK\nwr OK -> 12, R 0"),
    Vector("C26", REGISTERED + "hibernate -> in, READY\nrd -> THAW\nwr OK -> EINVAL"),
    Vector("C26 with an operation", _frozen("hibernate -> in, READY", "rd -> THAW", "wr OK -> EINVAL", "+900")),
    Vector("C26 unread", REGISTERED + "H freeze\nhibernate -> in, READY\nrd -> FREEZE, idle\nwr OK -> EINVAL"),
    Vector("C26 twice", "hibernate -> READY\nopen -> idle\nhibernate -> in\nrd -> THAW\nhibernate"),
    Vector(
        "C27", REGISTERED + "remove -> hup\nrd -> EBADF\nwr OK -> EBADF\nopen -> EBADF\nclose -> gone\nopen -> ENOENT"
    ),
    Vector("C27 with an operation", _frozen("remove -> hup", "wr OK -> EBADF", "close -> gone", "+900")),
    Vector("C27 not open", "remove -> gone\nopen -> ENOENT"),
    Vector(
        "a ring",
        REGISTERED + "H freeze\nrd -> FREEZE\nH dm_info\nH thaw\nwr OK -> 12, R 0, R 0 flags=0, in\nrd -> THAW",
    ),
    Vector(
        "after a close the ring is not looked at", _frozen("H thaw", "close -> R 80004005", "H dm_info -> R 80004005")
    ),
    # older kernels
    Vector("C1 4.7", "open\nwr REG -> 12, in, READY\nrd 4 -> ANSWER, READY", "4.7"),
    Vector("C4 4.7", "open\nwr REG128 -> 12, idle, READY\nH freeze -> in\nrd -> FREEZE\nwr OK -> 12, R 0", "4.7"),
    Vector("C4 4.8", "open\nwr REG128 -> 12, idle, INIT\nH freeze -> R 80004005", "4.8"),
    Vector("C13 4.4", REGISTERED + "wr SHORT -> EFAULT\nwr OK -> EFAULT", "4.4"),
    Vector("C13 4.5", REGISTERED + "wr SHORT -> EINVAL\nwr OK -> EINVAL", "4.5"),
    Vector("C5 4.8", REGISTERED + "H check -> R 0 flags=5, idle, READY", "4.8"),
    Vector("C5 4.8, nobody there", "H check -> R 0 flags=5, READY", "4.8"),
    Vector("C5 4.9", REGISTERED + "H check\nrd -> CHECK\nwr OK -> 12, R 0", "4.9"),
    *(
        Vector(f"C21 {kernel} {operation}", REGISTERED + f"H {operation}\n+9 -> in\n+1 -> R 80004005, READY", kernel)
        for kernel in ("4.4", "4.9")
        for operation in ("freeze", "thaw")
    ),
    Vector("C22 4.9 check", REGISTERED + "H check\n+9 -> in\n+1 -> R 80004005, READY", "4.9"),
    Vector("C21 4.10", _frozen("+899", "+1 -> R 80004005"), "4.10"),
]
