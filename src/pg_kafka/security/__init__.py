"""Rules of security without I/O: who somebody is, what they may do, how much they may take.

No sockets, clocks, randomness or SQL in here.
"""
