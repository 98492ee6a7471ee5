# cython: language_level=3
"""Texts around OCSP: base64, GeneralizedTime, HTTP dates. Everything is `noexcept nogil` and allocates nothing."""

from libc.stdint cimport int64_t, uint8_t

cdef uint8_t[256] SEXTET
cdef int _value
for _value in range(256):
    SEXTET[_value] = 0x80
for _value in range(64):
    SEXTET[b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"[_value]] = <uint8_t> _value
SEXTET[c"-"] = 62
SEXTET[c"_"] = 63


cdef Py_ssize_t decode_base64(const uint8_t *text, Py_ssize_t size, uint8_t *out) noexcept nogil:
    """Decode base64 (RFC 4648 §4 and §5, padding optional); the bytes written, or -1.

    `out` has room for size * 3 / 4 + 2 bytes. Both alphabets are taken because clients and proxies mix
    them in OCSP GET paths; any other byte, and padding elsewhere than at the end, is refused.
    """
    cdef Py_ssize_t i = 0, written = 0
    cdef unsigned int a, b, c, d
    cdef int padding = 0
    while size and padding < 2 and text[size - 1] == c"=":
        size -= 1
        padding += 1
    if (size & 3) == 1 or (padding and ((size + padding) & 3)):
        return -1
    while i + 4 <= size:
        a = SEXTET[text[i]]
        b = SEXTET[text[i + 1]]
        c = SEXTET[text[i + 2]]
        d = SEXTET[text[i + 3]]
        if (a | b | c | d) & 0x80:
            return -1
        out[written] = <uint8_t> (a << 2 | b >> 4)
        out[written + 1] = <uint8_t> (b << 4 | c >> 2)
        out[written + 2] = <uint8_t> (c << 6 | d)
        written += 3
        i += 4
    if i + 2 <= size:
        a = SEXTET[text[i]]
        b = SEXTET[text[i + 1]]
        c = SEXTET[text[i + 2]] if size - i == 3 else 0
        if (a | b | c) & 0x80:
            return -1
        out[written] = <uint8_t> (a << 2 | b >> 4)
        written += 1
        if size - i == 3:
            out[written] = <uint8_t> (b << 4 | c >> 2)
            written += 1
    return written


cdef inline int64_t days_from_civil(int64_t year, int month, int day) noexcept nogil:
    """Days since 1970-01-01 in the proleptic Gregorian calendar."""
    cdef int64_t era, year_of_era, day_of_year
    if month <= 2:
        year -= 1
    era = (year if year >= 0 else year - 399) // 400
    year_of_era = year - era * 400
    day_of_year = (153 * (month + (-3 if month > 2 else 9)) + 2) // 5 + day - 1
    return era * 146097 + year_of_era * 365 + year_of_era // 4 - year_of_era // 100 + day_of_year - 719468


cdef inline int month_days(int year, int month) noexcept nogil:
    if month == 2:
        return 29 if year % 4 == 0 and (year % 100 or year % 400 == 0) else 28
    return 30 if month == 4 or month == 6 or month == 9 or month == 11 else 31


cdef int read_time(const uint8_t *text, Py_ssize_t size, int64_t *out) noexcept nogil:
    """GeneralizedTime with seconds, in Zulu, without a fraction (RFC 5280 §4.1.2.5.2); 1 for any other text."""
    cdef int digit[14]
    cdef int i, year, month, day, hour, minute, second
    if size != 15 or text[14] != c"Z":
        return 1
    for i in range(14):
        if not c"0" <= text[i] <= c"9":
            return 1
        digit[i] = text[i] - c"0"
    month = digit[4] * 10 + digit[5]
    day = digit[6] * 10 + digit[7]
    hour = digit[8] * 10 + digit[9]
    minute = digit[10] * 10 + digit[11]
    second = digit[12] * 10 + digit[13]
    year = digit[0] * 1000 + digit[1] * 100 + digit[2] * 10 + digit[3]
    if not (1 <= month <= 12 and 1 <= day <= 31 and hour < 24 and minute < 60 and second < 60):
        return 1
    if day > 28 and day > month_days(year, month):
        return 1
    out[0] = (
        days_from_civil(year, month, day) * 86400
        + hour * 3600
        + minute * 60
        + second
    )
    return 0


cdef int format_time(int64_t seconds, char *out) noexcept nogil:
    """Write an HTTP date (RFC 9110 §5.6.7), 29 characters, always GMT; 1 outside the years 0 to 9999."""
    cdef int64_t days = seconds // 86400
    cdef int64_t rest = seconds - days * 86400
    cdef int64_t era, day_of_era, year_of_era, year, day_of_year, shifted
    cdef int month, day, weekday, i
    cdef const char *weekdays = "ThuFriSatSunMonTueWed"
    cdef const char *months = "JanFebMarAprMayJunJulAugSepOctNovDec"
    if rest < 0:
        rest += 86400
        days -= 1
    weekday = <int> (days % 7)
    if weekday < 0:
        weekday += 7
    shifted = days + 719468
    era = (shifted if shifted >= 0 else shifted - 146096) // 146097
    day_of_era = shifted - era * 146097
    year_of_era = (day_of_era - day_of_era // 1460 + day_of_era // 36524 - day_of_era // 146096) // 365
    year = year_of_era + era * 400
    day_of_year = day_of_era - (365 * year_of_era + year_of_era // 4 - year_of_era // 100)
    month = <int> ((5 * day_of_year + 2) // 153)
    day = <int> (day_of_year - (153 * month + 2) // 5 + 1)
    month = month + 3 if month < 10 else month - 9
    if month <= 2:
        year += 1
    if not 0 <= year <= 9999:
        return 1
    for i in range(3):
        out[i] = weekdays[weekday * 3 + i]
        out[8 + i] = months[(month - 1) * 3 + i]
    out[3] = c","
    out[4] = c" "
    out[5] = <char> (c"0" + day // 10)
    out[6] = <char> (c"0" + day % 10)
    out[7] = c" "
    out[11] = c" "
    out[12] = <char> (c"0" + year // 1000)
    out[13] = <char> (c"0" + year // 100 % 10)
    out[14] = <char> (c"0" + year // 10 % 10)
    out[15] = <char> (c"0" + year % 10)
    out[16] = c" "
    out[17] = <char> (c"0" + rest // 36000)
    out[18] = <char> (c"0" + rest // 3600 % 10)
    out[19] = c":"
    out[20] = <char> (c"0" + rest // 600 % 6)
    out[21] = <char> (c"0" + rest // 60 % 10)
    out[22] = c":"
    out[23] = <char> (c"0" + rest // 10 % 6)
    out[24] = <char> (c"0" + rest % 10)
    out[25] = c" "
    out[26] = c"G"
    out[27] = c"M"
    out[28] = c"T"
    return 0


def http_date(seconds not None):
    """Write an HTTP date (RFC 9110 §5.6.7) for seconds since the epoch; ValueError outside years 0-9999."""
    cdef char text[29]
    if not -(1 << 62) < seconds < 1 << 62 or format_time(seconds, text):
        raise ValueError(f"{seconds} has no HTTP date")
    return text[:29].decode("ascii")
