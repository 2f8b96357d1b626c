"""`profile=true`: the time of every stage, slice by slice, as one trace for Perfetto or Chrome."""
