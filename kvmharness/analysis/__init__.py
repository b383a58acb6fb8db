"""What figures mean: pure functions of runs, which load neither KVM nor anything that draws."""
