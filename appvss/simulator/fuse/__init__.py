"""FUSE with nothing but the standard library: the protocol, the conversation, the mount, and folders of nodes."""
