# cython: language_level=3, boundscheck=True, cdivision=True
"""Requests, counted and timed natively: the broker does this for each of them, so that it may take a few dozen nanoseconds.

    arrived ---> started ---> handed over ---> begun ---> committed ---> finished
            queue        work             lane       database       work

    throttle    the part of the queue in which the connection was not read, because of its client's quota
    waited      for what the client itself asked to wait for: records to read, other members of a group
    work        all else between started and finished

    watch = Watch(Clock(), commit, pace)    of one connection
    watch.arrived(loop.time(), 2, 0)        two whole requests are here, and none waited before them
    timing = watch.started(loop.time(), 1)  the turn of the first one has come, and it is to be timed (`Pace`)
    timing.park(); timing.unpark()          it waits on purpose, and no more
    timing.hand_over()                      what is left to be done is a commit
    answers.take(...)                       it is over: count it

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
    ALL = -1  # requests of a connection are timed
    RECORDS_AT = 57  # in a batch: how many records it has

# A turn of the event loop that has gone on for longer has held up what arrived with it.
cdef double LONG_TURN_S = 0.002
# The event loop tells whole milliseconds; so much later it was in the mean.
cdef double LOOP_CLOCK_S = 0.0005

cdef double[BOUNDS] UPPER = [
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
]
BOUNDS_S = tuple(UPPER)

# Frequent requests that are timed in a second when there are more. Of a quarter of a minute, the usual interval of
# Prometheus, 15 are then above the 99th percentile; and a microsecond for each is nothing to the processor.
cdef double TIMED_PER_S = 100.0
# How long requests are counted before it is said how many a second they are.
cdef double WINDOW_S = 0.2
# At most so many requests, in the mean, to one that is timed.
MOST_SPACING = 256

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


@cython.final
cdef class Pace:
    """Which requests are timed: all of them while they are few; of many one in some, which are drawn by lot.

    They are drawn as others are answered, so that most requests have nothing to do with it.
    """

    cdef int _most
    cdef int _spacing
    cdef long long _requests  # since then
    cdef double _since
    cdef long long _left  # requests before the next one that is drawn
    cdef unsigned int _lot

    def __init__(self, int most = 1):
        self._lot = 1
        self.most = most

    @property
    def most(self):
        """At most so many requests, in the mean, to one that is timed; 1: all are timed."""
        return self._most

    @most.setter
    def most(self, int most):
        self._most = most
        self._spacing = 1
        self._requests = 0
        self._left = 1
        self._since = 0.0

    @property
    def spacing(self):
        """So many requests, in the mean, to one that is timed just now."""
        return self._spacing

    cdef inline unsigned int _draw(self, unsigned int below) noexcept:
        self._lot ^= self._lot << 13  # Marsaglia's xorshift
        self._lot ^= self._lot >> 17
        self._lot ^= self._lot << 5
        return self._lot % below

    cdef void next(self, double now) noexcept:
        """One has been drawn: when is the next one?"""
        cdef double seconds = now - self._since
        if seconds >= WINDOW_S:
            self._spacing = <int>max(1.0, min(<double>self._most, self._requests / seconds / TIMED_PER_S))
            self._since = now
            self._requests = 0
        self._left = 1 if self._spacing == 1 else 1 + self._draw(2 * self._spacing - 1)
        self._requests += self._left

    def renew(self, double now):
        """Time all when they have become few. To be called whenever somebody looks at the figures."""
        if self._spacing > 1 and now - self._since > 2 * WINDOW_S:
            self.most = self._most


cdef struct Arrival:
    double at
    long long last  # the number of the last frame that arrived then


@cython.final
cdef class Watch:
    """When the requests of one connection arrived and started, and how long it was not read for a quota."""

    cdef Clock _clock
    cdef Commit _commit
    cdef Pace _pace
    cdef Arrival[ARRIVALS] _arrivals
    cdef int _first
    cdef int _count
    cdef long long _frames  # that were told of
    cdef double _muted
    cdef double _unmuted
    cdef readonly int until_timed  # requests to start, the one that is timed included; 0: not known, ALL: each

    def __init__(self, Clock clock not None, Commit commit not None, Pace pace not None):
        self._clock = clock
        self._commit = commit
        self._pace = pace
        self._first = self._count = 0
        self._frames = 0
        self._muted = self._unmuted = 0.0
        self.until_timed = ALL if pace._spacing == 1 else 0

    def arrived(self, double turn_s, int frames, int waiting):
        """So many requests have come in this turn of the event loop, which began at `turn_s` by its clock.

        `waiting` is how many of those before them have not started.
        """
        cdef Arrival *last
        if frames <= 0:
            return
        self._forget_before(self._frames - waiting + 1)
        self._frames += frames
        if self._count == ARRIVALS:  # the newest stand for what follows
            self._arrivals[(self._first + self._count - 1) & (ARRIVALS - 1)].last = self._frames
            return
        last = &self._arrivals[(self._first + self._count) & (ARRIVALS - 1)]
        last.at = self._in_turn(turn_s)
        last.last = self._frames
        self._count += 1

    def forget(self):
        """All of which was told have started."""
        self._count = 0

    cdef inline void _forget_before(self, long long number) noexcept:
        while self._count > 0 and self._arrivals[self._first].last < number:
            self._first = (self._first + 1) & (ARRIVALS - 1)
            self._count -= 1

    cdef inline double _in_turn(self, double turn_s) noexcept:
        cdef double now = self._clock.now()
        return turn_s + LOOP_CLOCK_S if now - turn_s > LONG_TURN_S else now

    cdef bint answered(self, Py_ssize_t under_way) noexcept:
        """One more request of the connection is answered. Is another one to be timed than it was said before?"""
        cdef Pace pace = self._pace
        cdef int before = self.until_timed
        pace._left -= 1
        if pace._left <= 0:
            pace.next(self._clock.now())
            if pace._spacing == 1:
                self.until_timed = ALL
            else:  # not always the next one: that may be the first of many that are sent together
                self.until_timed = 1 + pace._draw(2 * under_way + 1)
            return self.until_timed != before or before > 0
        if before == ALL and pace._spacing > 1:
            self.until_timed = 0
            return True
        return False

    def started(self, double turn_s, int behind):
        """The turn of one has come that is to be timed; so many that have arrived after it have to wait.

        If nothing is known of its arrival, it has come in this turn of the event loop.
        """
        cdef Timing timing = Timing.__new__(Timing, self)
        cdef double now = self._clock.now()
        timing._started = now
        self._forget_before(self._frames - behind)
        if self._count == 0:
            timing._arrived = turn_s + LOOP_CLOCK_S if now - turn_s > LONG_TURN_S else now
        else:
            timing._arrived = min(self._arrivals[self._first].at, now)
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
        self._finish()

    cdef void _finish(self):
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
    """Histograms of one API: where the time went. One that was timed stands for those before it that were not."""

    cdef long long[PARTS][BOUNDS + 1] _counts
    cdef double[PARTS] _totals
    cdef long long _untimed  # since the last one that was timed
    cdef double[PARTS] _last  # what that one took; below 0: it did not have that part
    cdef bint _has_last

    def __cinit__(self):
        memset(self._counts, 0, sizeof(self._counts))
        memset(self._totals, 0, sizeof(self._totals))
        self._untimed = 0
        self._has_last = False

    cdef inline void add(self, int part, double seconds, long long requests) noexcept:
        cdef int bound = 0
        self._last[part] = seconds
        while bound < BOUNDS and seconds > UPPER[bound]:
            bound += 1
        self._counts[part][bound] += requests
        self._totals[part] += seconds * requests

    cdef inline void add_part(self, int part, double seconds, long long requests) noexcept:
        """One that not all requests have."""
        if seconds != 0.0:
            self.add(part, seconds, requests)
        else:
            self._last[part] = -1.0

    cdef void settle(self) noexcept:
        """Those that came since the last one that was timed are taken to be like it."""
        cdef int part
        if self._untimed and self._has_last:
            for part in range(PARTS):
                if self._last[part] >= 0.0:
                    self.add(part, self._last[part], self._untimed)
            self._untimed = 0

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
    cdef dict _times  # of those that were timed, made to stand for all
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
        Timing timing,
        long long request_bytes,
        long long response_bytes,
        int error_code,
    ):
        self._add(header, who, timing, request_bytes, response_bytes, error_code)

    cdef int _add(
        self, header, who, Timing timing, long long request_bytes, long long response_bytes, int error_code
    ) except -1:
        if not PyTuple_Check(header) or PyTuple_GET_SIZE(header) < 2:  # it is a named one, which is no `tuple` to Cython
            raise TypeError("the header is no tuple")
        cdef int key = <object>PyTuple_GET_ITEM(header, 0)
        cdef int version = <object>PyTuple_GET_ITEM(header, 1)
        cdef object kind = who.kind
        cdef Count count = self._last
        cdef Times times
        cdef long long requests
        cdef double between, work, total
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
        times._untimed += 1
        if timing is None:
            return 0
        requests = times._untimed
        times._untimed = 0
        times._has_last = True
        timing._finish()
        between = timing._started - timing._arrived - timing._throttle
        work = timing._finished - timing._started - timing._waited - timing._lane - timing._database
        if work < 0.0:
            work = 0.0
        total = between + work + timing._lane + timing._database
        times.add(TOTAL, total, requests)
        times.add(QUEUE, between, requests)
        times.add(WORK, work, requests)
        times.add_part(LANE, timing._lane, requests)
        times.add_part(DATABASE, timing._database, requests)
        times.add_part(WAITED, timing._waited, requests)
        times.add_part(THROTTLE, timing._throttle, requests)
        if total >= self._slow_s:
            self._on_slow(header, who, timing, error_code)
        return 0

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

    def settle(self):
        """Let the histograms stand for all requests that there have been."""
        cdef Times times
        for times in self._times.values():
            times.settle()

    @property
    def times(self):
        """By API key. `settle` them first."""
        return dict(self._times)


@cython.final
cdef class Answers:
    """Takes answers whose turn has come out of a connection's queue, and tells its observer of them."""

    cdef dict _finders
    cdef object _first_error

    def __init__(self, dict finders not None, first_error not None):
        """What finds the error code in a message (`wire/first_error.py`)."""
        self._finders = finders
        self._first_error = first_error

    def take(self, replies, list unwritten not None, observer, who, Watch watch):
        """Take from `replies` what can be sent, and add its bytes to `unwritten`.

        Returns how many bytes that are; when the watch has changed its mind about which request it wants to be timed, -1 less
        that. Without an observer there is no watch.
        """
        cdef Py_ssize_t size, new_bytes = 0
        cdef bint has_changed = False
        cdef RequestCounters counters = None
        cdef Timing timing
        cdef int code
        cdef list parts
        if type(observer) is RequestCounters:
            counters = observer
        while replies:
            one = replies[0]
            if not one.is_sent or one.is_encoding:
                break
            replies.popleft()
            parts = one.parts
            size = 0
            for part in parts:
                size += len(part)
                unwritten.append(part)
            new_bytes += size
            if observer is None:
                continue
            timing = one.timing
            error_code = one.error_code
            if error_code is not None:
                code = error_code
            else:
                message = one.message
                if message is None:
                    code = 0
                else:
                    find = self._finders.get(type(message))
                    code = self._first_error(message) if find is None else find(message)
            if counters is not None:
                counters._add(one.header, who, timing, one.request_bytes, size, code)
            else:
                observer.on_answer(one.header, who, timing, one.request_bytes, size, code)
            if timing is not None:
                timing.request = None
            if watch is not None and watch.answered(len(replies)):
                has_changed = True
        return -1 - new_bytes if has_changed else new_bytes


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
        self._read(batches)

    cdef void _read(self, list batches) except *:
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


def count_read(dict answers not None):
    """Count what these answers send, by the session's partition that it is of (`broker/handlers/fetch.py`)."""
    cdef object entry, answer, partition, traffic, records
    for entry, answer in answers.items():
        records = answer.records
        if records:
            partition = entry.partition
            if partition is not None:
                traffic = partition.traffic
                if traffic is not None:
                    (<Traffic?>traffic)._read(records)
