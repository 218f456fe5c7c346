"""Pictures and tables from results; never imports torch."""
