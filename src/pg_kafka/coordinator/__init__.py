"""Rules without I/O: what a request means and what follows from it. No sockets, clocks, randomness or SQL in here."""
