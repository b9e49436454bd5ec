//! One program at a time on a state folder.

use std::fs::{File, TryLockError};
use std::path::Path;

use crate::OperatorError;

/// A state folder that belongs to this process until the value is dropped, or the process ends in any way.
#[derive(Debug)]
pub struct StateLock(#[expect(dead_code, reason = "held, never read")] File);

impl StateLock {
    /// Takes `state` for a program in the role of `role`, one word: the lock is the file `<role>.lock` there.
    ///
    /// # Errors
    /// `state_in_use` when another process holds it, or what the file system says.
    pub fn take(state: &Path, role: &str) -> Result<Self, OperatorError> {
        let path = state.join(format!("{role}.lock"));
        let file = File::create(&path).map_err(|error| OperatorError::file(&path, &error))?;
        match file.try_lock() {
            Ok(()) => Ok(Self(file)),
            Err(TryLockError::WouldBlock) => Err(OperatorError::failed(
                "state_in_use",
                format!("another {role} is running on this state folder"),
                format!("stop it first, or give each {role} a state folder of its own"),
            )
            .at(state.display())),
            Err(TryLockError::Error(error)) => Err(OperatorError::file(&path, &error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_folder_is_taken_once_and_free_again_afterwards() {
        let folder = tempfile::tempdir().unwrap();
        let held = StateLock::take(folder.path(), "server").unwrap();
        let refused = StateLock::take(folder.path(), "server").unwrap_err();
        assert_eq!(refused.code, "state_in_use");
        assert_eq!(refused.location, Some(folder.path().display().to_string()));
        assert!(!refused.hint.is_empty());
        drop(held);
        StateLock::take(folder.path(), "server").unwrap();
    }
}
