//! Requests for certificates: what waits, and what the operator decides.

use std::path::Path;

use consilium_certs::{
    Authority, CERTIFICATE_DAYS, CertificateError, Issued, Revocations, SigningRequest, Validity,
    write_public,
};
use consilium_core::clock::Timestamp;
use consilium_ops::{Format, OperatorError, output};
use serde::Serialize;

use super::authority::Shown as Certificate;
use super::{AuthorityFolder, Which, unacceptable};
use crate::config::ServerConfig;
use crate::enrolment::{Desk, Kind, Record, State};

/// A request, as an operator decides on it.
#[derive(Serialize)]
struct Shown {
    /// By which the server calls it; none for a file.
    #[serde(skip_serializing_if = "Option::is_none")]
    request: Option<String>,
    kind: &'static str,
    site: String,
    role: &'static str,
    key: String,
    spoken: String,
    valid_days: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    received: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    from: Option<String>,
    state: String,
}

impl Shown {
    fn file(request: &SigningRequest) -> Self {
        Self {
            request: None,
            kind: "enrolment",
            site: request.site.to_string(),
            role: request.role.as_str(),
            key: request.fingerprint().to_string(),
            spoken: request.fingerprint().spoken(),
            valid_days: CERTIFICATE_DAYS,
            received: None,
            from: None,
            state: "waiting".into(),
        }
    }

    fn record(record: &Record) -> Self {
        Self {
            request: Some(record.id.clone()),
            kind: match record.kind {
                Kind::Enrolment => "enrolment",
                Kind::Renewal { .. } => "renewal",
            },
            received: Some(date(record.received)),
            from: Some(record.from.clone()),
            state: match &record.state {
                State::Waiting => "waiting".into(),
                State::Approved(_) => "approved".into(),
                State::Rejected(reason) => format!("rejected: {reason}"),
            },
            ..Self::file(&record.request)
        }
    }

    fn text(&self) -> String {
        let compare = match self.kind {
            "renewal" => "the present certificate vouches for this request",
            _ => "compare the key's fingerprint with the site before you approve",
        };
        let mut text = format!(
            "{} of {} as {}, for {} days: {}\n  key {}\n",
            self.kind, self.site, self.role, self.valid_days, self.state, self.spoken
        );
        if let (Some(request), Some(received), Some(from)) =
            (&self.request, &self.received, &self.from)
        {
            text.push_str(&format!(
                "  request {request}\n  received {received} from {from}\n"
            ));
        }
        if self.state == "waiting" {
            text.push_str(&format!("  {compare}\n"));
        }
        text
    }
}

fn date(at: Timestamp) -> String {
    consilium_certs::date(i64::try_from(at.0 / 1000).unwrap_or(i64::MAX))
}

fn desk(config: &Path) -> Result<Desk, OperatorError> {
    Desk::open(&ServerConfig::read(config)?.state)
}

pub(super) fn list(config: &Path, format: Format) -> Result<(), OperatorError> {
    let waiting = desk(config)?.waiting()?;
    let shown: Vec<_> = waiting.iter().map(Shown::record).collect();
    output::print(format, &shown, |shown| match &shown[..] {
        [] => "no request waits".into(),
        shown => shown.iter().map(Shown::text).collect(),
    });
    Ok(())
}

/// A request, and the desk where it lies unless it is a file.
enum Found {
    Filed(SigningRequest),
    Held(Desk, Box<Record>),
}

impl Found {
    fn which(which: &Which) -> Result<Self, OperatorError> {
        match which {
            Which {
                file: Some(path), ..
            } => SigningRequest::open(path)
                .map(Self::Filed)
                .map_err(|error| unacceptable(error).at(path.display())),
            Which {
                name: Some(name),
                config: Some(config),
                ..
            } => {
                let desk = desk(config)?;
                let record = desk.find(name)?;
                Ok(Self::Held(desk, Box::new(record)))
            }
            _ => Err(OperatorError::new(
                consilium_ops::ExitCode::Usage,
                "usage",
                "no request is named",
                "write REQUEST with --config FILE, or --request FILE",
            )),
        }
    }

    fn request(&self) -> &SigningRequest {
        match self {
            Self::Filed(request) => request,
            Self::Held(_, record) => &record.request,
        }
    }

    fn shown(&self) -> Shown {
        match self {
            Self::Filed(request) => Shown::file(request),
            Self::Held(_, record) => Shown::record(record),
        }
    }
}

