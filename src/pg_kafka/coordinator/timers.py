"""How machines name their deadlines.

A step gives a time for a name, which replaces the one before, or None, which cancels it; a name that is not mentioned
keeps its deadline. When it comes, the machine is told the name, once.
"""

TimerName = tuple[str, ...]
