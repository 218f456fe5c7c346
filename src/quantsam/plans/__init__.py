"""Scheme x placement x model: resolve, calibrate, save, account."""
