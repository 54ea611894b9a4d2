"""The demo: a host freezes three real apps through the FreeBSD device, copies their files, and the copy is checked."""
