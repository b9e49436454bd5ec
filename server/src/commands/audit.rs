//! `consilium-server audit export` and `verify`: the log as a file, and whether such a file is good.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use consilium_certs::{Identity, Role, Signer, TrustAnchor, fingerprint};
use consilium_core::clock::SystemClock;
use consilium_core::{Digest, SiteId};
use consilium_ops::{ExitCode, Format, OperatorError, output};
use consilium_store::server::ServerStore;
use consilium_transparency::{Audited, SiteSummary};
use dp_rs::ledger::Moment;
use serde::Serialize;

use super::{runtime, stored};
use crate::audit::{self, ExportError, NotVerified, Stated};
use crate::config::ServerConfig;
use crate::log::Log;

#[derive(Serialize)]
struct Exported {
    /// The file.
    file: PathBuf,
    /// Entries in it.
    entries: u64,
    /// SHA-256 of each certificate of the authority, DER: what `audit verify` is told.
    fingerprints: Vec<Digest>,
}

/// Writes the log to `out`, which must not be there yet; the server may be running. A head over all entries is
/// signed first; where the server's certificate cannot sign any more, the file ends with the newest signed head.
///
/// # Errors
/// [`OperatorError`]: exit 3 for configuration and authority, `study_not_started`, `file_exists`, or a database or
/// disk that fails; then nothing is left behind.
pub fn export(config: &Path, out: &Path, format: Format) -> Result<(), OperatorError> {
    let config = ServerConfig::read(config)?;
    stored(&config)?;
    let identity = &config.identity;
    let anchor = TrustAnchor::read(&identity.authority).map_err(|error| {
        OperatorError::configuration(error.code(), error.to_string(), error.hint())
    })?;
    let signer = Identity::load(&identity.certificate, &identity.key, Role::Server)
        .and_then(|identity| Signer::of(&identity));
    let file = File::create_new(out).map_err(|error| OperatorError::file(out, &error))?;
    let mut file = BufWriter::new(file);
    let written = runtime()?.block_on(async {
        let store = ServerStore::open(&config.state).await?;
        match signer {
            Ok(signer) => {
                let (store, anchor) = (store.clone(), anchor.clone());
                let log = Log::open(store, signer, anchor, Arc::new(SystemClock)).await?;
                if let Err(error) = log.head().await {
                    tracing::warn!(%error, error.code = error.code(), "head not signed");
                }
            }
            Err(error) => {
                tracing::warn!(%error, error.code = error.code(), "head not signed");
            }
        }
        let entries = audit::export(&store, &anchor, &mut file).await?;
        file.flush()?;
        file.get_ref().sync_all()?;
        Ok(entries)
    });
    let entries = written.map_err(|error: ExportError| {
        // What stopped the writing is what the operator must know.
        let _ = std::fs::remove_file(out);
        match error {
            ExportError::Store(error) => {
                OperatorError::failed(error.code(), error.to_string(), error.hint())
            }
            ExportError::Write(error) => OperatorError::file(out, &error),
        }
    })?;
    let exported = Exported {
        file: out.to_owned(),
        entries,
        fingerprints: anchor.certificates().map(fingerprint).collect(),
    };
    output::print(format, &exported, |exported| {
        let mut text = format!(
            "{} entries in {}",
            exported.entries,
            exported.file.display()
        );
        for fingerprint in &exported.fingerprints {
            text.push_str(&format!("\nauthority {fingerprint}"));
        }
        text
    });
    Ok(())
}

#[derive(Serialize)]
struct Verified {
    #[serde(flatten)]
    audited: Audited,
    /// What every site has stated of the privacy of its updates, added up again.
    stated: BTreeMap<SiteId, Stated>,
}

