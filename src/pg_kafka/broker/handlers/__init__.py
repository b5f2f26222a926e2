"""Request handlers, one family of APIs a file. Each one checks, asks the store, shapes the answer and returns."""
