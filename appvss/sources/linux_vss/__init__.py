"""What both ways to Linux's Hyper-V VSS driver, its device and netlink, have in common: times, replies without ids, and
the daemon whose place is taken.
"""
