"""What embeds items, as the parameters name it: for the stages, and for items that come when these have run."""
