//! Who was let in and out, in the log.
//!
//! Requests, their answers and the list of revoked certificates are files, written by the server and by the operator's
//! commands. What they say is compared with the log again and again: what was decided while the server did not run is
//! noted when it runs again, and nothing twice.

use std::sync::Arc;
use std::time::Duration;

use consilium_certs::Revocations;
use consilium_core::Digest;
use consilium_core::clock::Timestamp;
use consilium_transparency::Event;
use tokio::sync::watch;

use crate::consortium::Consortium;
use crate::enrolment::{Desk, State};

/// How often.
const INTERVAL: Duration = Duration::from_secs(2);

/// Notes what changes, until the server stops.
pub async fn watch(
    consortium: Arc<Consortium>,
    desk: Arc<Desk>,
    revocations: watch::Receiver<Arc<Revocations>>,
    mut stopping: watch::Receiver<bool>,
) {
    let mut before = Vec::new();
    loop {
        let (desk, list) = (Arc::clone(&desk), Arc::clone(&revocations.borrow()));
        let now = tokio::task::spawn_blocking(move || events(&desk, &list)).await;
        if let Ok(now) = now
            && now != before
        {
            match consortium.log().note_members(now.clone()).await {
                Ok(()) => before = now,
                Err(error) => {
                    tracing::error!(%error, error.code = error.code(), "membership not noted in the log");
                }
            }
        }
        tokio::select! {
            () = tokio::time::sleep(INTERVAL) => {}
            _ = stopping.wait_for(|stop| *stop) => return,
        }
    }
}

/// Everything that requests and list say.
fn events(desk: &Desk, list: &Revocations) -> Vec<Event> {
    let mut events = Vec::new();
    let records = desk.records().unwrap_or_else(|error| {
        tracing::warn!(%error, error.code = error.code(), "requests not read");
        Vec::new()
    });
    for record in records {
        let site = record.request.site.clone();
        events.push(Event::EnrolmentRequested {
            site: site.clone(),
            request: Digest::of(record.request.pem().as_bytes()),
        });
        if let State::Approved(certificate) = record.state {
            events.push(Event::EnrolmentApproved {
                site,
                certificate: Digest::of(&certificate),
            });
        }
    }
    events.extend(list.revoked.iter().map(|(serial, since)| {
        let since = Timestamp(
            u64::try_from(*since)
                .unwrap_or_default()
                .saturating_mul(1000),
        );
        let serial = serial.clone();
        Event::CertificateRevoked { serial, since }
    }));
    events
}
