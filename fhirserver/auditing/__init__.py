"""The audit repository: what is recorded, how it gets into the store, and whether it is unchanged. IHE ATNA."""
