"""A checkpoint that is loaded into other parts of the model than it was saved from: other cuts, or more, or fewer."""
