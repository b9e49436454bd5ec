//! Which two data sets count as neighbours. Never implicit.

use serde::{Deserialize, Serialize};

use crate::faults::{Fault, injected};

/// The neighbouring relation that a guarantee is stated for.
///
/// There is no default: the same noise has very different epsilons under different relations, and a
/// number without its relation means nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Adjacency {
    /// One unit is present or absent. Everything that depends on the number of units is private.
    AddRemove,
    /// One unit is replaced by a unit that contributes zero. The number of units is public.
    ZeroOut,
    /// One unit is exchanged for another. The number of units is public.
    ReplaceOne,
}

impl Adjacency {
    /// How far one unit can move a sum of vectors clipped to norm one, in clip norms.
    ///
    /// The one place where the sensitivity is written down; `noise_multiplier` is always the standard
    /// deviation divided by the clip norm, whatever the relation.
    pub fn sensitivity_in_clip_norms(self) -> f64 {
        match self {
            Self::AddRemove | Self::ZeroOut => 1.0,
            Self::ReplaceOne if injected(Fault::ExchangeMovesOneClip) => 1.0,
            Self::ReplaceOne => 2.0,
        }
    }

    /// The name in files and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::AddRemove => "add-remove",
            Self::ZeroOut => "zero-out",
            Self::ReplaceOne => "replace-one",
        }
    }
}

impl std::fmt::Display for Adjacency {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// Not the name of an adjacency relation.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown adjacency {0:?}: use add-remove, zero-out or replace-one")]
pub struct UnknownAdjacency(String);

impl std::str::FromStr for Adjacency {
    type Err = UnknownAdjacency;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        [Self::AddRemove, Self::ZeroOut, Self::ReplaceOne]
            .into_iter()
            .find(|adjacency| adjacency.name() == name)
            .ok_or_else(|| UnknownAdjacency(name.to_owned()))
    }
}
