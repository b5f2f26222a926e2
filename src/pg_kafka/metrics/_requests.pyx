# cython: language_level=3, boundscheck=True, cdivision=True
"""Requests, counted and timed natively: the broker does this for each of them, so that it may take a few dozen nanoseconds.

    arrived ---> started ---> handed over ---> begun ---> committed ---> finished
            queue        work             lane       database       work

    throttle    the part of the queue in which the connection was not read, because of its client's quota
    waited      for what the client itself asked to wait for: records to read, other members of a group
    work        all else between started and finished

    watch = Watch(Clock(), commit)       of one connection
    watch.arrived(loop.time(), 1)        a whole request is here
    timing = watch.started(loop.time())  its turn has come
    timing.park(); timing.unpark()       it waits on purpose, and no more
    timing.hand_over()                   what is left to be done is a commit
    counters.on_answer(...)              it is over: count it

Times are seconds of the monotonic clock, as `time.monotonic()` gives them.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_Check, PyBytes_GET_SIZE
from cpython.tuple cimport PyTuple_Check, PyTuple_GET_ITEM, PyTuple_GET_SIZE
from libc.math cimport INFINITY
from libc.string cimport memset

cdef extern from "<time.h>" nogil:
    ctypedef long time_t
    ctypedef int clockid_t
    cdef struct timespec:
        time_t tv_sec
        long tv_nsec
    clockid_t CLOCK_MONOTONIC
    int clock_gettime(clockid_t clock, timespec *time)

cdef enum:
    BOUNDS = 15
    PARTS = 7
    ARRIVALS = 8  # a power of two
    RECORDS_AT = 57  # in a batch: how many records it has

# A turn of the event loop that has gone on for longer has held up what arrived with it.
cdef double LONG_TURN_S = 0.002
# The event loop tells whole milliseconds; so much later it was in the mean.
cdef double LOOP_CLOCK_S = 0.0005

cdef double[BOUNDS] UPPER = [
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
]
BOUNDS_S = tuple(UPPER)

PART_NAMES = ("total", "queue", "work", "lane", "database", "waited", "throttle")
cdef enum:
    TOTAL
    QUEUE
    WORK
    LANE
    DATABASE
    WAITED
    THROTTLE

UNSERVED = -1
MIXED = -2
cdef int UNSUPPORTED_VERSION = 35
cdef int IS_CONTROL = 0x20  # of a batch's attributes


cdef class Clock:
    """The monotonic clock."""

    cdef double now(self) noexcept:
        cdef timespec time
        clock_gettime(CLOCK_MONOTONIC, &time)
        return time.tv_sec + time.tv_nsec * 1e-9


@cython.final
cdef class SetClock(Clock):
    """A clock for tests, which goes when it is told to."""

    cdef public double seconds

    def __init__(self, double seconds = 1000.0):
        self.seconds = seconds

    cdef double now(self) noexcept:
        return self.seconds


@cython.final
cdef class Commit:
    """The transaction whose answers are given just now: those who are answered meanwhile have waited for it.

    Lanes say so around the callbacks of a transaction, which run one after the other on the event loop's thread.
    """

    cdef Clock _clock
    cdef double _begun
    cdef double _ended
    cdef bint _is_on

    def __init__(self, Clock clock = None):
        self._clock = Clock() if clock is None else clock
        self._begun = self._ended = 0.0
        self._is_on = False

    def now(self):
        return self._clock.now()

    def enter(self, double begun_s):
        """A transaction that began then is over, and those who waited for it are answered. 0: it never began."""
        self._ended = self._clock.now()
        self._begun = begun_s if begun_s > 0 else self._ended
        self._is_on = True

    def leave(self):
        self._is_on = False


cdef struct Arrival:
    double at
    int frames


@cython.final
cdef class Watch:
    """When the requests of one connection arrived and started, and how long it was not read for a quota."""

    cdef Clock _clock
    cdef Commit _commit
    cdef Arrival[ARRIVALS] _arrivals
    cdef int _first
    cdef int _count
    cdef double _muted
    cdef double _unmuted

    def __init__(self, Clock clock, Commit commit):
        self._clock = clock
        self._commit = commit
        self._first = self._count = 0
        self._muted = self._unmuted = 0.0

    def arrived(self, double turn_s, int frames):
        """So many requests have come in this turn of the event loop, which began at `turn_s` by its clock."""
        if frames <= 0:
            return
        if self._count == ARRIVALS:  # the newest stand for what follows
            self._arrivals[(self._first + self._count - 1) & (ARRIVALS - 1)].frames += frames
            return
        cdef Arrival *last = &self._arrivals[(self._first + self._count) & (ARRIVALS - 1)]
        last.at = self._in_turn(turn_s)
        last.frames = frames
        self._count += 1

    cdef inline double _in_turn(self, double turn_s) noexcept:
        cdef double now = self._clock.now()
        return turn_s + LOOP_CLOCK_S if now - turn_s > LONG_TURN_S else now

    def started(self, double turn_s):
        """The turn of the oldest one that has not started has come; if none is known, one has come in this turn of the loop."""
        cdef Timing timing = Timing.__new__(Timing, self)
        cdef Arrival *first
        cdef double now = self._clock.now()
        timing._started = now
        if self._count == 0:
            timing._arrived = turn_s + LOOP_CLOCK_S if now - turn_s > LONG_TURN_S else now
        else:
            first = &self._arrivals[self._first]
            timing._arrived = min(first.at, timing._started)
            first.frames -= 1
            if first.frames == 0:
                self._first = (self._first + 1) & (ARRIVALS - 1)
                self._count -= 1
        if self._unmuted > timing._arrived:
            timing._throttle = max(0.0, min(self._unmuted, timing._started) - max(self._muted, timing._arrived))
        return timing

    def mute(self):
        """The connection is not read for a while because of a quota."""
        if self._unmuted >= self._muted:
            self._muted = self._clock.now()
            self._unmuted = 0.0

    def unmute(self):
        self._unmuted = self._clock.now()


@cython.final
@cython.freelist(64)
cdef class Timing:
    """Where the time of one request goes."""

    cdef Watch _watch
    cdef public object request  # while somebody may ask what it was about
    cdef double _arrived
    cdef double _started
    cdef double _finished
    cdef double _throttle
    cdef double _waited
    cdef double _lane
    cdef double _database
    cdef double _parked
    cdef double _resumed
    cdef double _handed
    cdef double _asked
    cdef int _questions
    cdef bint _is_settled

    def __cinit__(self, Watch watch not None):
        self._watch = watch
        self._finished = self._throttle = self._waited = self._lane = self._database = 0.0
        self._parked = self._resumed = self._handed = 0.0
        self._asked = 0.0
        self._questions = 0
        self._is_settled = False

    def park(self):
        """It waits from now on for what its client asked to wait for."""
        if self._parked == 0.0:
            self._parked = self._watch._clock.now()

    def unpark(self):
        """It goes on."""
        if self._parked != 0.0:
            self._resumed = self._watch._clock.now()
            self._waited += self._resumed - self._parked
            self._parked = 0.0

    def hand_over(self):
        """From now on it waits for a commit; until `settle`, or its end."""
        if self._handed == 0.0:
            self._handed = self._watch._clock.now()
            self._is_settled = False

    def settle(self):
        """It waits for a commit no more: what it waited for is being answered just now."""
        self._settle(self._watch._clock.now())

    cdef void _settle(self, double now) noexcept:
        cdef Commit commit = self._watch._commit
        cdef double since = self._handed
        cdef double begun
        if commit._is_on:
            if since == 0.0:
                since = max(self._started, self._resumed)  # nobody has said when it began to wait
            begun = min(max(commit._begun, since), commit._ended)
            self._lane += max(0.0, begun - since)
            self._database += max(0.0, commit._ended - begun)
        elif since != 0.0:
            self._lane += max(0.0, now - since)
        self._handed = 0.0
        self._is_settled = True

    def ask(self):
        """Something is asked of PostgreSQL for it. Of questions at the same time, the time counts once."""
        if self._questions == 0:
            self._asked = self._watch._clock.now()
        self._questions += 1

    def answered(self):
        """That is answered, or has failed."""
        self._questions -= 1
        if self._questions == 0:
            self._database += self._watch._clock.now() - self._asked

    def finish(self):
        """It is answered, or will not be."""
        cdef double left
        if self._finished != 0.0:
            return
        self._finished = self._watch._clock.now()
        self.unpark()
        if not self._is_settled and (self._handed != 0.0 or self._watch._commit._is_on):
            self._settle(self._finished)
        # What happened at the same time counts no longer than the request was there.
        left = self._finished - self._started - self._waited
        if self._lane + self._database > left:
            self._lane = min(self._lane, max(0.0, left))
            self._database = max(0.0, left - self._lane)

    @property
    def arrived_s(self):
        return self._arrived

    @property
    def started_s(self):
        return self._started

    @property
    def finished_s(self):
        self.finish()
        return self._finished

    @property
    def throttle_s(self):
        return self._throttle

    @property
    def queue_s(self):
        return self._started - self._arrived - self._throttle

    @property
    def waited_s(self):
        self.finish()
        return self._waited

    @property
    def lane_s(self):
        self.finish()
        return self._lane

    @property
    def database_s(self):
        self.finish()
        return self._database

    @property
    def work_s(self):
        self.finish()
        return max(0.0, self._finished - self._started - self._waited - self._lane - self._database)

    @property
    def total_s(self):
        """From the arrival to the end, without what was waited for on purpose or because of a quota."""
        self.finish()
        return max(0.0, self._finished - self._arrived - self._throttle - self._waited)


@cython.final
cdef class Times:
    """Histograms of one API: where the time went."""

    cdef long long[PARTS][BOUNDS + 1] _counts
    cdef double[PARTS] _totals

    def __cinit__(self):
        memset(self._counts, 0, sizeof(self._counts))
        memset(self._totals, 0, sizeof(self._totals))

    cdef inline void add(self, int part, double seconds) noexcept:
        cdef int bound = 0
        while bound < BOUNDS and seconds > UPPER[bound]:
            bound += 1
        self._counts[part][bound] += 1
        self._totals[part] += seconds

    def counts(self, int part):
        """By bound, not summed up; the last one is for all above."""
        if not 0 <= part < PARTS:
            raise IndexError(part)
        return [self._counts[part][bound] for bound in range(BOUNDS + 1)]

    def total(self, int part):
        if not 0 <= part < PARTS:
            raise IndexError(part)
        return self._totals[part]


@cython.final
cdef class Count:
    """Requests of one kind: of an API in a version, by one class of principals, that ended alike."""

    cdef readonly int api_key
    cdef readonly int api_version
    cdef readonly int error_code
    cdef readonly str kind
    cdef readonly long long requests
    cdef readonly long long request_bytes
    cdef readonly long long response_bytes
    cdef Times _times

    @property
    def times(self):
        return self._times


@cython.final
cdef class RequestCounters:
    """Counts requests and says which were slow. An observer (`broker/observer.py`)."""

    cdef dict _counts
    cdef dict _times
    cdef object _served
    cdef Count _last
    cdef int _most
    cdef double _slow_s
    cdef object _on_slow

    def __init__(self, served, int most):
        """`served` holds the keys of APIs that have a name; `most` is how many kinds of requests are told apart."""
        self._counts = {}
        self._times = {}
        self._served = frozenset(served)
        self._last = None
        self._most = most
        self._slow_s = INFINITY
        self._on_slow = None

    def watch_slow(self, double slow_s, on_slow):
        """Call `on_slow(header, who, timing, error_code)` for each request that takes so long without waiting on purpose.

        None: for none.
        """
        self._slow_s = INFINITY if on_slow is None else slow_s
        self._on_slow = on_slow

    def on_answer(
        self,
        header,
        who,
        Timing timing not None,
        long long request_bytes,
        long long response_bytes,
        int error_code,
    ):
        if not PyTuple_Check(header) or PyTuple_GET_SIZE(header) < 2:  # it is a named one, which is no `tuple` to Cython
            raise TypeError("the header is no tuple")
        cdef int key = <object>PyTuple_GET_ITEM(header, 0)
        cdef int version = <object>PyTuple_GET_ITEM(header, 1)
        cdef object kind = who.kind
        cdef Count count = self._last
        cdef Times times
        cdef double between, work, total
        timing.finish()
        if (
            count is None
            or count.api_key != key
            or count.api_version != version
            or count.error_code != error_code
            or count.kind is not kind
        ):
            count = self._last = self._count(key, version, kind, error_code)
        count.requests += 1
        count.request_bytes += request_bytes
        count.response_bytes += response_bytes
        times = count._times
        between = timing._started - timing._arrived - timing._throttle
        work = timing._finished - timing._started - timing._waited - timing._lane - timing._database
        if work < 0.0:
            work = 0.0
        total = between + work + timing._lane + timing._database
        times.add(TOTAL, total)
        times.add(QUEUE, between)
        times.add(WORK, work)
        if timing._lane != 0.0:
            times.add(LANE, timing._lane)
        if timing._database != 0.0:
            times.add(DATABASE, timing._database)
        if timing._waited != 0.0:
            times.add(WAITED, timing._waited)
        if timing._throttle != 0.0:
            times.add(THROTTLE, timing._throttle)
        if total >= self._slow_s:
            self._on_slow(header, who, timing, error_code)

    cdef Count _count(self, int key, int version, kind, int error_code):
        if error_code == UNSUPPORTED_VERSION:
            version = UNSERVED  # a client may ask for any
        if key not in self._served:
            key = version = UNSERVED
        place = (key, version, kind, error_code)
        found = self._counts.get(place)
        if found is None and len(self._counts) >= self._most:
            place = (MIXED, MIXED, "", MIXED)
            found = self._counts.get(place)
        if found is None:
            found = self._counts[place] = self._new(place)
        return found

    cdef Count _new(self, tuple place):
        cdef Count count = Count.__new__(Count)
        key, version, kind, error_code = place
        count.api_key, count.api_version, count.kind, count.error_code = key, version, kind, error_code
        count.requests = count.request_bytes = count.response_bytes = 0
        times = self._times.get(key)
        if times is None:
            times = self._times[key] = Times()
        count._times = times
        return count

    @property
    def wants_requests(self):
        """Those of slow requests are shown."""
        return self._on_slow is not None

    @property
    def counts(self):
        """All kinds of requests there have been."""
        return list(self._counts.values())

    @property
    def times(self):
        """By API key."""
        return dict(self._times)


@cython.final
cdef class Traffic:
    """What has been written to one topic, and read from it."""

    cdef readonly long long in_bytes
    cdef readonly long long in_records
    cdef readonly long long out_bytes
    cdef readonly long long out_records

    def written(self, list appends not None):
        """These batches (`storage/partition.py: Append`) are committed. Markers of transactions are no records."""
        for append in appends:
            batch = append.batch
            if not batch.attributes & IS_CONTROL:
                self.in_bytes += len(batch.wire)
                self.in_records += batch.count

    def read(self, list batches not None):
        """These batches are sent to a consumer."""
        cdef const unsigned char *at
        cdef Py_ssize_t size
        cdef object batch
        for batch in batches:
            if not PyBytes_Check(batch):
                raise TypeError("a batch is no bytes")
            size = PyBytes_GET_SIZE(batch)
            self.out_bytes += size
            if size >= RECORDS_AT + 4:
                at = <const unsigned char *>PyBytes_AS_STRING(batch) + RECORDS_AT
                self.out_records += (<long long>at[0] << 24) | (at[1] << 16) | (at[2] << 8) | at[3]
