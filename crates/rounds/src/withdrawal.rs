//! A site that says that it does not go on, and what is recorded about sites without an update.

use serde::{Deserialize, Serialize};

/// Where a site stopped, and why: what everybody in the consortium may know about it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Withdrawal {
    /// The round that the site did not begin; 0 before its first.
    pub round: u32,
    /// The attempt at it; 0 before its first.
    pub attempt: u32,
    /// Stable code, for example `privacy_budget_exhausted`.
    pub code: String,
    /// The same in a few public words.
    pub reason: String,
    /// Whether somebody at the site can put it in order within the round: it is then awaited until the deadline
    /// like a site that has said nothing.
    pub may_return: bool,
}

/// Why a withdrawal is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidWithdrawal {
    /// A code that is none.
    #[error("the code of a withdrawal has 1 to {MOST_CODE} characters a-z, 0-9 and _")]
    Code,
    /// A reason that is too long, or no plain text.
    #[error(
        "the reason of a withdrawal has at most {MOST_REASON} characters and no control characters"
    )]
    Reason,
}

/// Longest code.
const MOST_CODE: usize = 64;

/// Longest reason.
const MOST_REASON: usize = 200;

impl InvalidWithdrawal {
    /// Stable code for logs, replies and documents.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Code => "withdrawal_code",
            Self::Reason => "withdrawal_reason",
        }
    }
}

impl Withdrawal {
    /// Refuses what must not stand in records and on terminals.
    ///
    /// # Errors
    /// [`InvalidWithdrawal`].
    pub fn check(&self) -> Result<(), InvalidWithdrawal> {
        let of_code = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
        if !(1..=MOST_CODE).contains(&self.code.len()) || !self.code.chars().all(of_code) {
            return Err(InvalidWithdrawal::Code);
        }
        if self.reason.chars().count() > MOST_REASON || self.reason.chars().any(char::is_control) {
            return Err(InvalidWithdrawal::Reason);
        }
        Ok(())
    }

    /// Whether both say the same, wherever they were said.
    pub(crate) fn says_the_same(&self, other: &Self) -> bool {
        (&self.code, &self.reason, self.may_return)
            == (&other.code, &other.reason, other.may_return)
    }
}

/// Why a closed round has no update of a site.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "why", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Missing {
    /// Nothing acceptable came before the deadline, and the site had said nothing.
    Late,
    /// What came was refused.
    Refused {
        /// Stable code of the last refusal.
        code: String,
    },
    /// The site had said that it does not go on.
    Withdrawn {
        /// Stable code.
        code: String,
        /// The site's public words.
        reason: String,
    },
    /// The round was given up before the site was due.
    NotAwaited,
}

impl std::fmt::Display for Missing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Late => f.write_str("late"),
            Self::Refused { code } => write!(f, "refused: {code}"),
            Self::Withdrawn { code, reason } => write!(f, "withdrawn: {code}, {reason}"),
            Self::NotAwaited => f.write_str("not awaited"),
        }
    }
}
