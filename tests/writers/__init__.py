"""Writers of small files in the exact layouts of other people's datasets."""
