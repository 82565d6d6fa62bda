"""What goes in: data sets in the MVTec layout."""
