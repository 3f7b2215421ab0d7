"""The store for programs that are not trio's: Client, and the fsspec filesystem `lfsfs://`."""
