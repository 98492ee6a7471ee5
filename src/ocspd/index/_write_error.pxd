# Why the functions of a segment writer fail. A positive code, those of _der below 100 included, is about one
# response, which is left out; after a negative one nothing more can be written.

cdef enum WriteError:
    E_IO = -2  # errno has the cause
    E_MEMORY = -3
    E_TEMPLATES = -4
    E_ISSUERS = -5
    E_SIZE = -6
    E_STOPPED = -7
    E_BASE64 = 100
    E_SERIAL_SIZE = 101
    E_HASH_SIZE = 102
    E_RESPONSE_SIZE = 103
    E_RECORD = 104
    E_NEWER = 105
