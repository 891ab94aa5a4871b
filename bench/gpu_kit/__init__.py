"""What `bench/gpu` packs, runs on a GPU's machine, and records; docs/gpu_kit.md."""