pub(super) fn show(which: &Which, out: Option<&Path>, format: Format) -> Result<(), OperatorError> {
    let found = Found::which(which)?;
    if let Some(out) = out {
        write_public(out, &found.request().pem()).map_err(unacceptable)?;
    }
    output::print(format, &found.shown(), Shown::text);
    Ok(())
}

pub(super) fn approve(
    which: &Which,
    folder: &AuthorityFolder,
    out: Option<&Path>,
    format: Format,
) -> Result<(), OperatorError> {
    let found = Found::which(which)?;
    // Before anybody types a passphrase, or a certificate is signed that has nowhere to go.
    eprint!("{}", found.shown().text());
    match (&found, out) {
        (Found::Held(desk, record), _) => desk.still_waits(record)?,
        (Found::Filed(_), None) => {
            return Err(OperatorError::new(
                consilium_ops::ExitCode::Usage,
                "usage",
                "the certificate has nowhere to go",
                "add --out FILE",
            ));
        }
        (Found::Filed(_), Some(out)) if out.exists() => {
            let exists = std::io::ErrorKind::AlreadyExists.into();
            return Err(OperatorError::file(out, &exists));
        }
        (Found::Filed(_), Some(_)) => {}
    }
    let authority = folder.open()?;
    if let Found::Held(_, record) = &found
        && let Some(revoked) = revoked(&authority, record)?
    {
        return Err(unacceptable(revoked));
    }
    let issued = authority
        .approve(found.request(), Validity::days(CERTIFICATE_DAYS))
        .map_err(unacceptable)?;
    match (&found, out) {
        (Found::Held(desk, record), _) => desk.approve(record, &issued.chain)?,
        (Found::Filed(_), out) => {
            let out = out.unwrap_or(Path::new("certificate.pem"));
            write_public(out, &issued.chain).map_err(unacceptable)?;
        }
    }
    signed(&[issued], format);
    Ok(())
}

pub(super) fn approve_renewals(
    which: &Which,
    folder: &AuthorityFolder,
    format: Format,
) -> Result<(), OperatorError> {
    let config = which.config.as_deref().ok_or_else(|| {
        OperatorError::new(
            consilium_ops::ExitCode::Usage,
            "usage",
            "whose renewals is not said",
            "add --config FILE",
        )
    })?;
    let desk = desk(config)?;
    let mut waiting = desk.waiting()?;
    waiting.retain(|record| matches!(record.kind, Kind::Renewal { .. }));
    let mut all = Vec::new();
    if !waiting.is_empty() {
        let authority = folder.open()?;
        for record in &waiting {
            if let Some(revoked) = revoked(&authority, record)? {
                desk.reject(record, &revoked.to_string())?;
                continue;
            }
            let issued = authority
                .approve(&record.request, Validity::days(CERTIFICATE_DAYS))
                .map_err(unacceptable)?;
            desk.approve(record, &issued.chain)?;
            all.push(issued);
        }
    }
    signed(&all, format);
    Ok(())
}

/// Why the present certificate does not vouch for its renewal any more: the next one would give back what was taken.
fn revoked(
    authority: &Authority,
    record: &Record,
) -> Result<Option<CertificateError>, OperatorError> {
    let Kind::Renewal { of } = &record.kind else {
        return Ok(None);
    };
    let list = authority.revocations().map_err(unacceptable)?;
    Ok(list.revoked.get(of).map(|since| CertificateError::Revoked {
        name: record.request.site.to_string(),
        serial: of.clone(),
        since: consilium_certs::date(*since),
    }))
}

fn signed(issued: &[Issued], format: Format) {
    let none = Revocations::default();
    let shown: Vec<_> = issued
        .iter()
        .map(|issued| Certificate::of(&issued.peer, &none))
        .collect();
    output::print(format, &shown, |shown| match &shown[..] {
        [] => "no renewal waits".into(),
        shown => shown.iter().map(Certificate::line).collect(),
    });
}

pub(super) fn reject(
    name: &str,
    config: &Path,
    reason: &str,
    format: Format,
) -> Result<(), OperatorError> {
    let desk = desk(config)?;
    let record = desk.find(name)?;
    desk.reject(&record, reason)?;
    let record = desk.find(&record.id)?;
    output::print(format, &Shown::record(&record), Shown::text);
    Ok(())
}
