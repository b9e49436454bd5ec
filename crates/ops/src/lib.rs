//! What every program does the same way: read a configuration, print a result, fail with a code, log.
//!
//! * [`config`]: TOML with the line, the place and a suggestion for every mistake.
//! * [`examination`]: `doctor`: which layer is broken, and who can mend it.
//! * [`error`]: what an operator is told: code, what happened, where, what to do next, exit code.
//! * [`output`]: data on standard output, everything else on standard error; `--format text|json`.
//! * [`lock`]: one program at a time on a state folder.
//! * [`logging`]: JSON lines when standard error is not a terminal.
//! * [`stop`]: being stopped by a service manager or from the keyboard.
//! * [`units`]: durations and sizes as people write them.

pub mod config;
pub mod error;
pub mod examination;
pub mod lock;
pub mod logging;
pub mod output;
pub mod stop;
pub mod units;

pub use error::{ExitCode, OperatorError};
pub use lock::StateLock;
pub use output::Format;
