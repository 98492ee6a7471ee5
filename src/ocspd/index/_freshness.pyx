# cython: language_level=3
"""Questions about whole indexes, for signers and supervisors. Public surface in _freshness.pyi."""

from datetime import UTC as _UTC, datetime

from libc.stdint cimport INT64_MAX, INT64_MIN, int64_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcmp

from ocspd._der cimport CertID, Span, hash_number
from ocspd._index cimport (
    RECORD_HEAD,
    Found,
    Index,
    Lookup,
    Segment,
    SegmentView,
    Template,
    cert_id_of,
    copy_template,
    find_in_segment,
    key_hash64,
    magnitude,
    next_record,
    serial_octets,
    span_of,
)


cdef enum:
    MAX_AHEAD_S = 60  # `pki.ocsp.change_time` may sign that far ahead

cdef int64_t FIRST_DATETIME = -62135596800  # year 1; a GeneralizedTime may have the year 0


cdef bint same_revocation(const Found *found, bytes revoked_at, int reason):
    """Whether a revoked answer has this GeneralizedTime and reason (0: none).

    A time after thisUpdate is signed as thisUpdate.
    """
    cdef const Template *template = &found.template
    cdef int stored = 0
    cdef int order
    if template.hole_count < 3 or template.holes[1].size != 15 or len(revoked_at) != 15:
        return False
    order = memcmp(found.payload + template.holes[1].source, <const char *> revoked_at, 15)
    if order > 0:
        return False
    if order < 0:
        if template.this_update < FIRST_DATETIME:
            return False
        at = datetime.fromtimestamp(template.this_update, _UTC)
        this_update = b"%04d%02d%02d%02d%02d%02dZ" % at.timetuple()[:6]
        if memcmp(found.payload + template.holes[1].source, <const char *> this_update, 15) != 0:
            return False
    if template.holes[2].size == 1:
        stored = found.payload[template.holes[2].source]
    return stored == reason


def stale(
    Index index not None, list keys not None, list rows not None, int64_t now_s, int64_t spread_s=0, until_s=None,
    int64_t signed_after_s=INT64_MIN,
):
    cdef int64_t end = INT64_MAX if until_s is None else until_s
    cdef Found found
    cdef const Template *template
    cdef Span serial
    cdef Py_ssize_t number
    cdef int64_t early
    cdef int status, reason
    cdef bint due, lowers
    prefixes = [(hash_number(name), name_hash, key_hash) for name, name_hash, key_hash in keys]
    answer = []
    lowering = []
    for number in range(len(rows)):
        value, status, reason, revoked_at = rows[number]
        octets = serial_octets(value)
        due = octets is None
        lowers = False
        if octets is not None:
            serial = span_of(octets)
            early = 0
            # the jitter is the magnitude's, `find` takes an INTEGER's octets
            if spread_s > 0:
                early = <int64_t> (key_hash64(0, 0, serial.p, serial.n) >> 33) % spread_s
            if serial.p[0] & 0x80:
                octets = b"\0" + octets
                serial = span_of(octets)
            for hash_id, name_hash, key_hash in prefixes:
                if index.find(hash_id, span_of(name_hash), span_of(key_hash), serial, &found) != Lookup.FOUND:
                    due = True
                    continue
                template = &found.template
                if template.status == 1 and status != 1:
                    lowers = True
                    break
                if (
                    template.status != status
                    or (template.refresh_at <= now_s + early and template.next_update < end)
                    or template.this_update > now_s + MAX_AHEAD_S
                    or template.produced_at < signed_after_s
                    or (status == 1 and not same_revocation(&found, revoked_at, reason))
                ):
                    due = True  # no break: another prefix may say revoked
        if lowers:
            lowering.append(number)
        elif due:
            answer.append(number)
    return answer, lowering


def replaced(Index index not None, list keys not None, list rows not None, bint same=False):
    cdef Found found
    cdef Span serial
    cdef int status, reason
    cdef int64_t newest, before
    prefixes = [(hash_number(name), name_hash, key_hash) for name, name_hash, key_hash in keys]
    answer = []
    for value, status, reason, revoked_at in rows:
        newest = 0
        octets = serial_octets(value)
        if octets is not None:
            if octets[0] & 0x80:
                octets = b"\0" + octets
            serial = span_of(octets)
            for hash_id, name_hash, key_hash in prefixes:
                if index.find(hash_id, span_of(name_hash), span_of(key_hash), serial, &found) != Lookup.FOUND:
                    continue
                if found.template.status != status or (
                    status == 1 and not same_revocation(&found, revoked_at, reason)
                ):
                    newest = max(newest, found.template.this_update)
                elif same:
                    before = found.template.this_update - 1
                    newest = max(newest, before)
        answer.append(newest)
    return answer


cdef void replace_older(const SegmentView **views, int64_t **counts, int own, int total) noexcept nogil:
    """Take from the counts of older segments what the answers of segment `own` replace there."""
    cdef Found found, old
    cdef CertID key
    cdef uint64_t offset = RECORD_HEAD
    cdef int other
    while next_record(views[own], &offset, &found) > 0:  # what is damaged is not counted: `verify` reports it
        key = cert_id_of(&found)
        for other in range(own + 1, total):
            if find_in_segment(
                views[other], key.hash_id, key.name_hash, key.key_hash, magnitude(key.serial), &old
            ) == Lookup.FOUND:
                counts[other][old.number] -= 1
                break


def live_stats(Index index not None):
    cdef Segment segment
    cdef const SegmentView *view
    cdef Template template
    cdef uint64_t number
    cdef tuple segments = index.segments
    cdef int total = len(segments)
    cdef int position
    cdef const SegmentView **views = <const SegmentView **> calloc(total + 1, sizeof(void *))
    cdef int64_t **counts = <int64_t **> calloc(total + 1, sizeof(void *))
    stats = {}
    try:
        if views == NULL or counts == NULL:
            raise MemoryError
        for position in range(total):
            segment = segments[position]
            view = views[position] = &segment.view
            counts[position] = <int64_t *> calloc(view.header.template_count + 1, sizeof(int64_t))
            if counts[position] == NULL:
                raise MemoryError
            for number in range(view.header.template_count):
                if copy_template(view, number, &template):
                    counts[position][number] = <int64_t> template.count
        with nogil:
            for position in range(total - 1):
                replace_older(views, counts, position, total)
        for position in range(total):
            segment = segments[position]
            keys = segment.issuer_keys
            for number in range(views[position].header.template_count):
                if counts[position][number] <= 0 or not copy_template(views[position], number, &template):
                    continue  # damaged since it was checked: its answers are not given out either
                row = stats.setdefault(
                    keys[template.issuer_key],
                    {"entries": 0, "good": 0, "revoked": 0, "unknown": 0, "expiries": {}},
                )
                expiries = row["expiries"]
                expiries[template.next_update] = (
                    expiries.get(template.next_update, 0) + counts[position][number]
                )
                row["entries"] += counts[position][number]
                row[("good", "revoked", "unknown")[template.status]] += counts[position][number]
                for name, value in (
                    ("this_update", template.this_update), ("next_update", template.next_update)
                ):
                    row[f"{name}_min"] = min(row.get(f"{name}_min", value), value)
                    row[f"{name}_max"] = max(row.get(f"{name}_max", value), value)
    finally:
        if counts != NULL:
            for position in range(total):
                free(counts[position])
        free(counts)
        free(views)
    return stats
