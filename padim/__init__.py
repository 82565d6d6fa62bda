"""PaDiM, one file for one idea, in the order of the paper; importing the package loads nothing."""
