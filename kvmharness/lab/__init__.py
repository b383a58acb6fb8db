"""Boot a kernel and measure inside it: kernels, variants, machines, and what runs within."""
