//! The log as a file, and the check of such a file without a server.

mod stated;

use std::io;

use consilium_certs::{TrustAnchor, fingerprint};
use consilium_core::Digest;
use consilium_store::server::{ServerStore, ServerStoreError};
use consilium_transparency::{
    Audited, Finding, Head, Line, Signed, UnreadableExport, check, leaf_hash, read_export,
    write_line,
};

pub use stated::{Stated, stated};

/// Writes the log of `store`: everything that the offline check needs.
///
/// # Errors
/// What the store or the writer says.
pub async fn export(
    store: &ServerStore,
    anchor: &TrustAnchor,
    out: &mut impl io::Write,
) -> Result<u64, ExportError> {
    // In this order: a server may be going on, and each of these needs those after it.
    let witnesses = store.witnesses().await?;
    let heads = store.log_heads().await?;
    let covered = heads.iter().filter_map(Signed::says::<Head>);
    let covered = covered.map(|head| head.size).max().unwrap_or(0);
    let entries = store.log_from(0).await?;
    let first = Line::Export {
        schema_version: Line::VERSION,
        site: None,
    };
    write_line(out, &first)?;
    for certificate in anchor.certificates() {
        let certificate = certificate.to_vec();
        write_line(out, &Line::Authority { certificate })?;
    }
    for (index, bytes) in (0..covered).zip(entries) {
        let leaf = leaf_hash(&bytes);
        let entry = String::from_utf8(bytes).map_err(io::Error::other)?;
        write_line(out, &Line::Entry { index, leaf, entry })?;
    }
    for signed in heads {
        write_line(out, &Line::Head { signed })?;
    }
    for signed in witnesses {
        write_line(out, &Line::Witnessed { signed })?;
    }
    Ok(covered)
}

/// Why a log is not written out.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExportError {
    /// The database.
    #[error(transparent)]
    Store(#[from] ServerStoreError),
    /// The file.
    #[error(transparent)]
    Write(#[from] io::Error),
}

/// Why an export is not good.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NotVerified {
    /// It is no export.
    #[error(transparent)]
    Unreadable(#[from] UnreadableExport),
    /// It is of another consortium.
    #[error("the authority in the export does not have the fingerprint {0}")]
    OtherAuthority(Digest),
    /// The log is not what it should be.
    #[error(transparent)]
    Found(#[from] Finding),
}

impl NotVerified {
    /// Stable code for logs, replies and documents.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Unreadable(_) => "export_unreadable",
            Self::OtherAuthority(_) => "log_other_authority",
            Self::Found(finding) => finding.code,
        }
    }
}

/// Checks an export of a server, and exports of sites beside it, with nothing but the fingerprint of the authority.
///
/// # Errors
/// [`NotVerified`].
pub fn verify(server: &str, sites: &[String], authority: &Digest) -> Result<Audited, NotVerified> {
    let server = read_export(server)?;
    let sites: Vec<_> = sites
        .iter()
        .map(|text| read_export(text))
        .collect::<Result<_, _>>()?;
    let trusted = server.iter().find_map(|line| match line {
        Line::Authority { certificate } if fingerprint(certificate) == *authority => {
            TrustAnchor::of_der(certificate).ok()
        }
        _ => None,
    });
    let anchor = trusted.ok_or(NotVerified::OtherAuthority(*authority))?;
    Ok(check(&server, &sites, &anchor)?)
}
