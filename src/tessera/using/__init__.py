"""Using what a run has made: recommendations, neighbours, new items, and a folder that needs no run any more."""
