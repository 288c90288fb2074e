"""The commands: each module reads files, writes one folder or file, and imports no other of them."""
