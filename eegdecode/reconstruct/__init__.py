"""From a bundle and EEG to pictures and concepts: `reconstructor.Reconstructor`, used by the batch job and by Serve."""
