"""Images and annotated datasets: COCO, folders, procedural scenes."""
