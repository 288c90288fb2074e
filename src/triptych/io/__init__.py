"""The only code of triptych that knows a file format, and how outputs are written: whole or not at all."""
