//! Identifiers, each a type of its own, checked once in the constructor.
//!
//! A name has 1 to 64 characters of `a-z 0-9 . _ -` and starts with a letter or digit, so that it can
//! stand in a file name, a certificate subject and a log field without quoting.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A text that is not a name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{kind} {text:?} is not a name: use 1 to 64 of the characters a-z 0-9 . _ - and start with a letter or digit"
)]
pub struct InvalidName {
    /// What the text was meant to name.
    pub kind: &'static str,
    /// The text.
    pub text: String,
}

impl InvalidName {
    /// Stable code for logs, replies and documents.
    #[must_use]
    pub fn code(&self) -> &'static str {
        "name_invalid"
    }
}

fn is_name(text: &str) -> bool {
    let allowed = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || b"._-".contains(&c);
    (1..=64).contains(&text.len())
        && text.bytes().all(allowed)
        && text.as_bytes()[0].is_ascii_alphanumeric()
}

macro_rules! text_type {
    ($(#[$doc:meta])* $type:ident, $kind:literal, $check:path) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $type(String);

        impl $type {
            /// Checks `text`.
            ///
            /// # Errors
            /// [`InvalidName`] when the text is not a name of this kind.
            pub fn new(text: impl Into<String>) -> Result<Self, InvalidName> {
                let text = text.into();
                if $check(&text) {
                    Ok(Self(text))
                } else {
                    Err(InvalidName { kind: $kind, text })
                }
            }

            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl FromStr for $type {
            type Err = InvalidName;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                Self::new(text)
            }
        }

        impl TryFrom<String> for $type {
            type Error = InvalidName;

            fn try_from(text: String) -> Result<Self, Self::Error> {
                Self::new(text)
            }
        }

        impl From<$type> for String {
            fn from(name: $type) -> Self {
                name.0
            }
        }
    };
}

text_type!(
    /// A hospital's agent; equals the common name of its certificate.
    SiteId, "site", is_name
);
text_type!(
    /// What the consortium trains together.
    StudyId, "study", is_name
);
text_type!(
    /// Kind, version and schema of one modality, for example `cxr2d.v1`. Equal key means equal shapes and
    /// equal meaning of every column.
    ModalityKey, "modality key", is_name
);
text_type!(
    /// Type, label schema and version of one task, for example `binary.pneumonia.v1`.
    TaskKey, "task key", is_name
);
text_type!(
    /// A parameter group: `stem/<modality key>`, `trunk`, `head/<task key>` or `norm/<owner>`. Groups, not
    /// tensors, are what sites hold, exchange and aggregate.
    GroupName, "parameter group", is_group
);

fn is_group(text: &str) -> bool {
    match text.split_once('/') {
        None => text == "trunk",
        Some((kind, owner)) => matches!(kind, "stem" | "head" | "norm") && is_name(owner),
    }
}

impl GroupName {
    /// The encoder of one modality.
    #[must_use]
    pub fn stem(modality: &ModalityKey) -> Self {
        Self(format!("stem/{modality}"))
    }

    /// The fusion layers, with slot adapters, GroupNorm affine and absent embeddings.
    #[must_use]
    pub fn trunk() -> Self {
        Self("trunk".to_owned())
    }

    /// The output layers of one task.
    #[must_use]
    pub fn head(task: &TaskKey) -> Self {
        Self(format!("head/{task}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_would_need_quoting_are_refused() {
        for bad in [
            "",
            "Upper",
            "with space",
            "../up",
            ".hidden",
            "a/b",
            &"x".repeat(65),
        ] {
            assert!(SiteId::new(bad).is_err(), "{bad:?} was accepted");
        }
        assert!(SiteId::new("xray-a.2").is_ok());
    }

    #[test]
    fn a_group_is_the_trunk_or_belongs_to_somebody() {
        for good in ["trunk", "stem/cxr2d.v1", "head/binary.v1"] {
            assert!(GroupName::new(good).is_ok(), "{good:?} was refused");
        }
        for bad in ["stem", "stem/", "trunk/x", "lossw/a", "stem/a/b"] {
            assert!(GroupName::new(bad).is_err(), "{bad:?} was accepted");
        }
    }
}
