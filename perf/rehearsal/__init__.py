"""Several hosts on one machine: exchanges over links of a known rate, and what breaks them.

``net``     hosts as network namespaces, their links, rates and faults
``cases``   all-gathers over a full mesh and over two nodes
``faults``  links cut and hosts lost in the middle of an exchange

``python -m perf.rehearsal`` runs them; docs/rehearsal.md says what they show.
"""
