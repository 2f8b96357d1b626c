"""`dni-report`: runs read from their folders, as tables, curves and one page."""
