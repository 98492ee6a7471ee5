"""The clients of ocspd, for programs: CFSSL's API, and OCSP queries as a relying party makes them."""
