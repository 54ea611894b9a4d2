"""The test vectors 1 to 56 of facts/freebsd-vss.md section 9, as data.

One step a line, `action -> what is expected`. `A` and `F` are the app and the fs device.

Actions: `H check` the host sends (`ic=11`: with that transaction id); `A rd` READ; `A wr 0` WRITE of the message last
read there, with that status (`opt=3`, `msgid+1`, `reserved`: changed so; `of A`: the message last read on A; `unread`:
of the request that nobody has read); `A ioctl` an unknown one; `open A`; `close A`; `+15` time passes, in seconds;
`race+15` time passes and the timers have not run yet; `detach`.

Expected: `A P` poll shows POLLIN; `A -` it does not; `(2,0)` what READ brought, opt and status; `same` it has the msgid
of the READ before; `newest` it has the msgid of the newest request; `R ok`, `R fail` the host receives (`id=1`: the
reply to the first message sent; `op=6`, `ic=22`, `body=0`: what it holds, if not that message's own); `EBUSY`;
`stamped` the request's msgid is the time now; `kills F A`; `panic`. A step whose line names no `R` must bring the host
nothing.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Vector:
    number: str
    start: str
    """What is open before the first step: `A`, `F`, `A F`, `F closed` for opened and closed."""
    script: str


VECTORS = [
    Vector(
        "1",
        "A",
        """
        H check -> A -
        +60     -> A -
        open F  -> A P, F -, stamped
        A rd    -> (1,0)
        A wr 0  -> F P
        F rd    -> (1,0), same
        F wr 0  -> R ok body=5
        """,
    ),
    Vector("2", "A F", "open A -> EBUSY\nopen F -> EBUSY"),
    Vector(
        "3",
        "A, F closed",
        """
        H check  -> R fail body=5, A -
        H freeze -> R fail, A -
        H thaw   -> R fail, A -
        H dm     -> R fail body=0, A -
        """,
    ),
    Vector("4", "F closed", "open F\nH check -> F P\nF rd -> (1,0)\nF wr 0 -> R ok"),
    Vector("5", "A F", "A ioctl\nF ioctl"),
    Vector("6", "A F", "close A\ndetach -> kills F A"),
    Vector(
        "12",
        "F",
        """
        H check  -> F P
        F rd     -> (1,0)
        F wr 0   -> R ok body=5
        H freeze -> F P
        F rd     -> (2,0)
        F wr 0   -> R ok
        H thaw   -> F P
        F rd     -> (3,0)
        F wr 0   -> R ok
        """,
    ),
    *(
        Vector(
            f"13 {operation}",
            "A F",
            f"""
            H {operation} -> A P, F -
            A rd          -> ({opt},0)
            A wr 0        -> A -, F P
            F rd          -> ({opt},0), same
            F wr 0        -> R ok
            """,
        )
        for operation, opt in (("check", 1), ("freeze", 2))
    ),
    Vector(
        "14",
        "A F",
        """
        H thaw -> A -, F P
        F rd   -> (3,0)
        F wr 0 -> A P, F -
        A rd   -> (3,0), same
        A wr 0 -> R ok
        """,
    ),
    Vector("15", "A F", "H check -> A P\nA rd -> (1,0)\nA wr 1 -> R fail body=5, F -\nF rd -> (0,1)"),
    Vector("16", "A F", "H freeze -> A P\nA rd -> (2,0)\nA wr 1 -> R fail, F -"),
    Vector("17", "A F", "H freeze\nA rd\nA wr 0 -> F P\nF rd\nF wr 1 -> R fail, A -\nA rd -> (0,1)"),
    Vector("18", "A F", "H thaw\nF rd\nF wr 1 -> R fail, A -\nA rd -> (0,1)"),
    Vector("19", "A F", "H thaw\nF rd\nF wr 0 -> A P\nA rd\nA wr 1 -> R fail"),
    Vector("20", "A F", "H freeze\nA rd\nA wr 0x100 -> F P"),
    Vector("21", "F", "H freeze\nF rd\nF wr 0x100 -> R fail"),
    Vector("22", "A F", "H freeze\n+14.999 -> A P\n+0.001 -> R fail, A -\nA rd -> (0,1)"),
    Vector("23", "A F", "H freeze\nA rd -> (2,0)\n+15 -> R fail\nA wr 0 -> F -"),
    Vector("24", "A F", "H freeze\n+10\nA rd\nA wr 0 -> F P\n+4.999 -> F P\n+0.001 -> R fail, F -"),
    Vector("25", "F", "H check\n+15 -> R fail body=5, F -"),
    Vector(
        "26",
        "A F",
        """
        H freeze
        A rd   -> (2,0)
        +15    -> R fail
        H thaw -> F P
        F rd   -> (3,0)
        F wr 0 -> A P
        A rd   -> (3,0), same
        A wr 0 -> R ok
        """,
    ),
    Vector("27", "A F", "H freeze\nA rd\nA wr 0 -> F P\nF rd\nrace+15\nF wr 0 -> R fail, R ok\nH check -> A P"),
    Vector("28", "A F", "A rd -> (0,1)\nF rd -> (0,1)"),
    Vector("29", "A F", "H freeze\nA wr 0 unread -> A P, F -\nA rd -> (2,0)\nA wr 0 -> F P"),
    Vector("30", "A F", "H freeze\nA rd\nA wr 0 msgid+1 -> F -\nA wr 0 reserved -> F P"),
    Vector("31", "A F", "H freeze\nA rd\nA wr 0 -> F P\nA wr 0 -> F P\nF rd -> (2,0), same\nF rd -> (0,1)"),
    Vector("32", "A F", "H freeze\nA rd\nF wr 0 of A -> F -, A -\nA wr 0 -> F P"),
    Vector("33", "A F", "H freeze\nA rd\nA wr 0 opt=3 -> R ok, F -"),
    Vector("34", "A F", "H freeze\nA rd\nA wr 0 opt=0 -> F -\n+14.999\n+0.001 -> R fail"),
    Vector("35", "A F", "H check\nA rd\nA wr 0 -> F P\nF rd\nF wr 0 opt=3 -> A P\nA rd -> (1,0), same"),
    Vector("36", "F", "H freeze\nF rd -> (2,0)\nF rd -> (0,1)"),
    Vector(
        "37",
        "A F",
        """
        H freeze ic=11 -> A P
        H thaw ic=22   -> A P, F -
        A rd           -> (2,0)
        A wr 0         -> F P
        F rd           -> (2,0), same
        F wr 0         -> R ok id=1 op=6 ic=22
        +60
        """,
    ),
    Vector(
        "38",
        "A F",
        """
        H freeze ic=11 -> A P
        H dm ic=33     -> R ok id=2 body=0
        A rd           -> (2,0)
        A wr 0         -> F P
        F rd           -> (2,0)
        F wr 0         -> R ok id=1 op=3 ic=33 body=0
        """,
    ),
    Vector(
        "39",
        "A F",
        """
        H check ic=11 -> A P
        H dm ic=33    -> R ok id=2 body=0
        A rd          -> (1,0)
        A wr 0        -> F P
        F rd          -> (1,0)
        F wr 0        -> R ok id=1 op=3 ic=33 body=5
        """,
    ),
    Vector("40", "F", "H 0\nH 1\nH 4\nH 7\nH 9\n+60 -> F -"),
    Vector("41", "A F", "H freeze -> stamped\nclose A\nopen A -> A P\nA rd -> (2,0), newest"),
    Vector("42", "A F", "H freeze\nA rd\nclose A\nopen A -> A -\nA wr 0 -> F P"),
    Vector("43", "A F", "H freeze\nA rd\nclose A\n+15 -> R fail, F -\nH freeze -> F P"),
    Vector(
        "44",
        "A F",
        "H freeze\nA rd\nA wr 0\nF rd\nF wr 0 -> R ok\nclose A\nH thaw -> F P\nF rd\nF wr 0 -> R ok\nopen A -> A -",
    ),
    Vector("45", "F", "H freeze\nF rd\nF wr 0 -> R ok\nopen A\nH thaw\nF rd\nF wr 0 -> A P\nA rd -> (3,0), same"),
    Vector("46", "F", "H check\nopen A -> A -\nF rd\nF wr 0 -> R ok, A -"),
    Vector("47", "F", "H thaw\nF rd\nopen A\nF wr 0 -> A P\nA rd -> (3,0)\nA wr 0 -> R ok"),
    Vector("48", "A F", "H thaw\nF rd\nclose A\nF wr 0 -> R ok"),
    Vector("49", "F", "H freeze\nclose F\nopen F -> F P\nF rd -> (2,0)\nF wr 0 -> R ok"),
    *(
        Vector(
            f"50 wr {status}",
            "A F",
            f"H freeze\nA rd\nclose F\nA wr {status} -> A -\n+14.999\n+0.001 -> R fail",
        )
        for status in (0, 1)
    ),
    Vector(
        "51",
        "A F",
        """
        H freeze ic=11
        A rd
        close F
        A wr 0
        +1
        open F
        H thaw ic=22 -> F P
        F rd         -> (3,0)
        F wr 0       -> A P
        A rd         -> (3,0), same
        A wr 0       -> R ok id=2
        +13.999
        +0.001       -> R fail id=1 op=6 ic=22
        """,
    ),
    Vector("52", "A F", "H freeze\nA rd\nA wr 0\nF rd\nF wr 0 -> R ok\nclose F\nH thaw -> R fail, A -"),
    Vector("56", "A F", "H freeze -> A P\nA rd -> (2,0), A -"),
]
"""All but the negotiation (7 to 11: test_hyperv.py) and the ways of waiting (53 to 55: test_waiting.py)."""

DEBUG_KERNEL = [
    Vector("27 debug", "A F", "H freeze\nA rd\nA wr 0\nF rd\nrace+15\nF wr 0 -> panic"),
    Vector("33 debug", "A F", "H freeze\nA rd\nA wr 0 opt=3 -> panic"),
    Vector("34 debug", "A F", "H freeze\nA rd\nA wr 0 opt=0 -> panic"),
    Vector("50 debug wr 0", "A F", "H freeze\nA rd\nclose F\nA wr 0\n+14.999\n+0.001 -> panic"),
    Vector("50 debug wr 1", "A F", "H freeze\nA rd\nclose F\nA wr 1\n+14.999\n+0.001 -> panic"),
]
