"""Sweeps: several runs of one command, in processes of this machine, that survive failures and can be resumed."""
