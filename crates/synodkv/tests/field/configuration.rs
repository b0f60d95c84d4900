//! Settings that contradict each other, foreign variables, data directories that are something else.
