"""Which layers hurt: one layer quantized at a time, exactly or estimated."""
