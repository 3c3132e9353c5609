"""The tender: a process that keeps enough workers alive, and their end of the line to it."""
