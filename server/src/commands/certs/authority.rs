//! The authority itself: making it, its certificates, its list of revoked ones.

use std::path::{Path, PathBuf};

use consilium_certs::{Authority, CertificateError, Peer, Revocations, date, read_certificates};
use consilium_ops::{Format, OperatorError, output};
use serde::Serialize;

use super::{AuthorityFolder, ask, unacceptable};

#[derive(Serialize)]
struct Made {
    fingerprint: String,
    certificate: PathBuf,
}

pub(super) fn init(
    folder: &AuthorityFolder,
    consortium: &str,
    unencrypted: bool,
    format: Format,
) -> Result<(), OperatorError> {
    let authority = if unencrypted {
        eprintln!(
            "the authority's key is not encrypted: whoever reads {} can admit sites",
            folder.dir.display()
        );
        Authority::create_with_unencrypted_key(&folder.dir, consortium)
    } else {
        let passphrase = folder.passphrase("new passphrase of the authority")?;
        if folder.passphrase_file.is_none() {
            let again = ask("once more")?;
            if !passphrase.is(&again) {
                return Err(unacceptable(CertificateError::WrongPassphrase));
            }
        }
        Authority::create(&folder.dir, consortium, &passphrase)
    };
    let authority = authority.map_err(unacceptable)?;
    let made = Made {
        fingerprint: authority.fingerprint().to_string(),
        certificate: authority.certificate(),
    };
    output::print(format, &made, |made| {
        format!(
            "authority of {consortium}\n  fingerprint {}\ngive the fingerprint to every site; keep {} offline",
            made.fingerprint,
            folder.dir.join("authority.key").display()
        )
    });
    Ok(())
}

#[derive(Serialize)]
pub(super) struct Shown {
    name: String,
    role: String,
    serial: String,
    key: String,
    valid_from: String,
    valid_to: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    revoked: Option<String>,
}

impl Shown {
    pub(super) fn of(peer: &Peer, list: &Revocations) -> Self {
        Self {
            name: peer.name.clone(),
            role: peer.role.clone(),
            serial: peer.serial.clone(),
            key: peer.key.to_string(),
            valid_from: date(peer.from),
            valid_to: date(peer.to),
            revoked: list.revoked.get(&peer.serial).map(|since| date(*since)),
        }
    }

    pub(super) fn line(&self) -> String {
        let revoked = match &self.revoked {
            Some(since) => format!("; revoked {since}"),
            None => String::new(),
        };
        format!(
            "{} ({}): valid to {}{revoked}\n  serial {}\n  key    {}\n",
            self.name, self.role, self.valid_to, self.serial, self.key
        )
    }
}

pub(super) fn renew_server(
    folder: &AuthorityFolder,
    certificate: &Path,
    format: Format,
) -> Result<(), OperatorError> {
    let issued = folder.open()?.renew_server(certificate);
    let issued = issued.map_err(|error| unacceptable(error).at(certificate.display()))?;
    let shown = Shown::of(&issued.peer, &Revocations::default());
    output::print(format, &shown, Shown::line);
    Ok(())
}

pub(super) fn issued(dir: &Path, format: Format) -> Result<(), OperatorError> {
    let read = || {
        let root = dir.join("authority.pem");
        read_certificates(&root)?;
        let path = Revocations::beside(&root);
        let list = if path.exists() {
            Revocations::read(&path, &root)?
        } else {
            Revocations::default()
        };
        Ok((Authority::issued_in(dir)?, list))
    };
    let (issued, list) = read().map_err(unacceptable)?;
    let shown: Vec<_> = issued.iter().map(|peer| Shown::of(peer, &list)).collect();
    output::print(format, &shown, |shown| {
        shown.iter().map(Shown::line).collect()
    });
    Ok(())
}

pub(super) fn revoke(
    folder: &AuthorityFolder,
    target: &str,
    format: Format,
) -> Result<(), OperatorError> {
    let authority = folder.open()?;
    let revoked = authority.revoke(target).map_err(unacceptable)?;
    let list = authority.revocations().map_err(unacceptable)?;
    let shown: Vec<_> = revoked.iter().map(|peer| Shown::of(peer, &list)).collect();
    output::print(format, &shown, |shown| {
        let lines: String = shown.iter().map(Shown::line).collect();
        let file = authority.revocations_file();
        format!("{lines}list {} written to {}", list.number, file.display())
    });
    Ok(())
}

#[derive(Serialize)]
struct List {
    number: u64,
    next_due: String,
    revoked: Vec<String>,
    file: PathBuf,
}

pub(super) fn crl(folder: &AuthorityFolder, format: Format) -> Result<(), OperatorError> {
    let authority = folder.open()?;
    let list = authority.renew_revocations().map_err(unacceptable)?;
    let list = List {
        number: list.number,
        next_due: date(list.next),
        revoked: list.revoked.into_keys().collect(),
        file: authority.revocations_file(),
    };
    output::print(format, &list, |list| {
        format!(
            "list {}: {} revoked certificates, the next is due {}\n  {}",
            list.number,
            list.revoked.len(),
            list.next_due,
            list.file.display()
        )
    });
    Ok(())
}
