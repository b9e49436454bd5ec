//! The log of the real server: what is in it, what sites are shown, and every way to rewrite it.

#[path = "../consortium/mod.rs"]
mod consortium;

mod attacks;
mod readers;
mod written;

use consilium_certs::{Signer, TrustAnchor, fingerprint};
use consilium_core::Digest;
use consilium_core::clock::Clock as _;
use consilium_proto::{
    Attempt, AwaitAssignmentRequest, ReadLogRequest, WitnessLogRequest, digest_to_wire,
    signed_to_wire, view_from_wire,
};
use consilium_server::audit::{NotVerified, export, verify};
use consilium_store::server::ServerStore;
use consilium_transparency::{
    Audited, Entry, Event, Expected, Head, Line, Signed, Statement, Tree, View, Wanted, Witnessed,
    leaf_hash, read_export, write_line,
};
use consortium::{Consortium, study};
use tonic::Status;

/// Signs a statement as a site does.
pub(crate) fn sign<T: Statement>(signer: &Signer, statement: &T) -> Signed {
    signer.state(statement).unwrap()
}

/// A site that keeps what a site must, without the rest of an agent.
pub(crate) struct Reader {
    pub(crate) name: &'static str,
    pub(crate) own: Vec<Entry>,
    pub(crate) heads: Vec<Signed>,
    pub(crate) witnessed: Vec<Signed>,
}

impl Reader {
    pub(crate) fn new(name: &'static str) -> Self {
        Self {
            name,
            own: Vec::new(),
            heads: Vec::new(),
            witnessed: Vec::new(),
        }
    }

    fn seen(&self) -> Option<Head> {
        self.heads.last().and_then(|signed| signed.says())
    }

    /// Accepts the study.
    pub(crate) async fn accept(&self, consortium: &Consortium) {
        let request = AwaitAssignmentRequest {
            study: digest_to_wire(&consortium.study.digest()),
            ..AwaitAssignmentRequest::default()
        };
        let mut client = consortium.site(self.name).await;
        client.await_assignment(request).await.unwrap();
    }

    /// What the server shows, with good signatures.
    pub(crate) async fn view(&self, consortium: &Consortium, updates: &[(u32, u32)]) -> View {
        self.view_after(consortium, updates, 0).await
    }

    /// The same with the entries of a committed round.
    pub(crate) async fn view_after(
        &self,
        consortium: &Consortium,
        updates: &[(u32, u32)],
        committed: u32,
    ) -> View {
        let request = ReadLogRequest {
            study: digest_to_wire(&consortium.study.digest()),
            seen: self.seen().map_or(0, |head| head.size),
            updates: updates
                .iter()
                .map(|(round, attempt)| Attempt {
                    round: *round,
                    attempt: *attempt,
                })
                .collect(),
            committed,
        };
        let mut client = consortium.site(self.name).await;
        let reply = client.read_log(request).await.unwrap();
        let view = view_from_wire(&reply.into_inner()).unwrap();
        view.check_signatures(&anchor(consortium)).unwrap();
        view
    }

    /// Reads, judges, keeps and counter-signs, as an agent does.
    pub(crate) async fn witness(&mut self, consortium: &Consortium, wanted: &[Wanted]) -> Vec<u64> {
        let updates: Vec<_> = wanted.iter().map(|w| (w.round, w.attempt)).collect();
        let view = self.view(consortium, &updates).await;
        let (head, found) = view.judge(self.seen().as_ref(), wanted, None).unwrap();
        self.heads.push(view.head);
        self.own.push(Entry {
            at: consortium.clock.now(),
            event: Event::HeadSeen {
                study: consortium.study.name.clone(),
                log: head.log,
                size: head.size,
                root: head.root,
            },
        });
        let own: Tree = self.own.iter().map(|e| leaf_hash(&e.bytes())).collect();
        let seen = Witnessed {
            site: self.name.parse().unwrap(),
            head,
            own: (own.len(), own.root()),
            at: consortium.clock.now(),
        };
        let signer = Signer::of(&consortium.identity(self.name)).unwrap();
        let signed = sign(&signer, &seen);
        counter_sign(consortium, self.name, &signed).await.unwrap();
        self.witnessed.push(signed);
        found
    }

