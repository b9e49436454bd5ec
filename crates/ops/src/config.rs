//! TOML files: every mistake with its line and a way out.

use std::path::Path;

use serde::de::DeserializeOwned;

use crate::error::OperatorError;

/// Reads a TOML file into `T`, whose structs deny unknown fields.
///
/// # Errors
/// [`OperatorError`] with exit code 3: `file_missing`, `config_syntax`, `config_unknown_key`,
/// `config_missing_key` or `config_wrong_value`, with file, line and column and, for a mistyped key, the
/// closest known one.
pub fn read_toml<T: DeserializeOwned>(path: &Path) -> Result<T, OperatorError> {
    let text = std::fs::read_to_string(path).map_err(|error| {
        let mut error = OperatorError::file(path, &error);
        error.exit = crate::ExitCode::Configuration;
        error
    })?;
    parse_toml(path, &text)
}

/// Reads TOML text; `path` names it in messages.
///
/// # Errors
/// As [`read_toml`].
pub fn parse_toml<T: DeserializeOwned>(path: &Path, text: &str) -> Result<T, OperatorError> {
    toml::from_str(text).map_err(|error| explain(path, text, &error))
}

fn explain(path: &Path, text: &str, error: &toml::de::Error) -> OperatorError {
    let message = error.message().trim().to_owned();
    let location = match error.span() {
        Some(span) => {
            let start = mistyped_key(text, span.start, &message).unwrap_or(span.start);
            let before = &text[..start.min(text.len())];
            let line = before.matches('\n').count() + 1;
            let column = before.chars().rev().take_while(|c| *c != '\n').count() + 1;
            let shown = text.lines().nth(line - 1).unwrap_or_default().trim();
            format!("{}:{line}:{column}: {shown}", path.display())
        }
        None => path.display().to_string(),
    };
    let (code, hint) = if text.parse::<toml::Table>().is_err() {
        (
            "config_syntax",
            "correct the TOML syntax at this place".into(),
        )
    } else if message.starts_with("unknown field") {
        ("config_unknown_key", suggestion(&message))
    } else if message.starts_with("unknown variant") {
        ("config_wrong_value", suggestion(&message))
    } else if message.starts_with("missing field") {
        let hint = "add the key; the annotated samples in configs/ show every one";
        ("config_missing_key", hint.into())
    } else {
        (
            "config_wrong_value",
            "give a value of the type and range named above".into(),
        )
    };
    OperatorError::configuration(code, message, hint).at(location)
}

/// Where the unknown field of `message` stands. A table whose form is chosen by one of its keys is read as a
/// whole first, and then the error points at its header only.
fn mistyped_key(text: &str, header: usize, message: &str) -> Option<usize> {
    let key = message.strip_prefix("unknown field `")?.split('`').next()?;
    let mut start = header;
    for line in text.get(header..)?.split_inclusive('\n') {
        if start > header && line.trim_start().starts_with('[') {
            return None;
        }
        let name = line.split('=').next().unwrap_or_default().trim();
        if line.contains('=') && name.trim_matches(['"', '\'']) == key {
            return Some(start + line.len() - line.trim_start().len());
        }
        start += line.len();
    }
    None
}

/// The closest of the expected names that serde lists in back quotes after the unknown one.
fn suggestion(message: &str) -> String {
    let quoted: Vec<&str> = message.split('`').skip(1).step_by(2).collect();
    let Some((unknown, known)) = quoted.split_first() else {
        return String::new();
    };
    let closest = known
        .iter()
        .map(|name| (strsim::jaro_winkler(unknown, name), *name))
        .filter(|(similarity, _)| *similarity > 0.75)
        .max_by(|a, b| a.0.total_cmp(&b.0));
    match closest {
        Some((_, name)) => format!("did you mean `{name}`?"),
        None if known.is_empty() => "remove it: no key is known here".into(),
        None => format!("known here: {}", known.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Sample {
        #[allow(dead_code)]
        rounds: u32,
        #[allow(dead_code)]
        inner: Option<Inner>,
        #[allow(dead_code)]
        chosen: Option<Chosen>,
    }

    #[derive(Debug, Deserialize)]
    #[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
    enum Chosen {
        Table {
            #[allow(dead_code)]
            features: u32,
        },
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Inner {
        #[allow(dead_code)]
        learning_rate: f64,
    }

    fn refused(text: &str) -> OperatorError {
        parse_toml::<Sample>(Path::new("s.toml"), text).unwrap_err()
    }

    #[test]
    fn a_mistyped_key_is_refused_with_its_line_and_the_closest_name() {
        let error = refused("rounds = 3\n\n[inner]\nlearing_rate = 0.1\n");
        assert_eq!(error.code, "config_unknown_key");
        assert!(
            error.location.as_ref().unwrap().starts_with("s.toml:4:1"),
            "{error}"
        );
        assert_eq!(error.hint, "did you mean `learning_rate`?");
        assert_eq!(error.exit, crate::ExitCode::Configuration);
    }

    #[test]
    fn a_mistyped_key_of_a_table_with_a_kind_is_found_below_its_header() {
        let error = refused("rounds = 3\n\n[chosen]\nkind = \"table\"\n# many\nfeatuers = 4\n");
        assert_eq!(error.code, "config_unknown_key");
        assert!(
            error.location.as_ref().unwrap().starts_with("s.toml:6:1"),
            "{error}"
        );
        assert_eq!(error.hint, "did you mean `features`?");
    }

    #[test]
    fn each_kind_of_mistake_has_its_code_and_place() {
        for (text, code, place) in [
            ("rounds = \"three\"\n", "config_wrong_value", "s.toml:1:10"),
            ("rounds = -1\n", "config_wrong_value", "s.toml:1:10"),
            ("rounds = \n", "config_syntax", "s.toml:1"),
            ("rounds = 3\nrounds = 4\n", "config_syntax", "s.toml:2"),
            ("", "config_missing_key", "s.toml"),
        ] {
            let error = refused(text);
            assert_eq!(error.code, code, "{text:?}: {error}");
            assert!(
                error.location.as_ref().unwrap().starts_with(place),
                "{text:?}: {error}"
            );
        }
    }

    #[test]
    fn a_missing_file_is_refused_before_anything_is_touched() {
        let folder = tempfile::tempdir().unwrap();
        let error = read_toml::<Sample>(&folder.path().join("none.toml")).unwrap_err();
        assert_eq!(
            (error.code.as_str(), error.exit),
            ("file_missing", crate::ExitCode::Configuration)
        );
    }
}
