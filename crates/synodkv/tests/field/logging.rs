//! The log never holds up what serves, and repeats itself seldom.
