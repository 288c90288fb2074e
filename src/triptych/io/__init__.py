"""The only code of triptych that knows a file format: MRC, STAR, our Zarr store and manifests."""
