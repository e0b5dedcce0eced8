//! HAProxy and nginx in front of the same kind of dyno, for comparison.
