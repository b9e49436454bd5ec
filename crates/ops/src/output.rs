//! Data on standard output, everything else on standard error.

use std::io::Write as _;

use serde::Serialize;

use crate::error::{ExitCode, OperatorError};

/// Form of the data on standard output.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// For people.
    #[default]
    Text,
    /// One JSON object: `{schema_version, status, data | error{code, message, hint, where, details}}`.
    Json,
}

const SCHEMA_VERSION: u32 = 1;

#[derive(Serialize)]
struct Envelope<'a, T> {
    schema_version: u32,
    status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<&'a T>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a OperatorError>,
}

/// Prints `data` in the chosen form; `text` makes the form for people.
pub fn print<T: Serialize>(format: Format, data: &T, text: impl FnOnce(&T) -> String) {
    let printed = match format {
        Format::Text => text(data),
        Format::Json => envelope(Some(data), None),
    };
    write_line(&printed);
}

/// Ends a program: prints a failure where it belongs and returns the exit code.
#[must_use]
pub fn finish(format: Format, result: Result<(), OperatorError>) -> std::process::ExitCode {
    match result {
        Ok(()) => ExitCode::Done.into(),
        Err(error) => {
            if format == Format::Json {
                write_line(&envelope::<()>(None, Some(&error)));
            }
            eprintln!("{error}");
            error.exit.into()
        }
    }
}

fn envelope<T: Serialize>(data: Option<&T>, error: Option<&OperatorError>) -> String {
    let status = if error.is_none() { "ok" } else { "error" };
    let envelope = Envelope {
        schema_version: SCHEMA_VERSION,
        status,
        data,
        error,
    };
    serde_json::to_string(&envelope).unwrap_or_else(|error| {
        format!(
            "{{\"schema_version\":{SCHEMA_VERSION},\"status\":\"error\",\"error\":{{\"code\":\"internal\",\
             \"message\":{:?}}}}}",
            error.to_string()
        )
    })
}

/// A closed pipe (`| head`) ends the printing, not the program.
fn write_line(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = out
        .write_all(text.as_bytes())
        .and_then(|()| {
            if text.ends_with('\n') {
                Ok(())
            } else {
                out.write_all(b"\n")
            }
        })
        .and_then(|()| out.flush());
}

/// Turns a panic into "our bug": code `internal`, exit 70, instead of a trace nobody asked for.
pub fn report_panics() {
    std::panic::set_hook(Box::new(|info| {
        eprintln!(
            "error[internal]: this is a bug in consilium: {info}\n  next:  report it with the command and the \
             version (--version); nothing that was stored is lost"
        );
    }));
}

/// Runs `program` and turns a panic into exit 70.
#[must_use]
pub fn run(program: impl FnOnce() -> std::process::ExitCode) -> std::process::ExitCode {
    report_panics();
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(program))
        .unwrap_or_else(|_| ExitCode::Internal.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_envelope_says_code_message_hint_and_place() {
        let error = OperatorError::configuration("bad", "it is bad", "mend it").at("f.toml:3:1");
        let json: serde_json::Value =
            serde_json::from_str(&envelope::<()>(None, Some(&error))).unwrap();
        assert_eq!(json["status"], "error");
        assert_eq!(json["error"]["code"], "bad");
        assert_eq!(json["error"]["where"], "f.toml:3:1");
        assert!(json.get("data").is_none());
    }

    #[test]
    fn a_result_envelope_says_ok_and_carries_the_data_alone() {
        let json: serde_json::Value = serde_json::from_str(&envelope(Some(&[1, 2]), None)).unwrap();
        let expected = serde_json::json!({"schema_version": 1, "status": "ok", "data": [1, 2]});
        assert_eq!(json, expected);
    }

    #[test]
    fn a_panic_ends_the_program_as_our_bug() {
        let code = run(|| panic!("a bug"));
        assert_eq!(
            format!("{code:?}"),
            format!("{:?}", std::process::ExitCode::from(70))
        );
    }
}
