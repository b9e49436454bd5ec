//! Being stopped: by a service manager or from the keyboard.

use crate::{ExitCode, OperatorError};

/// Ready once somebody stops the program: a service manager (SIGTERM, a clean end) or the keyboard (exit 130).
/// Signals count from this call on, which belongs before the first work. What matters to a program that may be
/// killed at any moment is stored: nothing has to be tidied up.
///
/// # Errors
/// `signals` when this account may not handle signals; the future ends with `interrupted`, exit code 130.
///
/// # Panics
/// Outside an async runtime.
#[cfg(unix)]
pub fn stopped() -> Result<impl Future<Output = Result<(), OperatorError>>, OperatorError> {
    use tokio::signal::unix::{SignalKind, signal};
    let listen = |kind| {
        signal(kind).map_err(|error| {
            OperatorError::failed(
                "signals",
                error.to_string(),
                "let this account handle signals",
            )
        })
    };
    let mut terminate = listen(SignalKind::terminate())?;
    let mut interrupt = listen(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {
                tracing::info!("stopped");
                Ok(())
            }
            _ = interrupt.recv() => Err(interruption()),
        }
    })
}

/// Ready once somebody stops the program from the keyboard (exit 130).
///
/// # Errors
/// None here; the future ends with `interrupted`, exit code 130.
#[cfg(not(unix))]
pub fn stopped() -> Result<impl Future<Output = Result<(), OperatorError>>, OperatorError> {
    Ok(async {
        let _ = tokio::signal::ctrl_c().await;
        Err(interruption())
    })
}

fn interruption() -> OperatorError {
    OperatorError::new(
        ExitCode::Interrupted,
        "interrupted",
        "stopped from the keyboard",
        "start again to go on; what was stored is kept",
    )
}
