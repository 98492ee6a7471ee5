"""The signer (floor 4): from the status of certificates to a published index."""
