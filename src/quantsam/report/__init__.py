"""Charts, images and tables from results. This package never imports torch."""
