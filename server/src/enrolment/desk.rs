//! The folder of requests.
//!
//! `ID.json` is a request, `ID.pem` the certificate that answers it, `ID.rejected` the reason why there is none. The server
//! alone writes requests, the operator's commands alone answer them; every file appears whole or not at all, so that
//! neither waits for the other.

use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use consilium_certs::{SigningRequest, read_certificates, replace_public};
use consilium_core::clock::{Clock as _, SystemClock, Timestamp};
use consilium_ops::OperatorError;

use super::error::DeskError;
use super::record::{Kind, Record, State, Stored};

/// Most requests that wait at a time, those of unknown callers: who sends more keeps others from enrolling over the
/// network, and nobody from training or renewing.
pub const REQUESTS_WAITING: usize = 100;

/// New requests at once; afterwards one every [`PAUSE`].
const BURST: u32 = 20;

const PAUSE: Duration = Duration::from_secs(3);

/// How long an undecided request is kept.
const KEPT: Duration = Duration::from_secs(30 * 24 * 3600);

/// Where requests wait.
pub struct Desk {
    folder: PathBuf,
    new: Mutex<Allowance>,
}

impl Desk {
    /// The desk of the server with this state folder.
    ///
    /// # Errors
    /// [`OperatorError`] when its folder cannot be made.
    pub fn open(state: &Path) -> Result<Self, OperatorError> {
        let folder = state.join("requests");
        fs::create_dir_all(&folder).map_err(|error| OperatorError::file(&folder, &error))?;
        Ok(Self {
            folder,
            new: Mutex::new(Allowance::full(Instant::now())),
        })
    }

    /// Takes a request, or says what became of it when it had been taken before.
    ///
    /// # Errors
    /// [`DeskError`].
    pub fn ask(
        &self,
        kind: Kind,
        request: &SigningRequest,
        from: IpAddr,
    ) -> Result<State, DeskError> {
        let id = kind.id(request);
        // One at a time: the number of those that wait is counted before another is added.
        let mut new = self.new.lock().unwrap_or_else(PoisonError::into_inner);
        if self.file(&id, "json").exists() {
            return self.state(&id);
        }
        // Who renews has shown a certificate and is one of few.
        if kind == Kind::Enrolment {
            if !new.take(Instant::now()) {
                return Err(DeskError::TooFast);
            }
            self.make_room()?;
        }
        let stored = Stored {
            kind,
            received: SystemClock.now(),
            from: from.to_string(),
            request: request.pem(),
        };
        // Cannot fail: plain text and numbers.
        let text = serde_json::to_string(&stored).expect("a request serialises");
        replace_public(&self.file(&id, "json"), &text)?;
        drop(new);
        tracing::warn!(
            site = %request.site,
            role = %request.role,
            request = id,
            key = %request.fingerprint(),
            %from,
            kind = match stored.kind { Kind::Enrolment => "enrolment", Kind::Renewal { .. } => "renewal" },
            "request for a certificate waits: `consilium-server certs requests`"
        );
        Ok(State::Waiting)
    }

    /// Every request that has not been decided, in the order in which they came.
    ///
    /// # Errors
    /// [`DeskError::File`].
    pub fn waiting(&self) -> Result<Vec<Record>, DeskError> {
        let mut waiting = self.records()?;
        waiting.retain(|record| record.state == State::Waiting);
        Ok(waiting)
    }

    /// The request whose name begins so, or the waiting one of that site.
    ///
    /// # Errors
    /// [`DeskError::Unknown`], [`DeskError::Ambiguous`].
    pub fn find(&self, name: &str) -> Result<Record, DeskError> {
        let digits: String = name
            .chars()
            .filter(|c| !c.is_whitespace() && *c != ':')
            .collect::<String>()
            .to_ascii_lowercase();
        let mut found = self.records()?;
        found.retain(|record| {
            let is_named = digits.len() >= 8 && record.id.starts_with(&digits);
            is_named || record.request.site.as_str() == name && record.state == State::Waiting
        });
        match &found[..] {
            [] => Err(DeskError::Unknown(name.to_owned())),
            [_] => Ok(found.swap_remove(0)),
            [first, second, ..] => Err(DeskError::Ambiguous {
                name: name.to_owned(),
                first: first.id.clone(),
                second: second.id.clone(),
            }),
        }
    }

    /// Answers a request that waits with a certificate, given as PEM text.
    ///
    /// # Errors
    /// [`DeskError::Decided`], [`DeskError::File`].
    pub fn approve(&self, record: &Record, certificate: &str) -> Result<(), DeskError> {
        self.still_waits(record)?;
        Ok(replace_public(&self.file(&record.id, "pem"), certificate)?)
    }

