# cython: language_level=3
"""Questions about whole indexes, for signers and supervisors. Public surface in _freshness.pyi."""

from datetime import UTC as _UTC, datetime

from libc.stdint cimport INT64_MAX, INT64_MIN, int64_t
from libc.string cimport memcmp

from ocspd._der cimport Span, hash_id_of
from ocspd._index cimport Found, Index, Lookup, Template, key_hash64, serial_bytes, span_of

cdef enum:
    MAX_AHEAD_S = 60  # `pki.signing_policy.change_time` may sign that far ahead

cdef int64_t FIRST_DATETIME = -62135596800  # year 1; a GeneralizedTime may have the year 0


cdef bint same_revocation(const Found *found, bytes revoked_at, int reason):
    """Whether a revoked response has this GeneralizedTime and reason (0: none).

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
    cdef Py_ssize_t position
    cdef int64_t early
    cdef int status, reason
    cdef bint due, lowers
    prefixes = [(hash_id_of(name), name_hash, key_hash) for name, name_hash, key_hash in keys]
    due_rows = []
    lowering = []
    for position in range(len(rows)):
        value, status, reason, revoked_at = rows[position]
        raw = serial_bytes(value)
        due = raw is None
        lowers = False
        if raw is not None:
            serial = span_of(raw)
            early = 0
            # the jitter is the magnitude's, `find` takes an INTEGER's bytes
            if spread_s > 0:
                early = <int64_t> (key_hash64(0, 0, serial.p, serial.n) >> 33) % spread_s
            if serial.p[0] & 0x80:
                raw = b"\0" + raw
                serial = span_of(raw)
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
            lowering.append(position)
        elif due:
            due_rows.append(position)
    return due_rows, lowering


def replaced(Index index not None, list keys not None, list rows not None, bint same=False):
    cdef Found found
    cdef Span serial
    cdef int status, reason
    cdef int64_t newest, before
    prefixes = [(hash_id_of(name), name_hash, key_hash) for name, name_hash, key_hash in keys]
    times = []
    for value, status, reason, revoked_at in rows:
        newest = 0
        raw = serial_bytes(value)
        if raw is not None:
            if raw[0] & 0x80:
                raw = b"\0" + raw
            serial = span_of(raw)
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
        times.append(newest)
    return times
