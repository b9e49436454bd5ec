//! Being stopped: by a service manager or from the keyboard.

use crate::{ExitCode, OperatorError};

/// Waits until somebody stops the program: a service manager (SIGTERM, a clean end) or the keyboard (exit 130).
/// What matters to a program that may be killed at any moment is stored: nothing has to be tidied up.
///
/// # Errors
/// `interrupted` with exit code 130, or `signals` when this account may not handle signals.
#[cfg(unix)]
pub async fn stopped() -> Result<(), OperatorError> {
    use tokio::signal::unix::{SignalKind, signal};
    let no_signals = |error: std::io::Error| {
        OperatorError::failed(
            "signals",
            error.to_string(),
            "let this account handle signals",
        )
    };
    let mut terminate = signal(SignalKind::terminate()).map_err(no_signals)?;
    tokio::select! {
        _ = terminate.recv() => {
            tracing::info!("stopped");
            Ok(())
        }
        interrupted = tokio::signal::ctrl_c() => {
            interrupted.map_err(no_signals)?;
            Err(interruption())
        }
    }
}

/// Waits until somebody stops the program from the keyboard (exit 130).
///
/// # Errors
/// `interrupted` with exit code 130.
#[cfg(not(unix))]
pub async fn stopped() -> Result<(), OperatorError> {
    let _ = tokio::signal::ctrl_c().await;
    Err(interruption())
}

fn interruption() -> OperatorError {
    OperatorError::new(
        ExitCode::Interrupted,
        "interrupted",
        "stopped from the keyboard",
        "start again to go on; what was stored is kept",
    )
}