    /// Answers a request that waits with a reason why there will be no certificate.
    ///
    /// # Errors
    /// [`DeskError::Decided`], [`DeskError::File`].
    pub fn reject(&self, record: &Record, reason: &str) -> Result<(), DeskError> {
        self.still_waits(record)?;
        Ok(replace_public(&self.file(&record.id, "rejected"), reason)?)
    }

    /// Refuses to decide twice.
    ///
    /// # Errors
    /// [`DeskError::Decided`], [`DeskError::File`].
    pub fn still_waits(&self, record: &Record) -> Result<(), DeskError> {
        match self.state(&record.id)? {
            State::Waiting => Ok(()),
            State::Approved(_) => Err(DeskError::Decided("approved")),
            State::Rejected(_) => Err(DeskError::Decided("rejected")),
        }
    }

    /// Every request, in the order in which they came.
    ///
    /// # Errors
    /// [`DeskError::File`].
    pub fn records(&self) -> Result<Vec<Record>, DeskError> {
        let mut records = Vec::new();
        for path in self.requests()? {
            match self.record(&path) {
                Ok(record) => records.push(record),
                // Removed meanwhile, or damaged: the others are still to be seen.
                Err(error) => tracing::warn!(file = %path.display(), %error, "request not read"),
            }
        }
        records.sort_by(|a, b| (a.received, &a.id).cmp(&(b.received, &b.id)));
        Ok(records)
    }

    fn record(&self, path: &Path) -> Result<Record, DeskError> {
        let text = fs::read(path).map_err(|error| failed(path, error))?;
        let stored: Stored =
            serde_json::from_slice(&text).map_err(|error| failed(path, io::Error::other(error)))?;
        let request = SigningRequest::from_pem(stored.request.as_bytes())?;
        let id = stored.kind.id(&request);
        Ok(Record {
            state: self.state(&id)?,
            id,
            kind: stored.kind,
            received: stored.received,
            from: stored.from,
            request,
        })
    }

    fn state(&self, id: &str) -> Result<State, DeskError> {
        let certificate = self.file(id, "pem");
        if certificate.exists() {
            let certificate = read_certificates(&certificate)?.swap_remove(0);
            return Ok(State::Approved(certificate.to_vec()));
        }
        let reason = self.file(id, "rejected");
        match fs::read_to_string(&reason) {
            Ok(text) => Ok(State::Rejected(text)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(State::Waiting),
            Err(error) => Err(failed(&reason, error)),
        }
    }

    /// Refuses when as many wait as may; forgets those that nobody has decided for long.
    fn make_room(&self) -> Result<(), DeskError> {
        let waiting = self.waiting()?.into_iter();
        let enrolments: Vec<_> = waiting
            .filter(|record| record.kind == Kind::Enrolment)
            .collect();
        if enrolments.len() < REQUESTS_WAITING {
            return Ok(());
        }
        let kept_from = Timestamp(SystemClock.now().0.saturating_sub(KEPT.as_millis() as u64));
        let old: Vec<_> = enrolments
            .iter()
            .filter(|record| record.received < kept_from)
            .collect();
        for record in &old {
            let path = self.file(&record.id, "json");
            fs::remove_file(&path).map_err(|error| failed(&path, error))?;
        }
        if old.is_empty() {
            return Err(DeskError::Full);
        }
        Ok(())
    }

    fn requests(&self) -> Result<Vec<PathBuf>, DeskError> {
        let entries = fs::read_dir(&self.folder).map_err(|error| failed(&self.folder, error))?;
        let mut paths = Vec::new();
        for entry in entries {
            let path = entry.map_err(|error| failed(&self.folder, error))?.path();
            if path.extension().is_some_and(|kind| kind == "json") {
                paths.push(path);
            }
        }
        Ok(paths)
    }

    fn file(&self, id: &str, kind: &str) -> PathBuf {
        self.folder.join(format!("{id}.{kind}"))
    }
}

fn failed(path: &Path, error: io::Error) -> DeskError {
    DeskError::File {
        path: path.to_owned(),
        error,
    }
}

/// How many new requests may come: [`BURST`] at once, then one each [`PAUSE`].
struct Allowance {
    left: u32,
    since: Instant,
}

impl Allowance {
    fn full(now: Instant) -> Self {
        Self {
            left: BURST,
            since: now,
        }
    }

    fn take(&mut self, now: Instant) -> bool {
        let earned = now.saturating_duration_since(self.since).as_secs() / PAUSE.as_secs();
        if earned > 0 {
            self.left = BURST.min(
                self.left
                    .saturating_add(u32::try_from(earned).unwrap_or(BURST)),
            );
            self.since += PAUSE * u32::try_from(earned).unwrap_or(BURST);
        }
        let may = self.left > 0;
        self.left = self.left.saturating_sub(1);
        may
    }
}

#[cfg(test)]
mod tests;
