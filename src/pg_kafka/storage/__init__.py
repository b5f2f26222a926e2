"""Everything that speaks SQL: the log, its segments, topics, state, and the schema they live in."""
