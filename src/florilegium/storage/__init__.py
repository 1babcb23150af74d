"""What reaches the disk and what comes back from it: atomic files and folders, the run directory, safetensors within
bounds."""
