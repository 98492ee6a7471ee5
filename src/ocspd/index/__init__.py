"""Index directories (layer 3): write segments, publish and pull manifests."""
