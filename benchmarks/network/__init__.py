"""Emulated hosts and links: network namespaces with a delay line between them."""
