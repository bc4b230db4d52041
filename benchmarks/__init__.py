"""What the gateway costs, measured: `python -m benchmarks [name …]`; docs/benchmarks.md says how."""