/// Checks an export, and exports of sites beside it; needs neither a server nor its configuration.
///
/// # Errors
/// [`OperatorError`]: exit 5 for a log that is not what it should be, with the first entry that cannot be trusted
/// in the details; exit 1 for a file that cannot be read.
pub fn verify(
    file: &Path,
    sites: &[PathBuf],
    authority: &Digest,
    format: Format,
) -> Result<(), OperatorError> {
    let read = |path: &PathBuf| {
        std::fs::read_to_string(path).map_err(|error| OperatorError::file(path, &error))
    };
    let server = read(&file.to_owned())?;
    let sites = sites.iter().map(read).collect::<Result<Vec<_>, _>>()?;
    let audited =
        audit::verify(&server, &sites, authority).map_err(|error| refused(file, &error))?;
    let verified = Verified {
        stated: audit::stated(&audited),
        audited,
    };
    output::print(format, &verified, text);
    Ok(())
}

fn refused(file: &Path, error: &NotVerified) -> OperatorError {
    let (code, message) = (error.code(), error.to_string());
    let refused = match error {
        NotVerified::Unreadable(_) => OperatorError::failed(
            code,
            message,
            "give a file that `audit export` or `consilium-site log export` has written",
        ),
        NotVerified::OtherAuthority(_) => OperatorError::new(
            ExitCode::Refused,
            code,
            message,
            "compare the fingerprint with the one that the consortium has published; the file may be of another one",
        ),
        NotVerified::Found(finding) => OperatorError::new(
            ExitCode::Refused,
            code,
            message,
            "keep this file and ask the sites for what `consilium-site log export` writes: it says what each of \
             them was shown",
        )
        .with_details(finding),
    };
    refused.at(file.display())
}

fn text(verified: &Verified) -> String {
    let audited = &verified.audited;
    let study = audited.study.as_ref().map(ToString::to_string);
    let mut text = format!(
        "log of study {}: {} entries, none altered, removed, added or moved since they were signed\n",
        study.unwrap_or_default(),
        audited.entries,
    );
    if let Some((first, last)) = audited.period {
        let [first, last] = [first, last].map(|at| Moment::from_unix_milliseconds(at.0));
        text.push_str(&format!(
            "  from {first} to {last}, by the server's clock\n"
        ));
    }
    text.push_str(&format!(
        "  {} rounds with a new model, {} attempts without; privacy {}\n",
        audited.rounds, audited.failed_attempts, audited.privacy
    ));
    if let Some(model) = &audited.model {
        text.push_str(&format!("  newest released model {model}\n"));
    }
    text.push_str(&format!(
        "  {} heads signed by the server; sites have counter-signed the first {} entries\n",
        audited.heads, audited.witnessed
    ));
    let alone = audited.entries - audited.witnessed.min(audited.entries);
    if alone > 0 {
        text.push_str(&format!(
            "  for the last {alone} entries there is the server's word alone\n"
        ));
    }
    if audited.unreadable > 0 {
        text.push_str(&format!(
            "  {} entries are of kinds that this version does not know\n",
            audited.unreadable
        ));
    }
    if !audited.clock_went_back.is_empty() {
        text.push_str(&format!(
            "  entries dated before the one before them, so the server's clock was set back: {:?}\n",
            audited.clock_went_back
        ));
    }
    for (name, site) in &audited.sites {
        text.push_str(&about(name, site));
        if let Some(stated) = verified.stated.get(name) {
            text.push_str(&format!("  {stated}\n"));
        }
    }
    text
}

fn about(name: &SiteId, site: &SiteSummary) -> String {
    let accepted = if site.accepted {
        "accepted the study"
    } else {
        "has NOT accepted the study"
    };
    let mut text = format!(
        "site {name}: {accepted}; {} updates, {} of them used, {} refused; counter-signed {} entries",
        site.updates, site.used, site.refused, site.witnessed
    );
    if let Some(agreed) = site.agreed {
        text.push_str(&format!(
            "; agreed epsilon {} at delta {:e}",
            agreed.epsilon, agreed.delta
        ));
    }
    if let Some(ledger) = site.ledger {
        text.push_str(&format!("; privacy ledger of {} entries", ledger.length));
    }
    if let Some(code) = &site.withdrawn {
        text.push_str(&format!("; withdrawn: {code}"));
    }
    text.push('\n');
    text
}
