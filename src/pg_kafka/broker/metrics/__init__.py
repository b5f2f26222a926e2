"""Where metrics and health are served, and the sources that know the broker.

http.py      the HTTP server: bounded in connections, bytes and time
health.py    what /healthz and /readyz say
process.py   the program, its process and the metrics themselves
lag.py       how far consumer groups are behind
"""
