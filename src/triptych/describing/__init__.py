"""What a file holds, as triptych reads it: facts, and warnings of what usually goes wrong."""
