"""What tests and benchmarks share: cases, the comparison rule, the emulator."""
