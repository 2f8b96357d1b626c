"""Edges that outlive their links, in runs whose lost stages start again alone."""
