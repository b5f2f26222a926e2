"""What moves records between the log and the rest of the database."""
