"""ocspd: CFSSL's certificate authority and OCSP workflow, with a native keyless responder."""

__version__ = "0.1.0"
