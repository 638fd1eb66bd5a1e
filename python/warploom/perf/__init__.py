"""Measuring: a speed is a ratio against a named peer and a ceiling, taken in the same period.

``case``      what is measured: ours, its peers, its ceilings, its goals
``timing``    clocks for CPU and CUDA, and the interleaving of samples
``stats``     medians, quartiles, paired ratios
``ceilings``  what the machine can do at most: peaks, GEMM, bandwidth
``measure``   one case to one row
``report``    rows to a table, JSON lines and the recorded results
``plots``     rows to a picture
``machine``   what the numbers were taken on

A family adds one module with its cases (``attention``), and nothing else.
"""
