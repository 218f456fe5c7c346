"""Find the layers that hurt: quantize one layer at a time, exactly or with an estimate."""
