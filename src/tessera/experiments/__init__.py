"""Does one system beat another, and the published figures? Named tables of overrides, run through DVC and compared."""
