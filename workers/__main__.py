"""`python -m workers` is `dni-train`."""

from workers.commands import train

if __name__ == "__main__":
    train()
