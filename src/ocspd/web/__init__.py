"""HTTP (layer 5): the only importer of aiohttp. OCSP slow path, CFSSL API, operations, workers."""
