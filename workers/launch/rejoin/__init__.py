"""One stage starts again while the others go on."""
