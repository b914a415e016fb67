"""NB-SMT on NVIDIA GPUs: quantize and expand in one kernel, multiply on 8-bit tensor cores in another."""
