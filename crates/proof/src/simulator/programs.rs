//! The programs of the nodes, each known by the feature levels that it executes.

use rsml::LevelRange;

use super::random::Random;

#[derive(Debug, Default)]
pub struct Upgrades {
    /// When a node was last started with an older program.
    pub downgraded_at: Option<u64>,
    /// From now on no node gets an older program: the operator has asked for a higher level, or
    /// some log holds one.
    pub only_up: bool,
}

/// The program of a new node.
pub fn any_program(highest: u32, random: &mut Random) -> LevelRange {
    LevelRange::new(1, random.between(1, u64::from(highest)) as u32)
}
