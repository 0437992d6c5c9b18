"""What every stage rests on: errors, whole files, checkpoints, devices, resampling."""
