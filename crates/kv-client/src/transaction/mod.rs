mod atomic;
pub(crate) mod merge;
pub(crate) mod range_set;
pub(crate) mod writes;
#[cfg(test)]
mod model_tests;
