"""Traces: what the weights of element-wise recurrent layers did to their states before a window."""