    /// What the site's own export would hold.
    pub(crate) fn export(&self) -> Vec<Line> {
        let mut lines = vec![Line::Export {
            schema_version: Line::VERSION,
            site: Some(self.name.parse().unwrap()),
        }];
        for (index, entry) in (0..).zip(&self.own) {
            lines.push(Line::Entry {
                index,
                leaf: leaf_hash(&entry.bytes()),
                entry: String::from_utf8(entry.bytes()).unwrap(),
            });
        }
        let signed = self.heads.iter().cloned();
        lines.extend(signed.map(|signed| Line::Head { signed }));
        let signed = self.witnessed.iter().cloned();
        lines.extend(signed.map(|signed| Line::Witnessed { signed }));
        lines
    }
}

/// Sends a counter-signature.
pub(crate) async fn counter_sign(
    consortium: &Consortium,
    site: &str,
    signed: &Signed,
) -> Result<(), Status> {
    let request = WitnessLogRequest {
        study: digest_to_wire(&consortium.study.digest()),
        witnessed: Some(signed_to_wire(signed)),
    };
    let mut client = consortium.site(site).await;
    client.witness_log(request).await.map(|_| ())
}

pub(crate) fn anchor(consortium: &Consortium) -> TrustAnchor {
    TrustAnchor::read(&consortium.certs().join("authority.pem")).unwrap()
}

pub(crate) fn authority(consortium: &Consortium) -> Digest {
    fingerprint(anchor(consortium).certificates().next().unwrap())
}

/// The server's log as the export holds it, with a head over all of it.
pub(crate) async fn lines(consortium: &Consortium) -> Vec<Line> {
    consortium
        .running()
        .consortium()
        .log()
        .head()
        .await
        .unwrap();
    let store = ServerStore::open(&consortium.folder.path().join("state"))
        .await
        .unwrap();
    let mut bytes = Vec::new();
    export(&store, &anchor(consortium), &mut bytes)
        .await
        .unwrap();
    read_export(std::str::from_utf8(&bytes).unwrap()).unwrap()
}

pub(crate) fn text(lines: &[Line]) -> String {
    let mut bytes = Vec::new();
    for line in lines {
        write_line(&mut bytes, line).unwrap();
    }
    String::from_utf8(bytes).unwrap()
}

/// What the offline check says of files with these lines.
pub(crate) fn verified(
    consortium: &Consortium,
    server: &[Line],
    sites: &[Vec<Line>],
) -> Result<Audited, NotVerified> {
    let sites: Vec<_> = sites.iter().map(|lines| text(lines)).collect();
    verify(&text(server), &sites, &authority(consortium))
}

/// Code, and the first entry that cannot be trusted.
pub(crate) fn refused(
    consortium: &Consortium,
    server: &[Line],
    sites: &[Vec<Line>],
) -> (&'static str, Option<u64>) {
    match verified(consortium, server, sites).unwrap_err() {
        NotVerified::Found(finding) => (finding.code, finding.entry),
        other => (other.code(), None),
    }
}

/// Two rounds of three sites, each of which has seen the log before and after the first.
pub(crate) async fn two_rounds() -> (Consortium, [Reader; 3]) {
    let consortium = Consortium::today(study()).await;
    let mut readers = ["a", "b", "c"].map(Reader::new);
    for reader in &mut readers {
        reader.accept(&consortium).await;
        reader.witness(&consortium, &[]).await;
    }
    first_round(&consortium).await;
    for reader in &mut readers {
        reader.witness(&consortium, &[]).await;
    }
    for (site, value) in [("a", 0.25), ("b", 0.5), ("c", 0.75)] {
        let mut messages = consortium.upload(site, value);
        consortium::header(&mut messages).round = 2;
        consortium.send(site, messages).await.unwrap();
    }
    consortium.until(|state| state.end().is_some()).await;
    (consortium, readers)
}

pub(crate) async fn first_round(consortium: &Consortium) {
    for site in ["a", "b", "c"] {
        consortium.give(site, 0.5).await.unwrap();
    }
    consortium
        .until(|state| state.committed_rounds() == 1)
        .await;
}
