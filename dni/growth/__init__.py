"""A trained network with more layers, which computes what it computed before."""

from dni.growth.identity import BeginsAsIdentity, make_identity
from dni.growth.insertion import Insertion, insertion

__all__ = ["BeginsAsIdentity", "Insertion", "insertion", "make_identity"]
