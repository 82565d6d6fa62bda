"""The mistake that all of datasets/ reports."""


class DataError(ValueError):
    """Something about the data set that its owner must change; the message is one line."""
