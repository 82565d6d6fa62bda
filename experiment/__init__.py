"""One run of the experiment: what was asked, what is stored, what is finished."""
