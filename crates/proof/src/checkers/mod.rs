//! Judges of histories, one property per file; each has a test with bad histories that it must reject.
