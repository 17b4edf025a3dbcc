"""The benchmarks: seeded data, load over HTTP, figures beside their ceilings."""
