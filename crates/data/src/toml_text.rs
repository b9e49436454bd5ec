//! TOML into a struct, with every unknown key reported at its line, and a suggestion.
//!
//! Serde stops at the first unknown key. Here the key is noted, removed from the parsed document and the
//! struct is read again, so that one run shows all of them.

use std::ops::Range;
use std::path::Path;

use serde::de::DeserializeOwned;
use toml::Spanned;
use toml::de::{DeTable, DeValue, Deserializer, Error};

use crate::problem::Problem;
use crate::refusal::{Place, Problems, nearest};

/// A parsed document that knows the line of each key.
pub(crate) struct Document<'a> {
    text: &'a str,
    file: &'a Path,
    root: Spanned<DeTable<'a>>,
}

/// Unknown keys after which reading gives up.
const MOST_UNKNOWN_KEYS: usize = 100;

impl<'a> Document<'a> {
    /// Parses the syntax only.
    pub(crate) fn parse(text: &'a str, file: &'a Path, problems: &mut Problems) -> Option<Self> {
        let (root, errors) = DeTable::parse_recoverable(text);
        for error in &errors {
            let place = place(text, file, error.span());
            problems.push(Problem::ManifestSyntax(one_line(error.message())), place);
        }
        errors.is_empty().then_some(Self { text, file, root })
    }

    /// Reads the struct; problems are noted, and nothing is returned if the struct could not be filled.
    pub(crate) fn read<T: DeserializeOwned>(&self, problems: &mut Problems) -> Option<T> {
        let mut root = self.root.clone();
        for _ in 0..MOST_UNKNOWN_KEYS {
            let error = match T::deserialize(Deserializer::from(root.clone())) {
                Ok(value) => return Some(value),
                Err(error) => error,
            };
            let span = error.span();
            problems.push(classify(&error), place(self.text, self.file, span.clone()));
            let removed = span.is_some_and(|span| remove(root.get_mut(), &span));
            if !(removed && error.message().starts_with("unknown field")) {
                return None;
            }
        }
        None
    }

    /// The place of a key, or of the nearest table above it that exists.
    pub(crate) fn place(&self, path: &[&str]) -> Place {
        let mut table = self.root.get_ref();
        let mut span = None;
        for part in path {
            let Some((key, value)) = table.get_key_value(*part) else {
                break;
            };
            span = Some(key.span());
            match value.get_ref() {
                DeValue::Table(inner) => table = inner,
                _ => break,
            }
        }
        place(self.text, self.file, span).column(path.join("."))
    }
}

/// Where in the file a byte range begins.
fn place(text: &str, file: &Path, span: Option<Range<usize>>) -> Place {
    let whole = Place::file(file);
    let Some(before) = span.and_then(|span| text.get(..span.start)) else {
        return whole;
    };
    let line = before.bytes().filter(|&b| b == b'\n').count() as u64 + 1;
    let start = before.rfind('\n').map_or(0, |at| at + 1);
    let column = before[start..].chars().count() + 1;
    whole.line(line).column(format!("column {column}"))
}

/// Removes the entry whose key begins where `span` does.
fn remove(table: &mut DeTable<'_>, span: &Range<usize>) -> bool {
    let found = table.keys().find(|key| key.span().start == span.start);
    if let Some(key) = found.cloned() {
        table.remove(&key);
        return true;
    }
    let mut values: Vec<&mut DeValue<'_>> = Vec::new();
    for (_, value) in table.iter_mut() {
        values.push(value.get_mut());
    }
    values.into_iter().any(|value| remove_in_value(value, span))
}

fn remove_in_value(value: &mut DeValue<'_>, span: &Range<usize>) -> bool {
    match value {
        DeValue::Table(inner) => remove(inner, span),
        DeValue::Array(items) => {
            (items.iter_mut()).any(|item| remove_in_value(item.get_mut(), span))
        }
        _ => false,
    }
}

/// Turns serde's words into ours. Serde offers no structured form; a test holds on to its wording.
fn classify(error: &Error) -> Problem {
    let message = one_line(error.message());
    let quoted: Vec<String> = (message.split('`').skip(1).step_by(2))
        .map(str::to_owned)
        .collect();
    let first = quoted.first().cloned().unwrap_or_default();
    let others = || quoted.get(1..).unwrap_or_default().to_vec();
    let suggestion = || nearest(&first, quoted.iter().skip(1).map(String::as_str));
    if message.starts_with("unknown field") {
        Problem::UnknownKey {
            suggestion: suggestion(),
            key: first,
        }
    } else if message.starts_with("unknown variant") {
        Problem::UnknownWord {
            suggestion: suggestion(),
            allowed: others(),
            word: first,
        }
    } else if message.starts_with("missing field") {
        Problem::MissingKey(first)
    } else {
        Problem::InvalidValue(message)
    }
}

fn one_line(message: &str) -> String {
    message.split_whitespace().collect::<Vec<_>>().join(" ")
}
